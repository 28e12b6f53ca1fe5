"""Builds and updates an index: embeds new images in shards, reuses unchanged vectors, publishes the new generation."""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from ..embedder import Embedder
from ..stores.store import IndexType
from .embedding import embed_batches
from .manifest import MANIFEST
from .opened import OpenedIndex, check_model, open_index
from .publishing import LOCK, default_type, is_part_of_an_index, publish
from .removals import check_removals, lost_images
from .report import IndexReport, count_shapes
from .reuse import reusable_rows, rows_with_tokens
from .shards import SHARD_SIZE, Key, Shards, aspects_of, keys_of
from .sources import GallerySource, images_in_folder, images_of_dataset, merged
from .tokens_file import token_bytes

if TYPE_CHECKING:
    from datasets import Dataset


def build_index(
    index: str | Path,
    images: "str | Path | Dataset | GallerySource",
    model: str | Path | Embedder,
    *,
    descriptions: str | Path | None = None,
    fuse_descriptions: bool = False,
    exclude: Sequence[str] = (),
    follow_links: bool = False,
    moved_from: str | Path | None = None,
    add: bool = False,
    allow_removals: bool = False,
    dry_run: bool = False,
    time_zone: str | None = None,
    index_type: IndexType | None = None,
    store: str | None = None,
    with_tokens: bool | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    device: str | None = None,
    show_progress: bool = True,
) -> IndexReport:
    """Builds or updates the index of a folder or of a data set.

    Only images with new contents are embedded, also if files were copied, renamed or moved; deleted images are
    removed. Searches use the last generation until the new one is published. An interrupted run resumes when it is
    started again. Under `accelerate launch` or `torchrun` the processes divide the images, and the result is the same.

    Args:
        index: folder of the index; created if it does not exist.
        images: a folder, with an optional `metadata.csv`, `.jsonl` or `.parquet`; a data set with the columns of
            `PERSON_FEATURES`; or listed images.
        model: folder, Hub name or loaded model.
        descriptions: JSON Lines file; fuses each image of a folder with its `identity_description`.
        fuse_descriptions: fuses each image of a data set with its column `identity_description`.
        exclude: patterns of files and folders below a folder to pass over, see `list_images`.
        follow_links: follows symbolic links that lead out of a folder.
        moved_from: former folder of the images, see `reusable_rows`.
        add: keeps the other images of the index; those of the same folder or of the same paths are replaced.
        allow_removals: allows a run that removes more than a fifth of the images, or those of another folder.
        dry_run: returns the report of the planned run and writes nothing.
        time_zone: IANA name of the zone in which times with an offset are shown and compared with dates; by default
            that of the index, or UTC.
        index_type: `exact`, `hnsw` or `int8`; by default exact up to a million images, then hnsw.
        store: address of a Milvus cluster for the vectors; by default they are in the index folder.
        with_tokens: stores the image tokens that the matching head of the model re-ranks by; by default if the last
            generation has them.
        batch_size: images per forward pass.
        workers: threads that decode images; by default one per core.
        device: device of the model; by default an accelerator if there is one.
        show_progress: whether to show progress bars.

    Raises:
        ValueError: the index was built by another model or version, or another run holds its lock; metadata or
            descriptions are invalid; no image is readable; too many images would be removed; there is no matching head.
        OSError: files cannot be read or written, or the disk is full. The last generation stays usable.
    """
    index = Path(index)
    if time_zone is not None:
        _check_time_zone(time_zone)
    if store is not None:  # before hours of embedding
        _check_store(store)
    embedder = model if isinstance(model, Embedder) else Embedder.load(model, _process_device(device))
    if with_tokens:
        embedder.check_matching()
    state = PartialState()
    report: list[IndexReport | None] = [None]
    work: list[tuple[str, list[Key], int, dict[str, str], bool] | None] = [None]
    if dry_run and state.num_processes > 1:
        raise ValueError("dry_run plans in one process: run it without torchrun")
    lock = nullcontext() if dry_run else _locked(index, state.is_main_process)
    with lock, _one_line_if_disk_full(index), TemporaryDirectory() as temporary:
        # The main process plans and broadcasts the images to embed
        last: OpenedIndex | None = None
        kept: dict[Key, int] = {}
        if state.is_main_process:
            if (index / MANIFEST).exists():
                last = open_index(index)
                check_model(index, last.manifest, embedder)
                time_zone = time_zone or last.manifest.time_zone
                with_tokens = last.tokens is not None if with_tokens is None else with_tokens
            elif moved_from is not None:
                raise ValueError(f"{index}: there is no index, so no vectors to keep; leave out moved_from")
            replaced = None
            if isinstance(images, GallerySource):
                source = images
            elif isinstance(images, str | Path):
                texts_file = None if descriptions is None else Path(descriptions)
                source = images_in_folder(Path(images), texts_file, exclude, follow_links)
                replaced = Path(source.root)
            else:
                if exclude or follow_links:
                    raise ValueError("exclude and follow_links apply to a folder, not to a data set; leave them out")
                source = images_of_dataset(images, Path(temporary) if dry_run else index, fuse_descriptions)
            if add and last is not None:
                source = merged(index, last, source, replaced)
            if last is not None:
                kept = reusable_rows(index, last, source, None if moved_from is None else Path(moved_from))
            _note_time_zone(source, time_zone or "UTC")
            reused = rows_with_tokens(last, kept) if with_tokens else kept
            planned = _planned(index, last, source, kept, reused, index_type)
            try:
                if not allow_removals:
                    check_removals(index, last, source.root, planned.lost, add or moved_from is not None)
            except ValueError as error:
                if not dry_run:
                    raise
                planned.notes.append(str(error))
            if dry_run:
                size = token_bytes(embedder.token_shape, planned.images) if with_tokens else 0
                return replace(planned, token_bytes=size)
            plan, first = _shards(index, embedder, with_tokens).plan(
                [key for key in keys_of(source.table) if key not in reused]
            )
            texts = {key[0]: source.descriptions[key[0]] for key in plan if key[3]}
            work = [(source.root, plan, first, texts, bool(with_tokens))]
        if state.num_processes > 1:
            broadcast_object_list(work)
        assert work[0] is not None
        root, plan, first, texts, with_tokens = work[0]
        shards = _shards(index, embedder, with_tokens)

        # Each process embeds its shards
        numbers = range(state.process_index, -(-len(plan) // SHARD_SIZE), state.num_processes)
        jobs = [(first + number, plan[number * SHARD_SIZE : (number + 1) * SHARD_SIZE]) for number in numbers]
        with tqdm(
            total=sum(len(keys) for _, keys in jobs),
            desc="embedding",
            unit="image",
            disable=None if show_progress and state.is_main_process and jobs else True,  # None: only in a terminal
        ) as bar:
            place = index.absolute() / root
            _embed_shards(embedder, shards, jobs, place, texts, with_tokens, batch_size, workers, bar)
        state.wait_for_everyone()

        # The main process publishes the generation
        if state.is_main_process:
            options = (
                index_type,
                store,
                time_zone or "UTC",
                (allow_removals, add or moved_from is not None),
                with_tokens,
                show_progress,
            )
            report = [publish(index, source, embedder, last, kept, shards, *options)]
        if state.num_processes > 1:
            broadcast_object_list(report)
    assert report[0] is not None
    return report[0]


def _shards(index: Path, embedder: Embedder, with_tokens: bool | None) -> Shards:
    """Returns the shards of a model; those with and without tokens are in different folders."""
    suffix = "-tokens" if with_tokens else ""
    return Shards(index / f"partial-{embedder.weights}-{embedder.config}{suffix}")


def _process_device(device: str | None) -> str | None:
    state = PartialState(cpu=device == "cpu")
    return str(state.device) if state.num_processes > 1 else device


def _check_time_zone(name: str) -> None:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"there is no time zone {name!r}; give a name such as UTC or Europe/Berlin") from None


def _check_store(address: str) -> None:
    from ..stores.milvus_store import MilvusStore

    MilvusStore.check(address)


def _note_time_zone(source: GallerySource, time_zone: str) -> None:
    """Adds a note on times with an offset, which are shown and compared in one zone."""
    names = [field.name for field in source.table.schema if pa.types.is_timestamp(field.type) and field.type.tz]
    if names:
        source.notes.append(
            f"times with an offset, in {', '.join(names)}, are shown and compared in the zone {time_zone} (--time-zone)"
        )


def _planned(
    index: Path,
    last: OpenedIndex | None,
    source: GallerySource,
    kept: dict[Key, int],
    reused: dict[Key, int],
    index_type: IndexType | None,
) -> IndexReport:
    """Returns the report of a run that has not begun: all images count as readable."""
    keys = keys_of(source.table)
    aspects = [] if last is None else aspects_of(last.table)
    rows = {kept[key] for key in keys if key in kept}
    return IndexReport(
        images=len(keys),
        embedded=sum(key not in reused for key in keys),
        removed=0 if last is None else len(last.table) - len(rows),
        unreadable=sorted(source.left_out),
        shapes=count_shapes(np.array([aspects[row] for row in rows], dtype=np.float32)),
        index_type=index_type or default_type(None if last is None else last.manifest, len(keys)),
        notes=list(source.notes),
        lost=lost_images(index, last, source.root, [key[0] for key in keys], kept.values()),
        is_planned=True,
    )


def _embed_shards(
    embedder: Embedder,
    shards: Shards,
    jobs: list[tuple[int, list[Key]]],
    root: Path,
    texts: dict[str, str],
    with_tokens: bool,
    batch_size: int,
    workers: int | None,
    bar: tqdm,
) -> None:
    """Embeds the missing shards of `jobs`, which are shard numbers and keys."""
    missing = [(number, keys) for number, keys in jobs if not shards.finished(number)]
    bar.update(sum(len(keys) for number, keys in jobs if shards.finished(number)))
    batches = (
        ([root / path for path, *_ in part], [texts.get(path) for path, *_ in part])
        for _, keys in missing
        for part in (keys[start : start + batch_size] for start in range(0, len(keys), batch_size))
    )
    embedded = embed_batches(embedder, batches, workers, with_tokens)
    for number, keys in missing:
        parts = []
        for _ in range(0, len(keys), batch_size):
            parts.append(next(embedded))
            bar.update(len(parts[-1].reasons))
        shards.write(
            number,
            keys,
            np.concatenate([part.vectors for part in parts]),
            [reason for part in parts for reason in part.reasons],
            [content for part in parts for content in part.contents],
            np.concatenate([part.aspects for part in parts]),
            np.concatenate([part.tokens for part in parts if part.tokens is not None]) if with_tokens else None,
        )


@contextmanager
def _locked(index: Path, is_main: bool) -> Iterator[None]:
    """Holds the lock file of the index (an advisory lock) in the main process.

    Raises `ValueError` if another run holds it, or if the folder contains other files.
    """
    if not is_main:
        yield
        return
    if index.exists() and not index.is_dir():
        raise ValueError(f"{index}: this is a file; an index is a folder")
    index.mkdir(parents=True, exist_ok=True)
    if not (index / MANIFEST).exists():
        other = sorted(entry.name for entry in index.iterdir() if not is_part_of_an_index(entry.name))
        if other:
            raise ValueError(f"{index}: the folder contains other files, such as {other[0]}; choose a new folder")
    try:
        with FileLock(index / LOCK, timeout=0):
            yield
    except Timeout:
        raise ValueError(f"{index}: another run is updating this index; wait until it has finished") from None


@contextmanager
def _one_line_if_disk_full(index: Path) -> Iterator[None]:
    """Replaces the different errors of the libraries on a full disk by one message."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # faiss raises RuntimeError
        if getattr(error, "errno", None) != errno.ENOSPC and "No space left" not in str(error):
            raise
        raise OSError(
            f"{index}: the disk is full; free some space and run the command again: it resumes from the finished "
            "shards, and the last generation of the index is unchanged",
        ) from None
