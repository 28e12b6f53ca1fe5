"""A gallery of person images that is searched by a sentence, a picture or a vector."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from datasets import Dataset
from PIL import Image

from ..images import open_image
from .embedder import Embedder
from .index.indexing import IndexReport, build_index, check_model, update_index
from .index.manifest import Manifest, read_manifest
from .index.opened import OpenedIndex, open_index
from .index.sources import GallerySource, key_table
from .metadata_table import MetadataTable
from .stores.store import IndexType


@dataclass(frozen=True)
class PersonHit:
    """One image that a search found.

    Attributes:
        row: its number in the index, which `image`, `vector` and `search_row` take; good until the index is rebuilt.
        path: the image file.
        name: its path as the index names it, relative to the indexed folder.
        score: `identity_score + clothing_score`, by which hits are ranked.
        identity_score: q_id · g_id, how well the body fits, from -1 to 1.
        clothing_score: β q_clo · g_clo, how well the clothes fit, from -β to β.
        metadata: what the table says of the image (`person_id`, `camera_id`, ...); None where it says nothing.
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
    """The hits of one person, best first; a hit whose person is not known is a group of its own, `person_id` None."""

    person_id: Any
    hits: list[PersonHit]


class PersonGallery:
    """An index opened for searching; safe to use from several threads.

    Every search takes:
        top_k: how many hits; fewer if the gallery, or what `where` leaves of it, is smaller.
        clothing_weight: β; the model's own by default. 0 finds a person who may have changed clothes.
        where: an expression over the metadata, such as `camera == 3 and time > '2026-05-01'` (SQL of duckdb); the
            columns are those of `columns`. The search within what it selects is exact in an `exact` or `hnsw` index.
    It returns hits, best first, and raises `ValueError` with one line about an argument that makes no sense, `OSError`
    where a picture cannot be read or the cluster that holds the vectors does not answer.

    Example:
        ```python
        with PersonGallery.build("outputs/gallery", "photos/", "outputs/tiny") as gallery:
            for hit in gallery.search_text("a woman in a red coat, short grey hair", clothing_weight=0.3):
                print(hit.score, hit.path)
        ```

    Attributes:
        index: the folder.
        embedder: the model; `embedder.model` and `embedder.processor` are those of transformers.
    """

    def __init__(self, index: Path, opened: OpenedIndex, embedder: Embedder) -> None:
        """Use `open` or `build`."""
        self.index = index
        self.embedder = embedder
        self._state = (opened.manifest, MetadataTable(opened.table), opened.store)

    @classmethod
    def open(
        cls, index: str | Path, model: str | Path | Embedder | None = None, device: str | None = None
    ) -> "PersonGallery":
        """Opens an index and loads its model.

        Args:
            index: the folder that `build` or `bdam index` made.
            model: folder or Hub name, or a loaded model; by default the one that the index was built by.
            device: of the model; by default an accelerator if there is one.

        Raises:
            FileNotFoundError: there is no index, or no model.
            ValueError: the index was built by another model or version, or is damaged.
            OSError: a file cannot be read, or the cluster that holds the vectors does not answer.
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
        descriptions: str | Path | None = None,
        fuse_descriptions: bool = False,
        index_type: IndexType | None = None,
        store: str | None = None,
        device: str | None = None,
        show_progress: bool = True,
    ) -> "PersonGallery":
        """Builds an index, or brings it up to date, and opens it; arguments and errors are `build_index`'s."""
        embedder = model if isinstance(model, Embedder) else Embedder.load(model, device)
        build_index(
            index,
            images,
            embedder,
            descriptions=descriptions,
            fuse_descriptions=fuse_descriptions,
            index_type=index_type,
            store=store,
            show_progress=show_progress,
        )
        return cls.open(index, embedder)

    def add(
        self,
        files: Sequence[str | Path],
        metadata: Sequence[dict[str, Any]] | None = None,
        show_progress: bool = False,
    ) -> IndexReport:
        """Puts more image files into the index, in the place of those of the same path, and opens its new state.

        A later `build` of a folder makes the index the image of that folder again.

        Args:
            files: the images; those outside the indexed folder are named by their whole path.
            metadata: for each, values of the index's columns; new columns are empty for the other images.

        Raises:
            ValueError, OSError: as of `build_index`; or the metadata does not fit the columns.
        """
        opened = open_index(self.index)
        report = update_index(
            self.index,
            lambda: _with_more_files(self.index, opened, files, metadata),
            self.embedder,
            show_progress=show_progress,
        )
        opened.store.close()
        opened = open_index(self.index)
        # At once, for searches in other threads; they keep what they hold of the last state.
        self._state = (opened.manifest, MetadataTable(opened.table), opened.store)
        return report

    def search_text(
        self, sentence: str, top_k: int = 20, clothing_weight: float | None = None, where: str | None = None
    ) -> list[PersonHit]:
        """The images that a sentence describes; see `remark` for what the model cannot read in it."""
        return self.search_vector(self.embedder.embed_sentence(sentence), top_k, clothing_weight, where)

    def search_image(
        self,
        image: Image.Image | str | Path,
        top_k: int = 20,
        clothing_weight: float | None = None,
        where: str | None = None,
    ) -> list[PersonHit]:
        """The images that look like a picture of one person, a PIL image or a file."""
        return self.search_vector(self.embedder.embed_image(open_image(image)), top_k, clothing_weight, where)

    def search_row(
        self, row: int, top_k: int = 20, clothing_weight: float | None = None, where: str | None = None
    ) -> list[PersonHit]:
        """More like this: the images that look like image `row` of the index, itself among them."""
        return self.search_vector(self.vector(row), top_k, clothing_weight, where)

    def search_vector(
        self, vector: np.ndarray, top_k: int = 20, clothing_weight: float | None = None, where: str | None = None
    ) -> list[PersonHit]:
        """The images whose vectors score best with `vector`, a `pooler_output` [dimensions]; β is applied here."""
        manifest, table, store = self._state
        query = np.asarray(vector, dtype=np.float32)
        if query.shape != (manifest.dimensions,) or not np.isfinite(query).all():
            raise ValueError(f"a query is a vector of {manifest.dimensions} finite numbers, not of shape {query.shape}")
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        beta = manifest.clothing_weight if clothing_weight is None else float(clothing_weight)
        if not (beta >= 0 and math.isfinite(beta)):
            raise ValueError(f"clothing_weight must be 0 or more, got {clothing_weight}")

        rows = None if where is None or not where.strip() else table.select(where)
        count = min(top_k, manifest.count if rows is None else len(rows))
        if count == 0:
            return []
        half = manifest.dimensions // 2
        weights = np.repeat(np.array([1, beta], dtype=np.float32), half)
        found = store.search(query * weights, count, rows)
        products = store.vectors(found) * query  # [F, dimensions]
        identity = products[:, :half].sum(axis=1, dtype=np.float64)
        clothing = beta * products[:, half:].sum(axis=1, dtype=np.float64) + 0.0  # at β = 0 it would be -0
        scores = identity + clothing
        # Exact scores, whatever the store's own are: it may hold less precise copies. Equal ones stand by row.
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
        """One line about what the model cannot read in a sentence (foreign words, more than it takes), or None."""
        return self.embedder.remark(sentence)

    def path(self, row: int) -> Path:
        """The file of image `row`.

        Raises:
            ValueError: there is no such row.
        """
        manifest, table, _ = self._state
        self._check_row(row)
        return manifest.image_root(self.index) / table.rows(np.array([row]))[0]["path"]

    def image(self, row: int) -> Image.Image:
        """Image `row`, upright, in RGB.

        Raises:
            ValueError: there is no such row.
            OSError: the file is gone or cannot be read any more.
        """
        return open_image(self.path(row))

    def vector(self, row: int) -> np.ndarray:
        """The vector of image `row`, float32 [dimensions].

        Raises:
            ValueError: there is no such row.
        """
        self._check_row(row)
        return self._state[2].vectors([row])[0]

    @property
    def columns(self) -> dict[str, str]:
        """Name and type (duckdb's) of every column that `where` can use."""
        return self._state[1].columns

    def values(self, column: str, limit: int = 100) -> list[Any]:
        """The values of a column, sorted, for a menu of filters; the most frequent `limit` of them.

        Raises:
            ValueError: there is no such column.
        """
        return self._state[1].values(column, limit)

    @property
    def manifest(self) -> Manifest:
        """What the index is: its model, dimensions, type and place."""
        return self._state[0]

    def __len__(self) -> int:
        return self._state[0].count

    def close(self) -> None:
        """Lets go of files and connections."""
        _, table, store = self._state
        table.close()
        store.close()

    def __enter__(self) -> "PersonGallery":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check_row(self, row: int) -> None:
        if not 0 <= row < len(self):
            raise ValueError(f"there is no row {row}: the gallery has {len(self)} images")


def group_by_person(hits: Sequence[PersonHit]) -> list[PersonGroup]:
    """Hits of one person together, people by their best hit; who has no `person_id`, or -1, stands alone."""
    groups: dict[Any, PersonGroup] = {}
    for hit in hits:
        person = hit.metadata.get("person_id")
        known = person is not None and person != -1
        key = (person,) if known else ("unknown", hit.row)
        groups.setdefault(key, PersonGroup(person if known else None, [])).hits.append(hit)
    return list(groups.values())


def _with_more_files(
    index: Path, opened: OpenedIndex, files: Sequence[str | Path], metadata: Sequence[dict[str, Any]] | None
) -> GallerySource:
    """The images of an index and more of them."""
    if metadata is not None and len(metadata) != len(files):
        raise ValueError(f"add: {len(files)} files but {len(metadata)} rows of metadata: give one a file")
    root = opened.manifest.image_root(index)
    places = [Path(os.path.realpath(file)) for file in files]
    missing = [place for place in places if not place.is_file()]
    if missing:
        raise FileNotFoundError(f"add: {missing[0]}: there is no such file")
    names = [(place.relative_to(root) if place.is_relative_to(root) else place).as_posix() for place in places]
    keys = key_table(names, places, {})
    if metadata is not None:
        try:
            told = pa.Table.from_pylist(list(metadata))
            for name in told.column_names:
                keys = keys.append_column(name, told[name])
        except pa.ArrowException as error:
            raise ValueError(f"add: the metadata does not fit together: {error}") from None
    old = opened.table
    replaced = pa.array(set(names), pa.string())
    old = old.filter(pa.compute.invert(pa.compute.is_in(old["path"], value_set=replaced)))
    try:
        table = pa.concat_tables([old, keys], promote_options="permissive").sort_by("path")
    except pa.ArrowException as error:
        raise ValueError(f"add: the metadata does not fit the index's columns: {error}") from None
    # Descriptions were fused into vectors that stay; the files that are new have none.
    return GallerySource(opened.manifest.root, table, {})
