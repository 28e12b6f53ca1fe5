"""What a gallery wants of the place where its vectors lie; faiss and Milvus give it."""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

IndexType = Literal["exact", "hnsw", "int8"]


class VectorStore(Protocol):
    """Vectors numbered from 0, in the order of the index's table; safe to read from several threads."""

    def search(self, query: np.ndarray, count: int, rows: np.ndarray | None = None) -> np.ndarray:
        """The rows whose dot product with `query` [dimensions] is largest, best first, int64 [at most count].

        Args:
            rows: search these alone (int64, ascending); None for all.
        """

    def vectors(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The vectors of rows, float32 [len(rows), dimensions]."""

    def close(self) -> None:
        """Lets go of files and connections."""
