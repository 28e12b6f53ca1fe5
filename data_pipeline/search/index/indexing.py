"""Builds and updates an index: embeds new images in shards, reuses unchanged vectors, publishes the new generation."""

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from ..embedder import Embedder
from ..stores.store import IndexType
from .embedding import embed_batches
from .manifest import MANIFEST
from .opened import OpenedIndex, open_index
from .publishing import LOCK, IndexReport, is_part_of_an_index, publish
from .reuse import reusable_rows
from .shards import SHARD_SIZE, Key, Shards, keys_of
from .sources import GallerySource, images_in_folder, images_of_dataset


def build_index(
    index: str | Path,
    images: str | Path | Dataset | Callable[[], GallerySource],
    model: str | Path | Embedder,
    *,
    descriptions: str | Path | None = None,
    fuse_descriptions: bool = False,
    exclude: Sequence[str] = (),
    follow_links: bool = False,
    moved_from: str | Path | None = None,
    index_type: IndexType | None = None,
    store: str | None = None,
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
            `PERSON_FEATURES`; or a function that returns a `GallerySource`, which is called while the lock is held.
        model: folder, Hub name or loaded model.
        descriptions: JSON Lines file; fuses each image of a folder with its `identity_description`.
        fuse_descriptions: fuses each image of a data set with its column `identity_description`.
        exclude: patterns of files and folders below a folder to pass over, see `list_images`.
        follow_links: follows symbolic links that lead out of a folder.
        moved_from: former folder of the images, see `reusable_rows`.
        index_type: `exact`, `hnsw` or `int8`; by default exact up to a million images, then hnsw.
        store: address of a Milvus cluster for the vectors; by default they are in the index folder.
        batch_size: images per forward pass.
        workers: threads that decode images; by default one per core.
        device: device of the model; by default an accelerator if there is one.
        show_progress: whether to show progress bars.

    Raises:
        ValueError: the index was built by another model or version, or another run holds its lock; metadata or
            descriptions are invalid; no image is readable.
        OSError: files cannot be read or written, or the disk is full. The last generation stays usable.
    """
    index = Path(index)
    embedder = model if isinstance(model, Embedder) else Embedder.load(model, _process_device(device))
    state = PartialState()
    report: list[IndexReport | None] = [None]
    work: list[tuple[str, list[Key], int, dict[str, str]] | None] = [None]
    with _locked(index, state.is_main_process), _one_line_if_disk_full(index):
        # The main process plans and broadcasts the images to embed
        shards = Shards(index / f"partial-{embedder.weights}-{embedder.config}")
        last: OpenedIndex | None = None
        kept: dict[Key, int] = {}
        if state.is_main_process:
            if (index / MANIFEST).exists():
                last = open_index(index)
                check_model(index, last, embedder)
            elif moved_from is not None:
                raise ValueError(f"{index}: there is no index, so no vectors to keep; leave out moved_from")
            if callable(images):
                source = images()
            elif isinstance(images, Dataset):
                if exclude or follow_links:
                    raise ValueError("exclude and follow_links apply to a folder, not to a data set; leave them out")
                source = images_of_dataset(images, index, fuse_descriptions)
            else:
                texts_file = None if descriptions is None else Path(descriptions)
                source = images_in_folder(Path(images), texts_file, exclude, follow_links)
            if last is not None:
                kept = reusable_rows(index, last, source, None if moved_from is None else Path(moved_from))
            plan, first = shards.plan([key for key in keys_of(source.table) if key not in kept])
            work = [(source.root, plan, first, {key[0]: source.descriptions[key[0]] for key in plan if key[3]})]
        if state.num_processes > 1:
            broadcast_object_list(work)
        assert work[0] is not None
        root, plan, first, texts = work[0]

        # Each process embeds its shards
        numbers = range(state.process_index, -(-len(plan) // SHARD_SIZE), state.num_processes)
        jobs = [(first + number, plan[number * SHARD_SIZE : (number + 1) * SHARD_SIZE]) for number in numbers]
        with tqdm(
            total=sum(len(keys) for _, keys in jobs),
            desc="embedding",
            unit="image",
            disable=None if show_progress and state.is_main_process and jobs else True,  # None: only in a terminal
        ) as bar:
            _embed_shards(embedder, shards, jobs, (index.absolute() / root), texts, batch_size, workers, bar)
        state.wait_for_everyone()

        # The main process publishes the generation
        if state.is_main_process:
            report = [publish(index, source, embedder, last, kept, shards, index_type, store, show_progress)]
        if state.num_processes > 1:
            broadcast_object_list(report)
    assert report[0] is not None
    return report[0]


def _process_device(device: str | None) -> str | None:
    state = PartialState(cpu=device == "cpu")
    return str(state.device) if state.num_processes > 1 else device


def check_model(index: Path, opened: OpenedIndex, embedder: Embedder) -> None:
    """Raises `ValueError` if an index was built by another model; the message names both models."""
    manifest = opened.manifest
    if (manifest.weights, manifest.config) != (embedder.weights, embedder.config):
        raise ValueError(
            f"{index}: the index was built by the model {manifest.describe_model()}, but this is "
            f"{embedder.describe()}; use the first, or build an index in another folder"
        )


def _embed_shards(
    embedder: Embedder,
    shards: Shards,
    jobs: list[tuple[int, list[Key]]],
    root: Path,
    texts: dict[str, str],
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
    embedded = embed_batches(embedder, batches, workers)
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
            np.concatenate([part.wide for part in parts]),
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
