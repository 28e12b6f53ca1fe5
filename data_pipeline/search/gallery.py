"""Searches an index of person images by a sentence, a picture or a vector."""

import logging
import math
import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from modeling_bdam.files import default_device

from .hits import PersonGroup, PersonHit, group_by_person
from .index.manifest import MANIFEST, Manifest, read_manifest
from .index.opened import OpenedIndex, check_model, open_index
from .search_record import SearchRecord, conditions, record_search
from .searched_state import SearchedState
from .sentence_checks import check_sentence, sentence_remarks

if TYPE_CHECKING:
    from datasets import Dataset

    from .embedder import Embedder
    from .index.report import IndexReport
    from .query_encoder import QueryEncoder

logger = logging.getLogger(__name__)
Filter = str | Sequence[str] | None


class PersonGallery:
    """An opened index; searches are thread-safe. Each search first opens a new generation if there is one (`reload`).

    All searches have these arguments:
        top_k: number of hits; there are fewer if the gallery or its filtered part is smaller.
        clothing_weight: β, by default the model's. 0 also finds a person in other clothes.
        where: SQL filter of duckdb over `columns`, such as `camera == 3 and time > '2026-05-01'`, or several that must
            all hold. A filtered search in an `exact` or `hnsw` index is exact.
    They return hits, best first; images with equal files are one hit. They raise `ValueError` for an invalid argument,
    and `OSError` if a picture cannot be read or the Milvus cluster does not respond.

    Example:
        ```python
        with PersonGallery.build("outputs/gallery", "photos/", "outputs/tiny") as gallery:
            for hit in gallery.search_text("a woman in a red coat, short grey hair", clothing_weight=0.3):
                print(hit.score, hit.path)
        ```

    Attributes:
        index: folder of the index.
    """

    def __init__(
        self,
        index: Path,
        opened: OpenedIndex,
        embedder: "Embedder | None",
        encoder: "QueryEncoder | None" = None,
        device: str | None = None,
    ) -> None:
        """Not for direct use; see `open` and `build`. One of `embedder` and `encoder` is None."""
        self.index = index
        self._embedder, self._encoder, self._device = embedder, encoder, device
        self._loading = threading.Lock()
        self._state = SearchedState(opened)
        is_current = self._manifest_stamp() is not None and read_manifest(index) == opened.manifest
        self._stamp = self._manifest_stamp() if is_current else ()
        self._reloading = threading.Lock()

    @classmethod
    def open(
        cls, index: str | Path, model: "str | Path | Embedder | None" = None, device: str | None = None
    ) -> "PersonGallery":
        """Opens an index, and loads its model; for sentences, the traced text tower is enough (`query_encoder`).

        Args:
            index: folder written by `build` or `bdam index`.
            model: folder, Hub name or loaded model; by default the model of the index.
            device: device of the model; by default an accelerator if there is one.

        Raises:
            FileNotFoundError: there is no index, or no model.
            ValueError: the index was built by another model or version, or is damaged.
            OSError: a file cannot be read, or the Milvus cluster does not respond.
        """
        folder = Path(index)
        manifest = read_manifest(folder)
        if model is None and (device or default_device()) == "cpu":
            from .query_encoder import open_query_encoder

            encoder = open_query_encoder(folder, manifest.model, manifest.weights, manifest.config)
            if encoder is not None:
                return cls(folder, open_index(folder), None, encoder, device)
        from .embedder import Embedder

        embedder = model if isinstance(model, Embedder) else Embedder.load(model or manifest.model, device)
        opened = open_index(folder)
        check_model(folder, opened.manifest, embedder)
        return cls(folder, opened, embedder)

    @classmethod
    def build(
        cls,
        index: str | Path,
        images: "str | Path | Dataset",
        model: "str | Path | Embedder",
        *,
        device: str | None = None,
        show_progress: bool = True,
        **options: Any,
    ) -> "PersonGallery":
        """Builds or updates an index and opens it; see `build_index` for arguments, options and errors."""
        from .embedder import Embedder
        from .index.indexing import build_index

        embedder = model if isinstance(model, Embedder) else Embedder.load(model, device)
        build_index(index, images, embedder, show_progress=show_progress, **options)
        return cls.open(index, embedder)

    def add(
        self, files: Sequence[str | Path], metadata: Sequence[dict[str, Any]] | None = None, show_progress: bool = False
    ) -> "IndexReport":
        """Adds image files to the index, or replaces those of the same path, and opens the new generation.

        A later `build` of the folder without `add` would remove files outside it, which `allow_removals` must confirm.

        Args:
            files: the images; those outside the indexed folder are named by their absolute path.
            metadata: column values of each file; new columns are null for the other images.
            show_progress: whether to show progress bars.

        Raises:
            ValueError, OSError: as `build_index`; or the metadata does not fit the columns.
        """
        from .index.indexing import build_index
        from .index.sources import listed_files

        source = listed_files(files, metadata)
        report = build_index(self.index, source, self.embedder, add=True, show_progress=show_progress)
        self.reload()
        return report

    @property
    def embedder(self) -> "Embedder":
        """The model and its processor, which are loaded with the first use."""
        with self._loading:
            if self._embedder is None:
                from .embedder import Embedder

                embedder = Embedder.load(self.manifest.model, self._device)
                check_model(self.index, self.manifest, embedder)
                self._embedder = embedder
        return self._embedder

    def embed_sentence(self, sentence: str) -> np.ndarray:
        """Embeds a sentence as a query vector, float32 [dimensions], without β; errors as `search_text`."""
        check_sentence(sentence)
        vector = None if self._encoder is None else self._encoder.embed_sentence(sentence)
        return self.embedder.embed_sentence(sentence) if vector is None else vector

    def reload(self) -> bool:
        """Opens the new generation of the index if its manifest has changed; returns whether it has.

        Row numbers of earlier hits are then invalid, see `row_of`. Raises `ValueError` if the new generation was built
        by another model.
        """
        stamp = self._manifest_stamp()
        if stamp in (self._stamp, None):  # None: the index is being replaced, or is gone
            return False
        with self._reloading:
            if stamp != self._stamp:
                opened = open_index(self.index)
                old, new = self.manifest, opened.manifest
                if (old.weights, old.config) != (new.weights, new.config):
                    raise ValueError(f"{self.index}: now built by the model {new.describe_model()}; open it again")
                # One assignment, so that searches in other threads see either the old or the new generation
                self._state, self._stamp = SearchedState(opened), stamp
                logger.warning(f"{self.index}: the index was updated and has {len(self)} images now")
        return True

    def search_text(
        self,
        sentence: str,
        top_k: int = 20,
        clothing_weight: float | None = None,
        where: Filter = None,
        rerank: int = 0,
    ) -> list[PersonHit]:
        """Searches by a sentence; see `remarks` for what the model cannot read.

        Args:
            rerank: K, the first images that the model's matching head orders again; at β = 0 they keep their order.

        Raises:
            ValueError: K without a matching head; see also `search_vector`.
        """
        if rerank < 0:
            raise ValueError(f"rerank must be 0 or more, got {rerank}")
        hits = self.search_vector(self.embed_sentence(sentence), max(top_k, rerank), clothing_weight, where)
        if rerank:
            beta = self.manifest.clothing_weight if clothing_weight is None else float(clothing_weight)
            scores = beta * self.embedder.match(sentence, (self.image(hit.row) for hit in hits[:rerank]))  # [K]
            first = [
                replace(hit, score=hit.score + score, match_score=score)
                for hit, score in zip(hits[:rerank], scores.tolist(), strict=True)
            ]
            hits = sorted(first, key=lambda hit: -hit.score) + hits[rerank:]
        return hits[:top_k]

    def search_image(
        self,
        image: Image.Image | str | Path,
        top_k: int = 20,
        clothing_weight: float | None = None,
        where: Filter = None,
    ) -> list[PersonHit]:
        """Searches by a picture of one person, a PIL image or a file; see `picture_remarks`."""
        from ..images import open_image

        return self.search_vector(self.embedder.embed_image(open_image(image)), top_k, clothing_weight, where)

    def search_row(
        self, row: int, top_k: int = 20, clothing_weight: float | None = None, where: Filter = None
    ) -> list[PersonHit]:
        """Searches by image `row` of the index, which is among the hits."""
        return self.search_vector(self.vector(row), top_k, clothing_weight, where)

    def search_vector(
        self, vector: np.ndarray, top_k: int = 20, clothing_weight: float | None = None, where: Filter = None
    ) -> list[PersonHit]:
        """Searches by a vector, a `pooler_output` [dimensions] without β."""
        # Validation
        self.reload()
        state = self._state
        manifest = state.manifest
        query = np.array(vector, dtype=np.float32)  # a copy
        if query.shape != (manifest.dimensions,) or not np.isfinite(query).all():
            raise ValueError(f"a query is a vector of {manifest.dimensions} finite numbers, got shape {query.shape}")
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        beta = manifest.clothing_weight if clothing_weight is None else float(clothing_weight)
        if not (beta >= 0 and math.isfinite(beta)):
            raise ValueError(f"clothing_weight must be 0 or more, got {clothing_weight}")
        return state.search(self.index, query, top_k, beta, conditions(where))

    def record(
        self,
        query: str | Path | Image.Image,
        where: Filter = None,
        clothing_weight: float | None = None,
        top_k: int = 20,
    ) -> SearchRecord:
        """Returns the facts of a search that has just been made, for `export_hits`.

        The query is a sentence (`str`), a picture file (`Path`) or a picture.
        """
        return record_search(self.index, self.manifest, query, where, clothing_weight, top_k)

    def remarks(self, sentence: str) -> list[str]:
        """Returns notes on what the model does not read in a sentence: negation, foreign words, too many words."""
        tokenizer = self.embedder.processor.tokenizer if self._encoder is None else self._encoder.tokenizer
        return sentence_remarks(sentence, tokenizer)

    def picture_remarks(self, picture: Image.Image | str | Path) -> list[str]:
        """Returns notes on a query picture that is probably no crop of one person."""
        from ..images import open_image
        from .picture_checks import picture_remarks

        image = open_image(picture)
        return picture_remarks(image, self.embedder.pixels.resize(image))

    def row_of(self, name: str) -> int:
        """Returns the row of an image by the `name` of a hit; raises `ValueError` if it is no longer in the index."""
        return self._state.table.row_of(name)

    def path(self, row: int) -> Path:
        """Returns the file of image `row`; raises `ValueError` if there is no such row."""
        self._check_row(row)
        state = self._state
        return state.manifest.image_root(self.index) / state.table.rows(np.array([row]))[0]["path"]

    def image(self, row: int) -> Image.Image:
        """Returns image `row`, upright, in RGB; raises `ValueError` as `path`, or `OSError` for an unreadable file."""
        from ..images import open_image

        return open_image(self.path(row))

    def vector(self, row: int) -> np.ndarray:
        """Returns the vector of image `row`, float32 [dimensions]; raises `ValueError` if there is no such row."""
        self._check_row(row)
        return self._state.store.vectors([row])[0]

    @property
    def columns(self) -> dict[str, str]:
        """Names and duckdb types of the columns that `where` can use."""
        return self._state.table.columns

    @property
    def time_zone(self) -> str:
        """The zone in which times with an offset are shown and compared with dates."""
        return self.manifest.time_zone

    @property
    def has_zones(self) -> bool:
        """Whether a column has times with an offset."""
        return self._state.table.has_zones

    def values(self, column: str, limit: int = 100) -> list[Any]:
        """Returns the `limit` most frequent values of a column, sorted; raises `ValueError` for an unknown column."""
        return self._state.table.values(column, limit)

    @property
    def manifest(self) -> Manifest:
        """The manifest of the index: model, dimensions, index type, generation."""
        return self._state.manifest

    def __len__(self) -> int:
        return self.manifest.count

    def close(self) -> None:
        """Closes files and connections."""
        self._state.table.close()
        self._state.store.close()

    def __enter__(self) -> "PersonGallery":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _manifest_stamp(self) -> tuple[int, ...] | None:
        """Returns what changes when the manifest is replaced; None if there is none."""
        try:
            status = os.stat(self.index / MANIFEST)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size

    def _check_row(self, row: int) -> None:
        if not 0 <= row < len(self):
            raise ValueError(f"there is no row {row}: the gallery has {len(self)} images")


__all__ = ["PersonGallery", "PersonGroup", "PersonHit", "group_by_person"]
