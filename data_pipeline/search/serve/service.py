"""Answers the searches of concurrent requests by one gallery and one model."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from modeling_bdam.files import usable_cores

from ...images import UnreadableImageError, open_image
from ..composition import clothes_of, compose_vectors, query_kind
from ..gallery import PersonGallery
from ..hits import PersonHit, is_probably_absent, likely_hits
from ..picture_checks import picture_remarks
from .batching import Batcher
from .models import Answer, ComposedQuery, Hit, ImageQuery, Item, TextQuery
from .pictures import shrunk_jpeg

_RERANKINGS = 4  # searches with re-ranking at the same time
_FILTERS = 8  # filtered searches at the same time; the filters run one after another, for at most ten seconds each
Found = TypeVar("Found")


class BusyError(Exception):
    """The service cannot answer now; the request can be repeated."""


class GoneError(Exception):
    """A row does not exist, or belongs to an earlier generation of the index."""


class SearchService:
    """Searches in threads of the server. The methods raise `ValueError` for an invalid query, and `BusyError`."""

    def __init__(self, gallery: PersonGallery) -> None:
        self._gallery = gallery
        embedder = gallery.embedder  # loaded before the first request
        self._sentences: Batcher[str] = Batcher(embedder.embed_sentences)
        self._pictures: Batcher[np.ndarray] = Batcher(
            lambda pixels: embedder.embed_images(pixels, [None] * len(pixels))
        )
        self._decoding = threading.Semaphore(usable_cores())  # bounds the memory of decoded pictures
        self._filtering = threading.BoundedSemaphore(_FILTERS)
        self._reranking = threading.BoundedSemaphore(_RERANKINGS)

    def search(self, query: TextQuery | ImageQuery) -> Answer:
        """Answers a query by a sentence, a picture or both."""
        notes: list[str] = []
        picture = words = excluded = sentence = None
        if isinstance(query, ImageQuery):
            picture, digest = self._embed_picture(query, notes)
            excluded = None if query.include_self else digest
        if isinstance(query, TextQuery | ComposedQuery):
            sentence = query.sentence
            words = self._embed_sentence(sentence)
            notes += self._gallery.remarks(sentence)
        source = query.identity_from if isinstance(query, ComposedQuery) else "image"
        removed = None if query.without is None else self._embed_sentence(query.without)
        vector = compose_vectors(picture, words, source, removed)
        kind = query_kind(picture is not None, words is not None, source, removed is not None)
        clothes = clothes_of(picture is not None, sentence, source)
        options = (query.clothing_weight, query.where, excluded, kind, query.rerank, clothes)
        wanted = query.offset + query.top_k + 1  # one more: is there a next page?

        def search() -> Any:
            try:
                return self._gallery.search_vector(vector, max(wanted, query.rerank), *options)
            except UnreadableImageError:  # its message has a path of this machine
                raise BusyError("the file of an image to re-rank cannot be read: leave out rerank") from None

        with _slot(self._filtering, bool(query.where)), _slot(self._reranking, query.rerank > 0):
            found, manifest = self._in_one_generation(search)
        hits = likely_hits(found, query.min_likelihood)[:wanted]
        shown = hits[query.offset : wanted - 1]
        return Answer(
            generation=manifest.generation,
            images=manifest.count,
            clothing_weight=manifest.clothing_weight if query.clothing_weight is None else query.clothing_weight,
            has_more=len(hits) == wanted,
            is_probably_absent=is_probably_absent(found),
            notes=notes,
            hits=[_entry(rank, hit, manifest.generation) for rank, hit in enumerate(shown, query.offset + 1)],
        )

    def item(self, row: int, generation: str | None) -> Item:
        """Returns the metadata of an image; raises `GoneError`."""
        cells, manifest = self._in_one_generation(lambda: self._checked(row, generation, self._gallery.metadata))
        return Item(row=row, name=cells.pop("path"), image=_address(row, manifest.generation), metadata=cells)

    def image(self, row: int, generation: str | None) -> bytes:
        """Returns an image as JPEG; raises `GoneError`, also if its file cannot be read."""
        path, _ = self._in_one_generation(lambda: self._checked(row, generation, self._gallery.path))
        try:
            with self._decoding:
                return shrunk_jpeg(open_image(path))
        except OSError:
            raise GoneError(f"the file of image {row} cannot be read") from None

    def reload(self) -> None:
        """Opens a newly published index; raises `BusyError` if it cannot be opened."""
        try:
            self._gallery.reload()
        except (ValueError, OSError):
            raise BusyError("the index was replaced and cannot be opened: restart the service") from None

    def _in_one_generation(self, work: Callable[[], Found]) -> tuple[Found, Any]:
        """Returns the result of `work` and the manifest it is for: repeats it if the index was updated meanwhile."""
        while True:
            self.reload()
            manifest = self._gallery.manifest
            found = work()
            if self._gallery.manifest == manifest:
                return found, manifest

    def _checked(self, row: int, generation: str | None, read: Callable[[int], Found]) -> Found:
        current = self._gallery.manifest.generation
        if generation not in (None, current):
            raise GoneError(f"row {row} is of {generation}, and the index is now {current}: search again")
        try:
            return read(row)
        except ValueError as error:
            raise GoneError(str(error)) from None

    def _embed_sentence(self, sentence: str) -> np.ndarray:
        self._gallery.embedder.check_sentence(sentence)
        return self._sentences.embed(sentence)

    def _embed_picture(self, query: ImageQuery, notes: list[str]) -> tuple[np.ndarray, str]:
        """Returns the vector [dimensions] and the SHA-256 of an uploaded picture; appends remarks to `notes`."""
        content = query.image.file.read()
        with self._decoding:
            try:
                image = open_image({"path": query.image.filename, "bytes": content})
            except OSError as error:
                raise ValueError(str(error)) from None
            pixels = self._gallery.embedder.pixels.resize(image)
        notes += picture_remarks(image, pixels)
        return self._pictures.embed(pixels), hashlib.sha256(content).hexdigest()


@contextmanager
def _slot(slots: threading.Semaphore, is_needed: bool) -> Iterator[None]:
    """Takes one of the slots for costly searches if it is needed; raises `BusyError` if none is free."""
    if is_needed and not slots.acquire(blocking=False):
        raise BusyError("too many searches with a filter or with re-ranking at the same time: try again later")
    try:
        yield
    finally:
        if is_needed:
            slots.release()


def _entry(rank: int, hit: PersonHit, generation: str) -> Hit:
    fields = {name: getattr(hit, name) for name in Hit.model_fields if name not in ("rank", "image")}
    return Hit(rank=rank, image=_address(hit.row, generation), **fields)


def _address(row: int, generation: str) -> str:
    return f"/items/{row}/image?generation={generation}"
