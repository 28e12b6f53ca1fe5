"""Vectors in the index folder, searched by faiss in this process."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np

from modeling_bdam.files import usable_cores

from .store import IndexType

faiss: Any = _faiss  # its type stubs do not know what its Python layer adds
# For one query, BLAS copies every vector before it multiplies: a scan without it takes half the time.
faiss.cvar.distance_compute_blas_threshold = 1_000_000  # queries at once
VECTORS, APPROXIMATION = "vectors.faiss", "approximation.faiss"
EXACT_UP_TO = 1_000_000  # rows; a scan of as many takes a tenth of a second on two cores

# Of the graph; tests/benchmarks/search_scale.py prints its recall, and its speed beside a scan's.
_LINKS, _BUILD_WIDTH, _SEARCH_WIDTH = 32, 100, 512
_CHUNK = 65536  # rows
_TRAINING_ROWS = 100_000


class FaissStore:
    """The vectors of one index, in the order of its table.

    The vectors lie in a file that is mapped into memory: processes share it, and opening it reads nothing. `exact`
    scans them. `hnsw` walks a graph over them, and scans them where a filter is given. `int8` scans a copy of a
    quarter of the size, and ranks what that finds by the vectors themselves.
    """

    def __init__(self, folder: Path, index_type: IndexType) -> None:
        self._vectors = faiss.read_index(str(folder / VECTORS), faiss.IO_FLAG_MMAP_IFC)
        self._index_type = index_type
        self._threads = ThreadPoolExecutor(usable_cores(), initializer=faiss.omp_set_num_threads, initargs=(1,))
        self._approximation = None
        if index_type == "hnsw":
            flags = faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_SKIP_STORAGE
            self._approximation = faiss.read_index(str(folder / APPROXIMATION), flags)
            self._approximation.storage, self._approximation.own_fields = self._vectors, False
        elif index_type == "int8":
            self._approximation = faiss.read_index(str(folder / APPROXIMATION), faiss.IO_FLAG_MMAP_IFC)

    @staticmethod
    def write(folder: Path, chunks: Iterable[np.ndarray], dimensions: int, index_type: IndexType) -> None:
        """Writes the files of a store into a folder.

        Args:
            chunks: the vectors, float32 [n, dimensions] at a time.

        Raises:
            OSError, RuntimeError: the files cannot be written.
        """
        vectors = faiss.IndexFlatIP(dimensions)
        for chunk in chunks:
            vectors.add(chunk)
        faiss.write_index(vectors, str(folder / VECTORS))
        del vectors
        if index_type == "exact":
            return
        vectors = faiss.read_index(str(folder / VECTORS), faiss.IO_FLAG_MMAP_IFC)
        if index_type == "hnsw":
            graph = faiss.IndexHNSWFlat(dimensions, _LINKS, faiss.METRIC_INNER_PRODUCT)
            graph.hnsw.efConstruction = _BUILD_WIDTH
            # All at once: faiss then starts with a few from everywhere. Chunks of a gallery that is sorted by person
            # or camera become islands: of a million rows so linked, a search missed a quarter of what it should find.
            graph.add(faiss.rev_swig_ptr(vectors.get_xb(), vectors.ntotal * dimensions).reshape(-1, dimensions))
            faiss.write_index(graph, str(folder / APPROXIMATION), faiss.IO_FLAG_SKIP_STORAGE)
        elif index_type == "int8":
            codes = faiss.IndexScalarQuantizer(dimensions, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
            step = max(1, vectors.ntotal // _TRAINING_ROWS)
            codes.train(vectors.reconstruct_batch(np.arange(0, vectors.ntotal, step)))
            for start in range(0, vectors.ntotal, _CHUNK):
                codes.add(vectors.reconstruct_n(start, min(_CHUNK, vectors.ntotal - start)))
            faiss.write_index(codes, str(folder / APPROXIMATION))

    def search(self, query: np.ndarray, count: int, rows: np.ndarray | None = None) -> np.ndarray:
        """The rows whose dot product with `query` [dimensions] is largest, best first, int64 [at most count].

        Args:
            rows: search these alone (int64, without repeats); None for all.
        """
        if self._index_type == "exact" and rows is None:
            return self._scan(query, min(count, self._vectors.ntotal))
        index, wanted, parameters = self._vectors, count, None
        selector = None if rows is None else self._selector(rows)
        if self._index_type == "int8":
            index, wanted = self._approximation, 2 * count + 32
        if self._index_type == "hnsw" and selector is None:
            index = self._approximation
            parameters = faiss.SearchParametersHNSW(efSearch=max(_SEARCH_WIDTH, 2 * count))
        elif selector is not None:
            parameters = faiss.SearchParameters(sel=selector)
        _, found = index.search(query[None], min(wanted, self._vectors.ntotal), params=parameters)
        return found[0][found[0] >= 0]

    def _scan(self, query: np.ndarray, count: int) -> np.ndarray:
        """All vectors, a part in each thread: for one query, faiss's own threads wait for one another."""
        bounds = np.linspace(0, self._vectors.ntotal, usable_cores() + 1).astype(int).tolist()

        def scan(part: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
            within = faiss.SearchParameters(sel=faiss.IDSelectorRange(*part))
            scores, found = self._vectors.search(query[None], count, params=within)
            return scores[0], found[0]

        scores, found = map(np.concatenate, zip(*self._threads.map(scan, pairwise(bounds)), strict=True))
        best = np.argsort(-scores, kind="stable")
        return found[best][found[best] >= 0][:count]

    def vectors(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The vectors of rows, float32 [len(rows), dimensions]."""
        return self._vectors.reconstruct_batch(np.asarray(rows, dtype=np.int64))

    def close(self) -> None:
        """Lets go of the files."""
        self._threads.shutdown()
        self._approximation = None
        self._vectors = None

    def _selector(self, rows: np.ndarray) -> Any:
        mask = np.zeros(self._vectors.ntotal, dtype=bool)
        mask[rows] = True
        return faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
