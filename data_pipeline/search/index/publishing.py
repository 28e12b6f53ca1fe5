"""Publishes a generation of an index atomically: writes its files beside the old ones, then replaces the manifest."""

import json
import os
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
from .shards import Key, Shards, contents_of, keys_of
from .sources import CONTENT, EXPORTED, KEY_COLUMNS, GallerySource

UNREADABLE = "unreadable.json"
LOCK = ".lock"
_COLLECTION = "collection"  # file with the name of an unfinished Milvus collection
_CHUNK = 16384  # rows


@dataclass(frozen=True)
class IndexReport:
    """The outcome of an indexing run.

    Attributes:
        images: images in the index.
        embedded: images whose vectors are new in this generation.
        removed: images of the last generation that are deleted or changed.
        unreadable: paths that are not in the index, each with the reason.
        wide: embedded images that are wider than high, so probably whole frames and not crops of a person.
        index_type: `exact`, `hnsw` or `int8`.
        notes: notes on metadata and descriptions.
    """

    images: int
    embedded: int
    removed: int
    unreadable: list[tuple[str, str]]
    wide: int
    index_type: IndexType
    notes: list[str]


class _Vectors:
    """The vectors of the last generation and of all shards, by the key of their image."""

    def __init__(self, last: OpenedIndex | None, kept: dict[Key, int], shards: Shards) -> None:
        self.last = last
        self.old = kept  # row in the last generation
        contents = [] if last is None else contents_of(last.table)
        self.contents = {key: contents[row] for key, row in kept.items()}
        self.new: dict[Key, tuple[int, int]] = {}  # shard, and row in it
        self.reasons: dict[Key, str] = {}
        self.wide: set[Key] = set()
        self._shards: list[np.ndarray] = []
        for table in shards.read():
            vectors = table["vector"].combine_chunks()
            self._shards.append(vectors.flatten().to_numpy().reshape(len(table), -1))
            columns = (table["reason"].to_pylist(), contents_of(table), table["wide"].to_pylist())
            for row, (key, reason, content, wide) in enumerate(zip(keys_of(table), *columns, strict=True)):
                if reason is not None:
                    self.reasons[key] = reason
                    continue
                self.new[key] = (len(self._shards) - 1, row)
                self.contents[key] = content
                if wide:
                    self.wide.add(key)

    def chunks(self, keys: list[Key], dimensions: int) -> Iterator[np.ndarray]:
        """Yields the vectors of `keys` in order, float32 [at most _CHUNK, dimensions] at a time."""
        for start in range(0, len(keys), _CHUNK):
            part = keys[start : start + _CHUNK]
            chunk = np.empty((len(part), dimensions), dtype=np.float32)
            kept = [place for place, key in enumerate(part) if key in self.old]
            if self.last is not None and kept:
                chunk[kept] = self.last.store.vectors([self.old[part[place]] for place in kept])
            for place, key in enumerate(part):
                if key not in self.old:
                    shard, row = self.new[key]
                    chunk[place] = self._shards[shard][row]
            yield chunk


def publish(
    index: Path,
    source: GallerySource,
    embedder: Embedder,
    last: OpenedIndex | None,
    kept: dict[Key, int],
    shards: Shards,
    index_type: IndexType | None,
    store: str | None,
    show_progress: bool,
) -> IndexReport:
    """Writes a new generation, replaces the manifest and removes old files; an unchanged generation is kept.

    Raises `ValueError` if all images are unreadable, and `OSError` or `RuntimeError` if a file cannot be written; the
    last generation is then unchanged.
    """
    # Select the readable images
    vectors = _Vectors(last, kept, shards)
    keys = keys_of(source.table)
    rows = [row for row, key in enumerate(keys) if key in vectors.old or key in vectors.new]
    unreadable = [(key[0], vectors.reasons[key]) for key in keys if key in vectors.reasons]
    if not rows:
        raise ValueError(f"none of the {len(keys)} images can be read: {unreadable[0][0]}: {unreadable[0][1]}, ...")
    unreadable = sorted(unreadable + source.left_out)
    keys = [keys[row] for row in rows]
    sink = pa.BufferOutputStream()
    stored = source.table.select([name for name in source.table.column_names if name != CONTENT]).take(pa.array(rows))
    contents = pa.array([vectors.contents[key] for key in keys], pa.string())
    pyarrow.parquet.write_table(stored.add_column(len(KEY_COLUMNS), CONTENT, contents), sink)
    table = sink.getvalue().to_pybytes()  # equal tables give equal bytes

    # Compose the manifest; keep the generation if table, model, index type and store are equal
    old = None if last is None else last.manifest
    number = 0 if old is None else int(old.generation.split("-")[1])
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
        generation=f"generation-{number + 1:06d}",
        index_type=index_type or _default_type(old, len(keys)),
        store=address,
        collection=None if address is None else f"bdam_{uuid.uuid4().hex}",
    )
    if old is not None and table == (index / old.generation / TABLE).read_bytes():
        same = replace(manifest, generation=old.generation, collection=old.collection)
        manifest = same if same == old else manifest
    # Write the generation, then switch to it by the manifest
    if manifest != old:
        chunks = tqdm(
            vectors.chunks(keys, embedder.dimensions),
            desc="writing the index",
            total=-(-len(keys) // _CHUNK),
            disable=None if show_progress else True,
            leave=False,
        )
        _write_generation(index, manifest, table, chunks, unreadable)
        write_manifest(index, manifest)

    # Remove old generations, shards and exported images
    _clean_up(index, manifest, old, {key[0] for key in keys})
    return IndexReport(
        images=len(keys),
        embedded=sum(key not in vectors.old for key in keys),
        removed=0 if last is None else len(last.table) - len({vectors.old[key] for key in keys if key in vectors.old}),
        unreadable=unreadable,
        wide=sum(key in vectors.wide for key in keys),
        index_type=manifest.index_type,
        notes=source.notes,
    )


def is_part_of_an_index(name: str) -> bool:
    """Whether indexing creates files or folders of that name."""
    prefixes = ("generation-", "partial-", f".{Path(MANIFEST).stem}.")
    return name in (MANIFEST, EXPORTED, _COLLECTION, LOCK) or name.startswith(prefixes)


def _default_type(old: Manifest | None, count: int) -> IndexType:
    """Returns the type of the last generation; an exact index becomes approximate above `EXACT_UP_TO` images."""
    if old is not None and old.index_type != "exact":
        return old.index_type
    return "exact" if count <= EXACT_UP_TO else "hnsw"


def _write_generation(
    index: Path, manifest: Manifest, table: bytes, chunks: Iterable[np.ndarray], unreadable: list[tuple[str, str]]
) -> None:
    """Writes all files of a generation; removes them on an error."""
    folder = index / manifest.generation
    shutil.rmtree(folder, ignore_errors=True)  # left by a killed run
    folder.mkdir()
    try:
        if manifest.store is None:
            FaissStore.write(folder, chunks, manifest.dimensions, manifest.index_type)
        else:
            from ..stores.milvus_store import MilvusStore

            assert manifest.collection is not None
            marker = index / _COLLECTION
            if marker.is_file():  # left by a killed run
                MilvusStore.drop(*json.loads(marker.read_text()))
            MilvusStore.drop(manifest.store, manifest.collection)  # validates the address before the marker is written
            marker.write_text(json.dumps([manifest.store, manifest.collection]))
            MilvusStore.write(manifest.store, manifest.collection, chunks, manifest.dimensions, manifest.index_type)
        (folder / TABLE).write_bytes(table)
        (folder / UNREADABLE).write_text(json.dumps(unreadable, indent=1))
        for file in folder.iterdir():  # on the disk before the manifest that names them
            with file.open("rb+") as written:
                os.fsync(written.fileno())
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _clean_up(index: Path, manifest: Manifest, old: Manifest | None, paths: set[str]) -> None:
    """Removes all that the manifest does not name: old generations, shards, exported images, the old collection."""
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
