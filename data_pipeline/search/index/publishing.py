"""Publishes a generation of an index atomically: writes its files beside the old ones, then replaces the manifest."""

import json
import math
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from tqdm.auto import tqdm

import modeling_bdam

from ..embedder import Embedder
from ..query_encoder import FOLDER as QUERY_ENCODER
from ..query_encoder import write_query_encoder
from ..stores.faiss_store import EXACT_UP_TO, LEAST_RECALL, RECALL_RANK, FaissStore
from ..stores.store import IndexType
from .collections_file import COLLECTIONS, Collections
from .column_names import ASPECT, CONTENT, KEY_COLUMNS
from .manifest import MANIFEST, Manifest, write_manifest
from .opened import TABLE, OpenedIndex, is_copy
from .removals import check_removals, lost_images
from .report import IndexReport, count_shapes
from .reuse import rows_with_tokens
from .shards import SHARD_SIZE, Key, Shards, aspects_of, contents_of, keys_of
from .sources import EXPORTED, GallerySource
from .tokens_file import token_bytes, write_tokens

UNREADABLE = "unreadable.json"
LOCK = ".lock"
_CHUNK = 16384  # rows
_ARRAYS = ("vector", "tokens")  # columns of a shard


class _Vectors:
    """The vectors and tokens of the last generation and of all shards, by the key of their image."""

    def __init__(self, last: OpenedIndex | None, kept: dict[Key, int], shards: Shards) -> None:
        self.last = last
        self.old = kept  # row in the last generation
        contents = [] if last is None else contents_of(last.table)
        aspects = [] if last is None else aspects_of(last.table)
        self.contents = {key: contents[row] for key, row in kept.items()}
        self.aspects = {key: aspects[row] for key, row in kept.items()}
        self.new: dict[Key, tuple[int, int]] = {}  # shard, and row in it
        self.reasons: dict[Key, str] = {}
        self._shards: list[dict[str, np.ndarray]] = []
        for table in shards.read():
            arrays = {name: table[name].combine_chunks().flatten() for name in _ARRAYS if name in table.column_names}
            self._shards.append({name: array.to_numpy().reshape(len(table), -1) for name, array in arrays.items()})
            columns = (table["reason"].to_pylist(), contents_of(table), aspects_of(table))
            for row, (key, reason, content, aspect) in enumerate(zip(keys_of(table), *columns, strict=True)):
                if reason is not None:
                    self.reasons[key] = reason
                    continue
                self.new[key] = (len(self._shards) - 1, row)
                self.contents[key], self.aspects[key] = content, aspect

    def vectors(self, keys: list[Key], dimensions: int) -> Iterator[np.ndarray]:
        """Yields the vectors of `keys` in order, float32 [at most _CHUNK, dimensions] at a time."""
        read = None if self.last is None else self.last.store.vectors
        return self._chunks("vector", keys, _CHUNK, np.empty(dimensions, dtype=np.float32), read)

    def tokens(self, keys: list[Key], shape: tuple[int, ...]) -> Iterator[np.ndarray]:
        """Yields the tokens of `keys` in order, float16 [at most SHARD_SIZE, 2L * D] at a time; `shape` is [2L, D]."""
        old = None if self.last is None else self.last.tokens
        read = None if old is None else lambda rows: old[rows].reshape(len(rows), -1)
        return self._chunks("tokens", keys, SHARD_SIZE, np.empty(math.prod(shape), dtype=np.float16), read)

    def _chunks(
        self, column: str, keys: list[Key], size: int, like: np.ndarray, read: Callable[[list[int]], np.ndarray] | None
    ) -> Iterator[np.ndarray]:
        """Yields rows of the shape and type of `like`, from a column of the shards or from the last generation."""
        for start in range(0, len(keys), size):
            part = keys[start : start + size]
            chunk = np.empty((len(part), *like.shape), dtype=like.dtype)
            kept = [place for place, key in enumerate(part) if key in self.old]
            if read is not None and kept:
                chunk[kept] = read([self.old[part[place]] for place in kept])
            for place, key in enumerate(part):
                if key not in self.old:
                    shard, row = self.new[key]
                    chunk[place] = self._shards[shard][column][row]
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
    time_zone: str,
    may_remove: tuple[bool, bool],
    with_tokens: bool,
    show_progress: bool,
) -> IndexReport:
    """Writes a new generation, replaces the manifest and removes old files; an unchanged generation is kept.

    `may_remove` says whether the run may remove many images, and `is_known` of `check_removals`.

    Raises `ValueError` if all images are unreadable or too many would be removed, and `OSError` or `RuntimeError` if a
    file cannot be written; the last generation is then unchanged.
    """
    # Select the readable images
    reused = rows_with_tokens(last, kept) if with_tokens else kept
    vectors = _Vectors(last, reused, shards)
    keys = keys_of(source.table)
    rows = [row for row, key in enumerate(keys) if key in vectors.old or key in vectors.new]
    unreadable = [(key[0], vectors.reasons[key]) for key in keys if key in vectors.reasons]
    if not rows:
        raise ValueError(f"none of the {len(keys)} images can be read: {unreadable[0][0]}: {unreadable[0][1]}, ...")
    unreadable = sorted(unreadable + source.left_out)
    keys = [keys[row] for row in rows]
    lost = lost_images(index, last, source.root, [key[0] for key in keys], kept.values())
    if not may_remove[0]:
        check_removals(index, last, source.root, lost, may_remove[1])
    sink = pa.BufferOutputStream()
    internal = (CONTENT, ASPECT)
    stored = source.table.select([name for name in source.table.column_names if name not in internal])
    contents = [vectors.contents[key] for key in keys]
    aspects = np.array([vectors.aspects[key] for key in keys], dtype=np.float32)
    stored = stored.take(pa.array(rows)).add_column(len(KEY_COLUMNS), CONTENT, pa.array(contents, pa.string()))
    pyarrow.parquet.write_table(stored.add_column(len(KEY_COLUMNS), ASPECT, pa.array(aspects)), sink)
    table = sink.getvalue().to_pybytes()  # equal tables give equal bytes

    # Compose the manifest; keep the generation if table, model, index type, store and the presence of tokens are equal
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
        index_type=index_type or default_type(old, len(keys)),
        store=address,
        collection=None if address is None else f"bdam_{uuid.uuid4().hex}",
        time_zone=time_zone,
        home=None if address is None else os.path.realpath(index),
    )
    had_tokens = last is not None and last.tokens is not None
    if old is not None and had_tokens == with_tokens and table == (index / old.generation / TABLE).read_bytes():
        same = replace(manifest, generation=old.generation, collection=old.collection)
        manifest = same if same == old else manifest
    # Write the generation, then switch to it by the manifest
    notes = [*source.notes, *_equal_files(contents, [key[0] for key in keys])]
    collections = Collections(index)
    if manifest != old:
        bar = partial(tqdm, disable=None if show_progress else True, leave=False)
        chunks = bar(vectors.vectors(keys, embedder.dimensions), desc="writing vectors", total=-(-len(keys) // _CHUNK))
        tokens = None
        if with_tokens:
            parts = vectors.tokens(keys, embedder.token_shape)
            parts = bar(parts, desc="writing tokens", total=-(-len(keys) // SHARD_SIZE))
            tokens = partial(write_tokens, chunks=parts, shape=(len(keys), *embedder.token_shape))
        notes += _write_generation(index, manifest, table, chunks, tokens, unreadable, collections)
        write_manifest(index, manifest)
        collections.published(manifest, old, old is not None and is_copy(index, old))

    write_query_encoder(index, embedder)

    # Remove old generations, shards, exported images and collections
    _clean_up(index, manifest, {key[0] for key in keys})
    notes += collections.drop_old()
    return IndexReport(
        images=len(keys),
        embedded=sum(key not in vectors.old for key in keys),
        removed=0 if last is None else len(last.table) - len({kept[key] for key in keys if key in kept}),
        unreadable=unreadable,
        shapes=count_shapes(aspects),
        index_type=manifest.index_type,
        notes=notes,
        token_bytes=token_bytes(embedder.token_shape, len(keys)) if with_tokens else 0,
        lost=lost,
    )


def is_part_of_an_index(name: str) -> bool:
    """Whether indexing creates files or folders of that name."""
    prefixes = ("generation-", "partial-", f".{Path(MANIFEST).stem}.")
    return name in (MANIFEST, EXPORTED, COLLECTIONS, LOCK, QUERY_ENCODER) or name.startswith(prefixes)


def default_type(old: Manifest | None, count: int) -> IndexType:
    """Returns the type of the last generation; an exact index becomes approximate above `EXACT_UP_TO` images."""
    if old is not None and old.index_type != "exact":
        return old.index_type
    return "exact" if count <= EXACT_UP_TO else "hnsw"


def _write_generation(
    index: Path,
    manifest: Manifest,
    table: bytes,
    chunks: Iterable[np.ndarray],
    write_tokens: Callable[[Path], None] | None,
    unreadable: list[tuple[str, str]],
    collections: Collections,
) -> list[str]:
    """Writes all files of a generation and returns notes; removes them on an error."""
    notes = []
    folder = index / manifest.generation
    shutil.rmtree(folder, ignore_errors=True)  # left by a killed run
    folder.mkdir()
    try:
        if manifest.store is None:
            recall = FaissStore.write(folder, chunks, manifest.dimensions, manifest.index_type)
            if recall < LEAST_RECALL:
                notes.append(
                    f"the {manifest.index_type} index finds {recall:.0%} of the exact first {RECALL_RANK} hits of "
                    "sampled queries: searches may miss images; --index-type exact finds all"
                )
        else:
            from ..stores.milvus_store import MilvusStore

            assert manifest.collection is not None
            collections.begin(manifest.store, manifest.collection)
            MilvusStore.write(manifest.store, manifest.collection, chunks, manifest.dimensions, manifest.index_type)
        if write_tokens is not None:
            write_tokens(folder)
        (folder / TABLE).write_bytes(table)
        (folder / UNREADABLE).write_text(json.dumps(unreadable, indent=1))
        for file in folder.iterdir():  # on the disk before the manifest that names them
            with file.open("rb+") as written:
                os.fsync(written.fileno())
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return notes


def _equal_files(contents: list[str | None], paths: list[str]) -> list[str]:
    """Returns a note on files with equal contents, which a search shows as one hit."""
    counts = Counter(content for content in contents if content is not None)
    equal = sum(count - 1 for count in counts.values())
    if not equal:
        return []
    content = next(content for content in contents if content is not None and counts[content] > 1)
    first = [path for path, each in zip(paths, contents, strict=True) if each == content]
    return [f"{equal} files are copies of others, such as {first[1]} of {first[0]}: a search shows them as one hit"]


def _clean_up(index: Path, manifest: Manifest, paths: set[str]) -> None:
    """Removes the files that the manifest does not name: old generations, shards, exported images."""
    kept = (manifest.generation, EXPORTED, QUERY_ENCODER)
    for entry in index.iterdir():
        if entry.is_dir() and is_part_of_an_index(entry.name) and entry.name not in kept:
            shutil.rmtree(entry)
    if (index / EXPORTED).is_dir():
        for file in (index / EXPORTED).iterdir():
            if manifest.root != EXPORTED or file.name not in paths:
                file.unlink()
