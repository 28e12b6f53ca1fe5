"""Building an index: embed what is new, keep what is unchanged, and switch to the new state at once."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
from .publishing import Published, is_part_of_an_index, publish
from .shards import SHARD_SIZE, Key, Shards, keys_of
from .sources import GallerySource, images_in_folder, images_of_dataset


@dataclass(frozen=True)
class IndexReport:
    """What an indexing run did.

    Attributes:
        images: images in the index now.
        embedded: how many of them were embedded for this state of the index, rather than kept from the last one.
        removed: images of the last state that are gone, or changed.
        unreadable: paths that are not in the index, each with the reason.
        wide: embedded images that are wider than high: whole frames, perhaps, where crops of a person are wanted.
        index_type: `exact`, `hnsw` or `int8`.
        notes: what else the user should know.
    """

    images: int
    embedded: int
    removed: int
    unreadable: list[tuple[str, str]]
    wide: int
    index_type: IndexType
    notes: list[str]


def build_index(
    index: str | Path,
    images: str | Path | Dataset,
    model: str | Path | Embedder,
    *,
    descriptions: str | Path | None = None,
    fuse_descriptions: bool = False,
    index_type: IndexType | None = None,
    store: str | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    device: str | None = None,
    show_progress: bool = True,
) -> IndexReport:
    """Builds the index of a folder or of a data set, or brings one up to date.

    Only new and changed images are embedded; those that are gone leave. The last state of the index serves searches
    until the new one is complete. A run that was stopped goes on when it is started again. Under `accelerate launch`
    or `torchrun` all processes share the work, and the result is the same.

    Args:
        index: folder of the index; made if it is not there.
        images: a folder, with `metadata.csv`, `.jsonl` or `.parquet` in it or not; or a data set with the columns of
            `PERSON_FEATURES`.
        model: folder or Hub name of a model, or a loaded one.
        descriptions: a JSON-lines file; each image of the folder is fused with its `identity_description`.
        fuse_descriptions: the same, with a data set's own `identity_description`.
        index_type: `exact`, `hnsw` or `int8`. By default exact up to a million images, and hnsw beyond.
        store: address of a Milvus cluster for the vectors; by default they lie in the index folder.
        batch_size: images that go through the model together.
        workers: threads; by default one a core.
        device: of the model; by default an accelerator if there is one.
        show_progress: a progress bar.

    Raises:
        ValueError: the index was built by another model or version; the metadata or descriptions cannot be used; no
            image can be read; another run is at work on this index.
        OSError: files cannot be read or written, or the disk is full. The last state of the index still works.
    """
    folder = Path(index)
    embedder = model if isinstance(model, Embedder) else Embedder.load(model, _device(device))

    def read_source() -> GallerySource:
        if isinstance(images, Dataset):
            return images_of_dataset(images, folder, fuse_descriptions)
        return images_in_folder(Path(images), None if descriptions is None else Path(descriptions))

    return update_index(
        folder,
        read_source,
        embedder,
        index_type=index_type,
        store=store,
        batch_size=batch_size,
        workers=workers,
        show_progress=show_progress,
    )


def update_index(
    index: Path,
    read_source: Callable[[], GallerySource],
    embedder: Embedder,
    *,
    index_type: IndexType | None = None,
    store: str | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    show_progress: bool = True,
) -> IndexReport:
    """What `build_index` does, for the images that `read_source` returns."""
    state = PartialState()
    report: list[IndexReport | None] = [None]
    work: list[tuple[str, list[Key], int, dict[str, str]] | None] = [None]
    with _one_run_at_a_time(index, state.is_main_process), _telling_of_a_full_disk(index):
        shards = Shards(index / f"partial-{embedder.weights}-{embedder.config}")
        last: OpenedIndex | None = None
        if state.is_main_process:
            last = _last_state(index, embedder)
            source = read_source()
            kept = set() if last is None else set(keys_of(last.table))
            plan, first = shards.plan([key for key in keys_of(source.table) if key not in kept])
            work = [(source.root, plan, first, {key[0]: source.descriptions[key[0]] for key in plan if key[3]})]
        if state.num_processes > 1:
            broadcast_object_list(work)
        assert work[0] is not None
        root, plan, first, texts = work[0]
        numbers = range(state.process_index, -(-len(plan) // SHARD_SIZE), state.num_processes)
        jobs = [(first + number, plan[number * SHARD_SIZE : (number + 1) * SHARD_SIZE]) for number in numbers]
        with tqdm(
            total=sum(len(keys) for _, keys in jobs),
            desc="embedding",
            unit="image",
            disable=not (show_progress and state.is_main_process and jobs),
        ) as bar:
            _embed_shards(embedder, shards, jobs, (index.absolute() / root), texts, batch_size, workers, bar)
        state.wait_for_everyone()
        if state.is_main_process:
            published = publish(index, source, embedder, last, shards, index_type, store, show_progress)
            report = [_report(published, source)]
        if state.num_processes > 1:
            broadcast_object_list(report)
    assert report[0] is not None
    return report[0]


def _device(device: str | None) -> str | None:
    """The device of this process."""
    state = PartialState(cpu=device == "cpu")
    return str(state.device) if state.num_processes > 1 else device


def _last_state(index: Path, embedder: Embedder) -> OpenedIndex | None:
    """The index as it is, if there is one.

    Raises:
        ValueError: another model or version built it.
    """
    if not (index / MANIFEST).exists():
        return None
    last = open_index(index)
    check_model(index, last, embedder)
    return last


def check_model(index: Path, opened: OpenedIndex, embedder: Embedder) -> None:
    """Refuses vectors of another model.

    Raises:
        ValueError: naming both models.
    """
    manifest = opened.manifest
    if (manifest.weights, manifest.config) != (embedder.weights, embedder.config):
        raise ValueError(
            f"{index}: the index was built by the model {manifest.describe_model()}, and this is "
            f"{embedder.describe()}; use that model, or build an index with this one in another folder"
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
    """Makes the shards that are missing; `jobs` are their numbers and keys."""
    missing = []
    for number, keys in jobs:
        if shards.finished(number):
            bar.update(len(keys))
        else:
            missing.append((number, keys))

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
            np.concatenate([part.wide for part in parts]),
        )


def _report(published: Published, source: GallerySource) -> IndexReport:
    return IndexReport(
        images=published.manifest.count,
        embedded=published.embedded,
        removed=published.removed,
        unreadable=published.unreadable,
        wide=published.wide,
        index_type=published.manifest.index_type,
        notes=source.notes,
    )


@contextmanager
def _one_run_at_a_time(index: Path, is_main: bool) -> Iterator[None]:
    """Holds the index for this run.

    Raises:
        ValueError: another run holds it; or the folder is something else.
    """
    if not is_main:
        yield
        return
    if index.exists() and not index.is_dir():
        raise ValueError(f"{index}: this is a file; an index is a folder")
    index.mkdir(parents=True, exist_ok=True)
    if not (index / MANIFEST).exists():
        strange = sorted(entry.name for entry in index.iterdir() if not is_part_of_an_index(entry.name))
        if strange:
            raise ValueError(
                f"{index}: the folder holds other things than an index, such as {strange[0]}; choose a new folder"
            )
    try:
        with FileLock(index / ".lock", timeout=0):
            yield
    except Timeout:
        raise ValueError(f"{index}: another run is at work on this index; wait until it has finished") from None


@contextmanager
def _telling_of_a_full_disk(index: Path) -> Iterator[None]:
    """Says it in one line, whichever library could not write."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # faiss raises RuntimeError
        if getattr(error, "errno", None) != errno.ENOSPC and "No space left" not in str(error):
            raise
        raise OSError(
            f"{index}: the disk is full; free some space and run the same again: what is embedded so far is kept, and "
            "the last state of the index still works",
        ) from None
