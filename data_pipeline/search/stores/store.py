"""The interface of a vector store, and the index types."""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

IndexType = Literal["exact", "hnsw", "int8"]


class VectorStore(Protocol):
    """The vectors of one generation, numbered by the rows of its table; reads are thread-safe.

    Errors of a remote store are `OSError` if it does not respond, and `ValueError` if it lacks data.
    """

    def search(self, query: np.ndarray, count: int, rows: np.ndarray | None = None) -> np.ndarray:
        """Returns the rows with the largest inner products, best first, int64.

        An approximate index may return more than `count` candidates, to be ranked again by their exact vectors.

        Args:
            query: float32 [dimensions].
            count: number of rows; fewer are returned only if fewer are searched.
            rows: restricts the search to these rows (int64, ascending); None for all.
        """

    def vectors(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns the vectors of the given rows, float32 [len(rows), dimensions]."""

    def close(self) -> None:
        """Closes files and connections."""
