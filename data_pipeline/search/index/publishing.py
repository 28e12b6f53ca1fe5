"""The last step of indexing: a new state of the index beside the old one, then the switch."""

import json
import shutil
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from tqdm.auto import tqdm

import modeling_bdam

from ..embedder import Embedder
from ..stores.faiss_store import EXACT_UP_TO, FaissStore
from ..stores.store import IndexType
from .manifest import MANIFEST, Manifest, write_manifest
from .opened import TABLE, OpenedIndex
from .shards import Key, Shards, keys_of
from .sources import EXPORTED, GallerySource

UNREADABLE = "unreadable.json"
_COLLECTION = "collection"  # file that names a collection while it is being made
_CHUNK = 16384  # rows


@dataclass(frozen=True)
class Published:
    """The new state of an index, and how it came about; see `IndexReport`."""

    manifest: Manifest
    embedded: int
    removed: int
    unreadable: list[tuple[str, str]]
    wide: int


class _Vectors:
    """The vectors of the last state and of all shards, by the key of their image."""

    def __init__(self, last: OpenedIndex | None, shards: Shards) -> None:
        self.last = last
        self.old: dict[Key, int] = {}
        if last is not None:
            self.old = {key: row for row, key in enumerate(keys_of(last.table))}
        self.new: dict[Key, tuple[int, int]] = {}  # part and row in it
        self.reasons: dict[Key, str] = {}
        self.wide: set[Key] = set()
        self._parts: list[np.ndarray] = []
        for table in shards.read():
            vectors = table["vector"].combine_chunks()
            self._parts.append(vectors.flatten().to_numpy().reshape(len(table), -1))
            rows = zip(keys_of(table), table["reason"].to_pylist(), table["wide"].to_pylist(), strict=True)
            for row, (key, reason, wide) in enumerate(rows):
                if reason is not None:
                    self.reasons[key] = reason
                    continue
                self.new[key] = (len(self._parts) - 1, row)
                if wide:
                    self.wide.add(key)

    def __contains__(self, key: Key) -> bool:
        return key in self.old or key in self.new

    def chunks(self, keys: list[Key], dimensions: int) -> Iterator[np.ndarray]:
        """The vectors of `keys`, in order, float32 [at most _CHUNK, dimensions] at a time."""
        for start in range(0, len(keys), _CHUNK):
            part = keys[start : start + _CHUNK]
            chunk = np.empty((len(part), dimensions), dtype=np.float32)
            kept = [place for place, key in enumerate(part) if key in self.old]
            if self.last is not None and kept:
                chunk[kept] = self.last.store.vectors([self.old[part[place]] for place in kept])
            for place, key in enumerate(part):
                if key not in self.old:
                    number, row = self.new[key]
                    chunk[place] = self._parts[number][row]
            yield chunk


def publish(
    index: Path,
    source: GallerySource,
    embedder: Embedder,
    last: OpenedIndex | None,
    shards: Shards,
    index_type: IndexType | None,
    store: str | None,
    show_progress: bool,
) -> Published:
    """Writes a new state of the index, puts its manifest in the place of the old one and clears up.

    Raises:
        ValueError: no image could be read.
        OSError, RuntimeError: something cannot be written; the last state is untouched.
    """
    vectors = _Vectors(last, shards)
    keys = keys_of(source.table)
    rows = [row for row, key in enumerate(keys) if key in vectors]
    unreadable = [(key[0], vectors.reasons[key]) for key in keys if key in vectors.reasons]
    if not rows:
        raise ValueError(f"none of the {len(keys)} images can be read: {unreadable[0][0]}: {unreadable[0][1]}, ...")
    unreadable = sorted(unreadable + source.left_out)
    keys = [keys[row] for row in rows]
    table = _as_parquet(source.table.take(pa.array(rows)))
    old = None if last is None else last.manifest
    address = store or (old.store if old is not None else None)
    manifest = Manifest(
        package_version=modeling_bdam.__version__,
        model=embedder.name,
        weights=embedder.weights,
        config=embedder.config,
        dimensions=embedder.dimensions,
        clothing_weight=embedder.clothing_weight,
        count=len(keys),
        root=source.root,
        generation=_next_generation(old),
        index_type=index_type or _usual_type(old, len(keys)),
        store=address,
        collection=None if address is None else f"bdam_{uuid.uuid4().hex}",
    )
    if old is not None and table == (index / old.generation / TABLE).read_bytes():
        same = replace(manifest, generation=old.generation, collection=old.collection)
        manifest = same if same == old else manifest
    published = Published(
        manifest,
        embedded=sum(key not in vectors.old for key in keys),
        removed=len(vectors.old.keys() - set(keys)),
        unreadable=unreadable,
        wide=sum(key in vectors.wide for key in keys),
    )
    if manifest != old:
        chunks = tqdm(
            vectors.chunks(keys, embedder.dimensions),
            desc="writing the index",
            total=-(-len(keys) // _CHUNK),
            disable=not show_progress,
            leave=False,
        )
        _write_state(index, manifest, table, chunks, unreadable)
        write_manifest(index, manifest)
    _clear_up(index, manifest, old, {key[0] for key in keys})
    return published


def _as_parquet(table: pa.Table) -> bytes:
    """The table as a Parquet file: the same table gives the same bytes."""
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def _next_generation(old: Manifest | None) -> str:
    number = 0 if old is None else int(old.generation.split("-")[1])
    return f"generation-{number + 1:06d}"


def _usual_type(old: Manifest | None, count: int) -> IndexType:
    """What the index has been, unless it has outgrown that."""
    if old is not None and old.index_type != "exact":
        return old.index_type
    return "exact" if count <= EXACT_UP_TO else "hnsw"


def _write_state(
    index: Path, manifest: Manifest, table: bytes, chunks: Iterable[np.ndarray], unreadable: list[tuple[str, str]]
) -> None:
    """Writes all that the manifest will name; nothing is left of it if that fails."""
    folder = index / manifest.generation
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed here
    folder.mkdir()
    try:
        if manifest.store is None:
            FaissStore.write(folder, chunks, manifest.dimensions, manifest.index_type)
        else:
            from ..stores.milvus_store import MilvusStore

            assert manifest.collection is not None
            _drop_unfinished_collection(index)
            (index / _COLLECTION).write_text(json.dumps([manifest.store, manifest.collection]))
            MilvusStore.write(manifest.store, manifest.collection, chunks, manifest.dimensions, manifest.index_type)
        (folder / TABLE).write_bytes(table)
        (folder / UNREADABLE).write_text(json.dumps(unreadable, indent=1))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _drop_unfinished_collection(index: Path) -> None:
    """Removes the collection that a run was making when it was killed."""
    from ..stores.milvus_store import MilvusStore

    if (index / _COLLECTION).is_file():
        MilvusStore.drop(*json.loads((index / _COLLECTION).read_text()))


def _clear_up(index: Path, manifest: Manifest, old: Manifest | None, paths: set[str]) -> None:
    """Removes what the manifest does not name: earlier states, shards, images of its own that are gone."""
    (index / _COLLECTION).unlink(missing_ok=True)
    if old is not None and old.store is not None and old.collection not in (None, manifest.collection):
        from ..stores.milvus_store import MilvusStore

        MilvusStore.drop(old.store, old.collection)
    for entry in index.iterdir():
        if entry.is_dir() and is_part_of_an_index(entry.name) and entry.name not in (manifest.generation, EXPORTED):
            shutil.rmtree(entry)
    if (index / EXPORTED).is_dir():
        for file in (index / EXPORTED).iterdir():
            if manifest.root != EXPORTED or file.name not in paths:
                file.unlink()


def is_part_of_an_index(name: str) -> bool:
    """Whether a file or folder of that name is one that indexing makes."""
    return name in (MANIFEST, EXPORTED, _COLLECTION, ".lock") or name.startswith(
        ("generation-", "partial-", f".{MANIFEST}")
    )
