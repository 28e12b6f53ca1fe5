"""Vectors in the index folder, searched by faiss: exact, HNSW or int8."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np

from modeling_bdam.files import usable_cores

from .store import IndexType

faiss: Any = _faiss  # its type stubs lack the methods of its Python layer
# faiss uses BLAS above this number of queries. For one query BLAS copies all vectors, which doubles the time.
faiss.cvar.distance_compute_blas_threshold = 1_000_000
VECTORS, APPROXIMATION = "vectors.faiss", "approximation.faiss"
EXACT_UP_TO = 1_000_000  # rows; a scan takes 0.1 s on two cores

# HNSW: links per node and beam widths. tests/benchmarks/search_scale.py measures recall and speed.
_LINKS, _BUILD_WIDTH, _SEARCH_WIDTH = 32, 100, 512
# An index measures its recall with a sample of queries, and widens its search beam up to this width if it is low. The
# least recall is above 0.95, because other queries can have a recall that is 0.02 lower.
LEAST_RECALL, RECALL_RANK, _WIDEST_SEARCH = 0.97, 20, 4096
_SAMPLE = 200  # queries
_CHUNK = 65536  # rows
_TRAINING_ROWS = 100_000


class FaissStore:
    """A `VectorStore` of one generation in a folder.

    The vectors are memory-mapped: processes share them, and opening reads nothing.
    1. `exact` scans all vectors.
    2. `hnsw` searches a graph (approximate nearest neighbors); a filtered search scans.
    3. `int8` scans a quantized copy of a quarter of the size and returns candidates.
    """

    def __init__(self, folder: Path, index_type: IndexType) -> None:
        self._vectors = faiss.read_index(str(folder / VECTORS), faiss.IO_FLAG_MMAP_IFC)
        self._index_type = index_type
        self._threads = ThreadPoolExecutor(usable_cores(), initializer=faiss.omp_set_num_threads, initargs=(1,))
        self._approximation: Any = None
        if index_type == "hnsw":
            flags = faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_SKIP_STORAGE
            self._approximation = faiss.read_index(str(folder / APPROXIMATION), flags)
            self._approximation.storage, self._approximation.own_fields = self._vectors, False
        elif index_type == "int8":
            self._approximation = faiss.read_index(str(folder / APPROXIMATION), faiss.IO_FLAG_MMAP_IFC)

    @staticmethod
    def write(folder: Path, chunks: Iterable[np.ndarray], dimensions: int, index_type: IndexType) -> float:
        """Writes vectors, float32 [n, dimensions] per chunk, and their approximate index to a folder.

        Returns the recall at rank 20 of a sample of queries.

        Raises:
            OSError, RuntimeError: the files cannot be written.
        """
        vectors = faiss.IndexFlatIP(dimensions)
        for chunk in chunks:
            vectors.add(chunk)
        faiss.write_index(vectors, str(folder / VECTORS))
        del vectors
        if index_type == "exact":
            return 1.0
        vectors = faiss.read_index(str(folder / VECTORS), faiss.IO_FLAG_MMAP_IFC)
        if index_type == "hnsw":
            graph = faiss.IndexHNSWFlat(dimensions, _LINKS, faiss.METRIC_INNER_PRODUCT)
            graph.hnsw.efConstruction = _BUILD_WIDTH
            # One call for all vectors, because faiss then inserts them in random order. Chunks of a gallery that is
            # sorted by person or camera form disconnected clusters: recall fell to 0.75 at a million rows.
            graph.add(faiss.rev_swig_ptr(vectors.get_xb(), vectors.ntotal * dimensions).reshape(-1, dimensions))
            graph.hnsw.efSearch = _SEARCH_WIDTH
            while (recall := _sampled_recall(vectors, graph)) < LEAST_RECALL and graph.hnsw.efSearch < _WIDEST_SEARCH:
                graph.hnsw.efSearch *= 2
            faiss.write_index(graph, str(folder / APPROXIMATION), faiss.IO_FLAG_SKIP_STORAGE)
            return recall
        if index_type == "int8":
            codes = faiss.IndexScalarQuantizer(dimensions, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
            step = max(1, vectors.ntotal // _TRAINING_ROWS)
            codes.train(vectors.reconstruct_batch(np.arange(0, vectors.ntotal, step)))
            for start in range(0, vectors.ntotal, _CHUNK):
                codes.add(vectors.reconstruct_n(start, min(_CHUNK, vectors.ntotal - start)))
            faiss.write_index(codes, str(folder / APPROXIMATION))
            return _sampled_recall(vectors, codes)
        raise AssertionError(index_type)

    def search(self, query: np.ndarray, count: int, rows: np.ndarray | None = None) -> np.ndarray:
        """Returns the rows with the largest inner products; see `VectorStore`."""
        if self._index_type == "exact" and rows is None:
            return self._scan(query, min(count, self._vectors.ntotal))
        index, wanted, parameters = self._vectors, count, None
        selector = None
        if rows is not None:
            mask = np.zeros(self._vectors.ntotal, dtype=bool)
            mask[rows] = True
            selector = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        if self._index_type == "int8":
            index, wanted = self._approximation, candidates(count)
        if self._index_type == "hnsw" and selector is None:
            index = self._approximation
            parameters = faiss.SearchParametersHNSW(efSearch=max(index.hnsw.efSearch, 2 * count))
        elif selector is not None:
            parameters = faiss.SearchParameters(sel=selector)
        _, found = index.search(query[None], min(wanted, self._vectors.ntotal), params=parameters)
        return found[0][found[0] >= 0]

    def _scan(self, query: np.ndarray, count: int) -> np.ndarray:
        """Scans one range of vectors per thread, since faiss itself does not parallelize a single query well."""
        bounds = np.linspace(0, self._vectors.ntotal, usable_cores() + 1).astype(int).tolist()

        def scan(part: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
            within = faiss.SearchParameters(sel=faiss.IDSelectorRange(*part))
            scores, found = self._vectors.search(query[None], count, params=within)
            return scores[0], found[0]

        scores, found = map(np.concatenate, zip(*self._threads.map(scan, pairwise(bounds)), strict=True))
        best = np.argsort(-scores, kind="stable")
        return found[best][found[best] >= 0][:count]

    def vectors(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns the vectors of the given rows, float32 [len(rows), dimensions]."""
        return self._vectors.reconstruct_batch(np.asarray(rows, dtype=np.int64))

    def close(self) -> None:
        """Closes the files."""
        self._threads.shutdown()
        self._approximation = None
        self._vectors = None


def candidates(count: int) -> int:
    """Returns how many hits of quantized vectors contain the exact first `count` with high recall."""
    return 2 * count + 32


def _sampled_recall(vectors: Any, approximation: Any) -> float:
    """Returns the share of the exact first 20 hits that an index finds, for a sample of queries.

    A query consists of the identity half of one vector and the clothing half of another one. A stored vector would be
    too easy, because the graph leads to the vector itself and its neighbors.
    """
    count, size = min(RECALL_RANK, vectors.ntotal), min(_SAMPLE, vectors.ntotal)
    rows = np.random.default_rng(0).choice(vectors.ntotal, size, replace=False)
    queries = vectors.reconstruct_batch(rows)  # [S, D]
    half = queries.shape[1] // 2
    queries[:, half:] = np.roll(queries[:, half:], 1, axis=0)
    _, exact = vectors.search(queries, count)
    width = count if hasattr(approximation, "hnsw") else min(candidates(count), vectors.ntotal)
    _, found = approximation.search(queries, width)
    return float(np.mean([len(set(one) & set(other)) / count for one, other in zip(exact, found, strict=True)]))
