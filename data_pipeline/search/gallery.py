"""Searches an index of person images by a sentence, a picture or a vector."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import torch
from datasets import Dataset
from PIL import Image

from modeling_bdam.outputs_bdam import weigh_clothing

from ..images import open_image
from .embedder import Embedder
from .index.indexing import IndexReport, build_index, check_model
from .index.manifest import Manifest, read_manifest
from .index.opened import OpenedIndex, open_index
from .index.sources import GallerySource, key_table, side_by_side
from .metadata_table import MetadataTable


@dataclass(frozen=True)
class PersonHit:
    """One search result.

    Attributes:
        row: row number in the index, an argument of `image`, `vector` and `search_row`; valid until the next update.
        path: the image file.
        name: path of the image in the index, relative to the indexed folder.
        score: `identity_score + clothing_score`; hits are ranked by it.
        identity_score: q_id · g_id, in [-1, 1].
        clothing_score: β q_clo · g_clo, in [-β, β].
        metadata: the metadata columns of the image (`person_id`, `camera_id`, ...); None for missing values.
    """

    row: int
    path: Path
    name: str
    score: float
    identity_score: float
    clothing_score: float
    metadata: dict[str, Any]


@dataclass(frozen=True)
class PersonGroup:
    """The hits of one person, best first. A hit of an unknown person is a separate group with `person_id` None."""

    person_id: Any
    hits: list[PersonHit]


class PersonGallery:
    """An opened index; searches are thread-safe.

    All searches have these arguments:
        top_k: number of hits; there are fewer if the gallery or its filtered part is smaller.
        clothing_weight: β, by default the model's. 0 also finds a person in other clothes.
        where: SQL filter of duckdb over `columns`, such as `camera == 3 and time > '2026-05-01'`. A filtered search in
            an `exact` or `hnsw` index is exact.
    They return hits, best first. They raise `ValueError` for an invalid argument, and `OSError` if a picture cannot be
    read or the Milvus cluster does not respond.

    Example:
        ```python
        with PersonGallery.build("outputs/gallery", "photos/", "outputs/tiny") as gallery:
            for hit in gallery.search_text("a woman in a red coat, short grey hair", clothing_weight=0.3):
                print(hit.score, hit.path)
        ```

    Attributes:
        index: folder of the index.
        embedder: holds the `model` and the `processor` of transformers.
    """

    def __init__(self, index: Path, opened: OpenedIndex, embedder: Embedder) -> None:
        """Not for direct use; see `open` and `build`."""
        self.index = index
        self.embedder = embedder
        self._state = (opened.manifest, MetadataTable(opened.table), opened.store)

    @classmethod
    def open(
        cls, index: str | Path, model: str | Path | Embedder | None = None, device: str | None = None
    ) -> "PersonGallery":
        """Opens an index and loads its model.

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
        embedder = model if isinstance(model, Embedder) else Embedder.load(model or manifest.model, device)
        opened = open_index(folder)
        check_model(folder, opened, embedder)
        return cls(folder, opened, embedder)

    @classmethod
    def build(
        cls,
        index: str | Path,
        images: str | Path | Dataset,
        model: str | Path | Embedder,
        *,
        device: str | None = None,
        show_progress: bool = True,
        **options: Any,
    ) -> "PersonGallery":
        """Builds or updates an index and opens it; see `build_index` for arguments, options and errors."""
        embedder = model if isinstance(model, Embedder) else Embedder.load(model, device)
        build_index(index, images, embedder, show_progress=show_progress, **options)
        return cls.open(index, embedder)

    def add(
        self, files: Sequence[str | Path], metadata: Sequence[dict[str, Any]] | None = None, show_progress: bool = False
    ) -> IndexReport:
        """Adds image files to the index, or replaces those of the same path, and opens the new generation.

        A later `build` of the folder removes files outside it again.

        Args:
            files: the images; those outside the indexed folder are named by their absolute path.
            metadata: column values of each file; new columns are null for the other images.
            show_progress: whether to show progress bars.

        Raises:
            ValueError, OSError: as `build_index`; or the metadata does not fit the columns.
        """
        opened = open_index(self.index)
        source = partial(_with_more_files, self.index, opened, files, metadata)
        report = build_index(self.index, source, self.embedder, show_progress=show_progress)
        opened.store.close()
        opened = open_index(self.index)
        # One assignment, so that searches in other threads see either the old or the new generation
        self._state = (opened.manifest, MetadataTable(opened.table), opened.store)
        return report

    def search_text(
        self, sentence: str, top_k: int = 20, clothing_weight: float | None = None, where: str | None = None
    ) -> list[PersonHit]:
        """Searches by a sentence; see `remark` for words that the model cannot read."""
        return self.search_vector(self.embedder.embed_sentence(sentence), top_k, clothing_weight, where)

    def search_image(
        self,
        image: Image.Image | str | Path,
        top_k: int = 20,
        clothing_weight: float | None = None,
        where: str | None = None,
    ) -> list[PersonHit]:
        """Searches by a picture of one person, a PIL image or a file."""
        return self.search_vector(self.embedder.embed_image(open_image(image)), top_k, clothing_weight, where)

    def search_row(
        self, row: int, top_k: int = 20, clothing_weight: float | None = None, where: str | None = None
    ) -> list[PersonHit]:
        """Searches by image `row` of the index, which is among the hits."""
        return self.search_vector(self.vector(row), top_k, clothing_weight, where)

    def search_vector(
        self, vector: np.ndarray, top_k: int = 20, clothing_weight: float | None = None, where: str | None = None
    ) -> list[PersonHit]:
        """Searches by a vector, a `pooler_output` [dimensions] without β."""
        # Validation
        manifest, table, store = self._state
        query = np.asarray(vector, dtype=np.float32)
        if query.shape != (manifest.dimensions,) or not np.isfinite(query).all():
            raise ValueError(f"a query is a vector of {manifest.dimensions} finite numbers, got shape {query.shape}")
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        beta = manifest.clothing_weight if clothing_weight is None else float(clothing_weight)
        if not (beta >= 0 and math.isfinite(beta)):
            raise ValueError(f"clothing_weight must be 0 or more, got {clothing_weight}")

        # Candidates: the store may use approximate vectors
        rows = None if where is None or not where.strip() else table.select(where)
        count = min(top_k, manifest.count if rows is None else len(rows))
        if count == 0:
            return []
        query = weigh_clothing(torch.tensor(query), beta).numpy()  # [dimensions]
        found = store.search(query, count, rows)  # [F], F ≥ count

        # Exact scores by the float32 vectors; ties are ordered by row
        products = store.vectors(found) * query  # [F, dimensions]
        identity, clothing = (half.sum(axis=1, dtype=np.float64) for half in np.split(products, 2, axis=1))  # [F] each
        clothing += 0.0  # turns -0.0 at β = 0 into 0.0
        scores = identity + clothing
        order = np.lexsort((found, -scores))[:count]
        root = manifest.image_root(self.index)
        return [
            PersonHit(
                row=int(found[place]),
                path=root / metadata["path"],
                name=metadata["path"],
                score=float(scores[place]),
                identity_score=float(identity[place]),
                clothing_score=float(clothing[place]),
                metadata={name: value for name, value in metadata.items() if name != "path"},
            )
            for place, metadata in zip(order, table.rows(found[order]), strict=True)
        ]

    def remark(self, sentence: str) -> str | None:
        """Returns a note if the model cannot read a part of a sentence (foreign words, too long), or None."""
        return self.embedder.remark(sentence)

    def path(self, row: int) -> Path:
        """Returns the file of image `row`; raises `ValueError` if there is no such row."""
        self._check_row(row)
        manifest, table, _ = self._state
        return manifest.image_root(self.index) / table.rows(np.array([row]))[0]["path"]

    def image(self, row: int) -> Image.Image:
        """Returns image `row`, upright, in RGB; raises `ValueError` as `path`, or `OSError` for an unreadable file."""
        return open_image(self.path(row))

    def vector(self, row: int) -> np.ndarray:
        """Returns the vector of image `row`, float32 [dimensions]; raises `ValueError` if there is no such row."""
        self._check_row(row)
        return self._state[2].vectors([row])[0]

    @property
    def columns(self) -> dict[str, str]:
        """Names and duckdb types of the columns that `where` can use."""
        return self._state[1].columns

    def values(self, column: str, limit: int = 100) -> list[Any]:
        """Returns the `limit` most frequent values of a column, sorted; raises `ValueError` for an unknown column."""
        return self._state[1].values(column, limit)

    @property
    def manifest(self) -> Manifest:
        """The manifest of the index: model, dimensions, index type, generation."""
        return self._state[0]

    def __len__(self) -> int:
        return self._state[0].count

    def close(self) -> None:
        """Closes files and connections."""
        _, table, store = self._state
        table.close()
        store.close()

    def __enter__(self) -> "PersonGallery":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _check_row(self, row: int) -> None:
        if not 0 <= row < len(self):
            raise ValueError(f"there is no row {row}: the gallery has {len(self)} images")


def group_by_person(hits: Sequence[PersonHit]) -> list[PersonGroup]:
    """Groups hits by `person_id`, in the order of their best hits; an unknown person (none, or -1) is not grouped."""
    groups: dict[Any, PersonGroup] = {}
    for hit in hits:
        person = hit.metadata.get("person_id")
        known = person not in (None, -1, "-1")  # a column with names is text
        key = (person,) if known else ("unknown", hit.row)
        groups.setdefault(key, PersonGroup(person if known else None, [])).hits.append(hit)
    return list(groups.values())


def _with_more_files(
    index: Path, opened: OpenedIndex, files: Sequence[str | Path], metadata: Sequence[dict[str, Any]] | None
) -> GallerySource:
    """Returns the images of an index merged with new files."""
    if metadata is not None and len(metadata) != len(files):
        raise ValueError(f"add: {len(files)} files but {len(metadata)} rows of metadata: give one row per file")
    root = opened.manifest.image_root(index)
    places = [Path(os.path.realpath(file)) for file in files]
    missing = [place for place in places if not place.is_file()]
    if missing:
        raise FileNotFoundError(f"add: {missing[0]}: there is no such file")
    names = [(place.relative_to(root) if place.is_relative_to(root) else place).as_posix() for place in places]
    keys = key_table(names, places, {})
    if metadata is not None:
        try:
            keys = side_by_side(keys, pa.Table.from_pylist(list(metadata)))
        except pa.ArrowException as error:
            raise ValueError(f"add: the rows of metadata are inconsistent: {error}") from None
    old = opened.table
    replaced = pa.array(set(names), pa.string())
    old = old.filter(pa.compute.invert(pa.compute.is_in(old["path"], value_set=replaced)))
    try:
        table = pa.concat_tables([old, keys], promote_options="permissive").sort_by("path")
    except pa.ArrowException as error:
        raise ValueError(f"add: the metadata does not fit the index's columns: {error}") from None
    # No descriptions: those of the old images are fused into their vectors, and the new files have none
    return GallerySource(opened.manifest.root, table, {})
