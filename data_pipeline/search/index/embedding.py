"""Image files to vectors, on all cores or while the accelerator computes."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from modeling_bdam.files import usable_cores

from ...images import UnreadableImageError, open_image
from ..embedder import Embedder


@dataclass(frozen=True)
class EmbeddedBatch:
    """What became of a batch of image files.

    Attributes:
        vectors: float32 [B, dimensions]; zeros where there is a reason.
        reasons: why an image could not be read, or None.
        wide: bool [B], whether an image is wider than it is high: more likely a whole frame than a crop of a person.
    """

    vectors: np.ndarray
    reasons: list[str | None]
    wide: np.ndarray


Batch = tuple[Sequence[Path], Sequence[str | None]]
"""Image files, and the identity description to fuse with each, or None."""


def embed_batches(embedder: Embedder, batches: Iterable[Batch], workers: int | None = None) -> Iterator[EmbeddedBatch]:
    """Embeds batch by batch, in order, several at a time.

    On a CPU every worker decodes and embeds batches of its own with one thread, which keeps all cores busy where
    threads within a layer would not; a batch's vectors do not depend on the number of workers. On an accelerator
    the workers decode while it computes.

    Args:
        workers: threads; by default as many as this process may use cores.
    """
    on_cpu = embedder.device.type == "cpu"
    count = workers or (usable_cores() if on_cpu else min(8, usable_cores()))
    pool = ThreadPoolExecutor(count, initializer=_use_one_thread if on_cpu else None)
    pending: deque[Future[EmbeddedBatch]] = deque()
    try:
        for files, descriptions in batches:
            pending.append(pool.submit(_embed, embedder, files, descriptions))
            if len(pending) > 2 * count:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _use_one_thread() -> None:
    torch.set_num_threads(1)  # of the worker that calls this, no other


def _embed(embedder: Embedder, files: Sequence[Path], descriptions: Sequence[str | None]) -> EmbeddedBatch:
    vectors = np.zeros((len(files), embedder.dimensions), dtype=np.float32)
    reasons: list[str | None] = [None] * len(files)
    wide = np.zeros(len(files), dtype=bool)
    pixels = []
    for place, file in enumerate(files):
        try:
            image = open_image(file, (embedder.pixels.width, embedder.pixels.height))
        except UnreadableImageError as error:
            reasons[place] = str(error).removeprefix(f"{file}: ")
            continue
        pixels.append(embedder.pixels.resize(image))
        wide[place] = image.width > image.height
    read = [place for place, reason in enumerate(reasons) if reason is None]
    if read:
        vectors[read] = embedder.embed_images(pixels, [descriptions[place] for place in read])
    return EmbeddedBatch(vectors, reasons, wide)
