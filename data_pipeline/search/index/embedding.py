"""Embeds image files in batches, with a thread pool."""

import hashlib
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
from ..picture_checks import why_no_person


@dataclass(frozen=True)
class EmbeddedBatch:
    """The result for a batch of image files."""

    vectors: np.ndarray  # float32 [B, dimensions]; zeros for unreadable images
    reasons: list[str | None]  # why an image is unreadable, or None
    contents: list[str | None]  # digests of the files
    aspects: np.ndarray  # float32 [B]: width divided by height
    tokens: np.ndarray | None = None  # float16 [B, 2L, D], for the matching head; zeros for unreadable images


Batch = tuple[Sequence[Path], Sequence[str | None]]
"""Image files, and the identity description to fuse with each, or None."""


def embed_batches(
    embedder: Embedder, batches: Iterable[Batch], workers: int | None = None, with_tokens: bool = False
) -> Iterator[EmbeddedBatch]:
    """Embeds batches concurrently and yields the results in order.

    On a CPU, each worker decodes and embeds whole batches with one torch thread: parallel batches use all cores, unlike
    parallelism within a small layer, and the vectors do not depend on the number of workers. On an accelerator, the
    workers decode the next batches during the forward pass.

    There are `workers` threads; by default one per usable core, at most 8 with an accelerator.
    """
    on_cpu = embedder.device.type == "cpu"
    count = workers or (usable_cores() if on_cpu else min(8, usable_cores()))
    pool = ThreadPoolExecutor(count, initializer=_use_one_thread if on_cpu else None)
    pending: deque[Future[EmbeddedBatch]] = deque()
    try:
        for files, descriptions in batches:
            pending.append(pool.submit(_embed, embedder, files, descriptions, with_tokens))
            if len(pending) > 2 * count:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def content_digest(file: Path) -> str | None:
    """Returns the SHA-256 of a file, or None if it cannot be read."""
    digest = hashlib.sha256()
    try:
        if not file.is_file():  # a pipe would block
            return None
        with file.open("rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
    except OSError:
        return None
    return digest.hexdigest()


def _use_one_thread() -> None:
    torch.set_num_threads(1)  # applies to the calling worker only


def _embed(
    embedder: Embedder, files: Sequence[Path], descriptions: Sequence[str | None], with_tokens: bool
) -> EmbeddedBatch:
    vectors = np.zeros((len(files), embedder.dimensions), dtype=np.float32)
    tokens = np.zeros((len(files), *embedder.token_shape), dtype=np.float16) if with_tokens else None
    reasons: list[str | None] = [None] * len(files)
    aspects = np.full(len(files), np.nan, dtype=np.float32)
    contents: list[str | None] = [None] * len(files)
    pixels = []
    for place, file in enumerate(files):
        try:
            image = open_image(file, (embedder.pixels.width, embedder.pixels.height))
        except UnreadableImageError as error:
            reasons[place] = str(error).removeprefix(f"{file}: ")
            continue
        resized = embedder.pixels.resize(image)
        reasons[place] = why_no_person(image, resized)
        if reasons[place] is not None:
            continue
        pixels.append(resized)
        aspects[place] = image.width / image.height
        contents[place] = content_digest(file)
    readable = [place for place, reason in enumerate(reasons) if reason is None]
    texts = [descriptions[place] for place in readable]
    if tokens is not None and readable:
        vectors[readable], tokens[readable] = embedder.embed_with_tokens(pixels, texts)
    elif readable:
        vectors[readable] = embedder.embed_images(pixels, texts)
    return EmbeddedBatch(vectors, reasons, contents, aspects, tokens)
