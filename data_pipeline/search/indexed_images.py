"""An opened index: its images, their metadata and vectors, and its updates."""

import logging
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .index.manifest import MANIFEST, Manifest, read_manifest
from .index.opened import OpenedIndex, open_index
from .searched_state import SearchedState

logger = logging.getLogger(__name__)


class IndexedImages:
    """The images of an opened index.

    Attributes:
        index: folder of the index.
    """

    def __init__(self, index: Path, opened: OpenedIndex) -> None:
        self.index = index
        self._state = SearchedState(opened)
        is_current = self._manifest_stamp() is not None and read_manifest(index) == opened.manifest
        self._stamp = self._manifest_stamp() if is_current else ()
        self._reloading = threading.Lock()

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

    def row_of(self, name: str) -> int:
        """Returns the row of an image by the `name` of a hit; raises `ValueError` if it is no longer in the index."""
        return self._state.table.row_of(name)

    def path(self, row: int) -> Path:
        """Returns the file of image `row`; raises `ValueError` if there is no such row."""
        return self.manifest.image_root(self.index) / self.metadata(row)["path"]

    def metadata(self, row: int) -> dict[str, Any]:
        """Returns the metadata columns of image `row`, and its `path` in the index; raises `ValueError` as `path`."""
        self._check_row(row)
        return self._state.table.rows(np.array([row]))[0]

    def image(self, row: int) -> Image.Image:
        """Returns image `row`, upright, in RGB; raises `ValueError` as `path`, or `OSError` for an unreadable file."""
        from ..images import open_image

        return open_image(self.path(row))

    def vector(self, row: int) -> np.ndarray:
        """Returns the vector of image `row`, float32 [dimensions]; raises `ValueError` if there is no such row."""
        self._check_row(row)
        return self._state.store.vectors([row])[0]

    def content(self, row: int) -> str | None:
        """Returns the SHA-256 of the file of image `row` when it was embedded, as the `content` of a hit."""
        self._check_row(row)
        return self._state.contents[row]

    @property
    def columns(self) -> dict[str, str]:
        """Names and duckdb types of the columns that `where` can use."""
        return self._state.table.columns

    @property
    def fields(self) -> dict[str, str]:
        """The SQL of each text in a column of objects, by its name, such as `identity_attributes.gender`."""
        return self._state.table.fields

    @property
    def time_zone(self) -> str:
        """The zone in which times with an offset are shown and compared with dates."""
        return self.manifest.time_zone

    @property
    def has_zones(self) -> bool:
        """Whether a column has times with an offset."""
        return self._state.table.has_zones

    def values(self, column: str, limit: int = 100) -> list[Any]:
        """Returns the `limit` most frequent values of a column or field, sorted; raises `ValueError` for another."""
        return self._state.table.values(column, limit)

    def bounds(self, column: str) -> tuple[Any, Any]:
        """Returns the smallest and the largest value of a column, None without values; raises as `values`."""
        return self._state.table.bounds(column)

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
