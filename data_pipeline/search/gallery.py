"""Searches an index of person images by a sentence, a picture or a vector."""

import math
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from modeling_bdam.evaluation.calibration import Calibration, Kind
from modeling_bdam.files import default_device

from .composition import Source, clothes_of, compose_vectors, content_of, query_kind
from .hits import PersonGroup, PersonHit, group_by_person, rerank_hits
from .index.manifest import read_manifest
from .index.opened import OpenedIndex, check_model, open_index
from .indexed_images import IndexedImages
from .search_record import SearchRecord, conditions, record_search
from .searched_state import SearchedState
from .sentence_checks import check_sentence, sentence_remarks

if TYPE_CHECKING:
    from datasets import Dataset

    from .embedder import Embedder
    from .index.report import IndexReport
    from .query_encoder import QueryEncoder

Filter = str | Sequence[str] | None
_PART = 32  # images of which the tokens are in memory


class PersonGallery(IndexedImages):
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
        super().__init__(index, opened)
        self._embedder, self._encoder, self._device = embedder, encoder, device
        self._loading = threading.Lock()

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

    def __enter__(self) -> "PersonGallery":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def score_calibration(self) -> Calibration | None:
        """The calibration of the model, from which the likelihood of a hit is computed; None for an earlier model."""
        return (
            self.embedder.model.config.score_calibration if self._encoder is None else self._encoder.score_calibration
        )

    def embed_sentence(self, sentence: str) -> np.ndarray:
        """Embeds a sentence as a query vector, float32 [dimensions], without β; errors as `search_text`."""
        check_sentence(sentence)
        vector = None if self._encoder is None else self._encoder.embed_sentence(sentence)
        return self.embedder.embed_sentence(sentence) if vector is None else vector

    def search_text(
        self,
        sentence: str,
        top_k: int = 20,
        clothing_weight: float | None = None,
        where: Filter = None,
        rerank: int = 0,
        without: str | None = None,
    ) -> list[PersonHit]:
        """Searches by a sentence; see `remarks` for what the model cannot read, and `search_composed`."""
        return self.search_composed(None, sentence, top_k, clothing_weight, where, without=without, rerank=rerank)

    def search_image(
        self,
        image: Image.Image | str | Path,
        top_k: int = 20,
        clothing_weight: float | None = None,
        where: Filter = None,
        without: str | None = None,
        include_self: bool = False,
    ) -> list[PersonHit]:
        """Searches by a picture of one person, a PIL image or a file; see `picture_remarks` and `search_composed`."""
        options: dict[str, Any] = {"without": without, "include_self": include_self}
        return self.search_composed(image, None, top_k, clothing_weight, where, **options)

    def search_composed(
        self,
        image: Image.Image | str | Path | None = None,
        sentence: str | None = None,
        top_k: int = 20,
        clothing_weight: float | None = None,
        where: Filter = None,
        *,
        identity_from: Source = "image",
        without: str | None = None,
        include_self: bool = False,
        rerank: int = 0,
    ) -> list[PersonHit]:
        """Searches by a picture and a sentence: the identity of one in the clothing of the other.

        Args:
            image: a picture of one person, a PIL image or a file.
            sentence: a description; image or sentence may be None.
            identity_from: the source of the identity, "image" or "text"; the other one is the source of the clothing.
            without: words that hits should not match, such as "a backpack".
            include_self: whether the file `image` may be a hit; by default images of its content are left out.
            rerank: see `search_vector`; the clothing must be that of the sentence.

        Raises:
            ValueError: there is neither an image nor a sentence; see also `search_vector`.
        """
        vector = self.compose(image, sentence, identity_from, without)
        excluded = None if include_self else content_of(image)
        kind = query_kind(image is not None, sentence is not None, identity_from, without is not None)
        clothes = clothes_of(image is not None, sentence, identity_from)
        return self.search_vector(vector, top_k, clothing_weight, where, excluded, kind, rerank, clothes)

    def search_row(
        self, row: int, top_k: int = 20, clothing_weight: float | None = None, where: Filter = None
    ) -> list[PersonHit]:
        """Searches by image `row` of the index, which is among the hits."""
        return self.search_vector(self.vector(row), top_k, clothing_weight, where, kind="image")

    def search_vector(
        self,
        vector: np.ndarray,
        top_k: int = 20,
        clothing_weight: float | None = None,
        where: Filter = None,
        excluded: str | None = None,
        kind: Kind | None = None,
        rerank: int = 0,
        clothes: str | None = None,
    ) -> list[PersonHit]:
        """Searches by a vector, a `pooler_output` [dimensions] without β.

        Args:
            excluded: SHA-256 of the files that are no hits, as the `content` of a hit.
            kind: of the query, for the likelihood of the hits; None for hits without one.
            rerank: K, the first images that the model's matching head orders again, by the tokens in the index or else
                in the image files; at β = 0 they keep their order.
            clothes: the sentence to match, for `rerank`.

        Raises:
            ValueError: K without a matching head or a sentence; see also the class.
        """
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
        if rerank < 0:
            raise ValueError(f"rerank must be 0 or more, got {rerank}")
        if rerank and clothes is None:
            raise ValueError("rerank needs a sentence for the clothes, because a picture has no text to match")
        if rerank:
            self.embedder.check_matching()
        calibration = None if kind is None else self.score_calibration
        wanted = max(top_k, rerank) + (excluded is not None)
        # Search, then re-ranking of the first hits
        hits = state.search(self.index, query, wanted, beta, conditions(where), calibration, kind)
        hits = [hit for hit in hits if excluded is None or hit.content != excluded]
        if hits and rerank and clothes is not None:
            scores = beta * self.embedder.match(clothes, self._tokens(state, hits[:rerank]))  # [K]
            hits = rerank_hits(hits, scores.tolist())
        return hits[:top_k]

    def _tokens(self, state: SearchedState, hits: Sequence[PersonHit]) -> Iterator[np.ndarray]:
        """Yields the tokens of hits in parts, float16 [at most _PART, 2L, D]: stored ones, or those of the files."""
        from ..images import open_image

        for start in range(0, len(hits), _PART):
            part = hits[start : start + _PART]
            if state.tokens is not None:
                yield state.tokens[[hit.row for hit in part]]
            else:
                yield self.embedder.image_tokens(open_image(hit.path) for hit in part)

    def compose(
        self,
        image: Image.Image | str | Path | None = None,
        sentence: str | None = None,
        identity_from: Source = "image",
        without: str | None = None,
    ) -> np.ndarray:
        """Returns the query vector of `search_composed`, float32 [dimensions], without β; the same errors."""
        from ..images import open_image

        picture = None if image is None else self.embedder.embed_image(open_image(image))
        words, removed = (None if text is None else self.embed_sentence(text) for text in (sentence, without))
        return compose_vectors(picture, words, identity_from, removed)

    def record(
        self,
        query: str | Path | Image.Image,
        where: Filter = None,
        clothing_weight: float | None = None,
        top_k: int = 20,
        title: str | None = None,
    ) -> SearchRecord:
        """Returns the facts of a search that has just been made, for `export_hits`.

        The query is a sentence (`str`), a picture file (`Path`) or a picture; `title` describes one of several parts.
        """
        return record_search(self.index, self.manifest, query, where, clothing_weight, top_k, title)

    def remarks(self, sentence: str) -> list[str]:
        """Returns notes on what the model does not read in a sentence: negation, foreign words, too many words."""
        if self._encoder is not None:
            return sentence_remarks(sentence, self._encoder.tokenizer)
        return self.embedder.remarks(sentence)

    def picture_remarks(self, picture: Image.Image | str | Path) -> list[str]:
        """Returns notes on a query picture that is probably no crop of one person."""
        from ..images import open_image
        from .picture_checks import picture_remarks

        image = open_image(picture)
        return picture_remarks(image, self.embedder.pixels.resize(image))


__all__ = ["PersonGallery", "PersonGroup", "PersonHit", "group_by_person"]
