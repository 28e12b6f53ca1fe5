"""The store in the index folder: what the approximate kinds find of galleries that come sorted."""

from pathlib import Path

import numpy as np
import pytest

from data_pipeline.search.stores import faiss_store as store_faiss
from data_pipeline.search.stores.faiss_store import FaissStore
from data_pipeline.search.stores.store import IndexType

CROWDS, EACH, DIMENSIONS = 20, 200, 32


def crowds() -> np.ndarray:
    """Vectors of length 1, crowd after crowd, as of a gallery sorted by who looks alike."""
    random = np.random.default_rng(0)
    centers = random.standard_normal((CROWDS, DIMENSIONS), dtype=np.float32) / np.sqrt(DIMENSIONS)
    own = random.standard_normal((CROWDS * EACH, DIMENSIONS), dtype=np.float32) / np.sqrt(DIMENSIONS)
    vectors = np.repeat(centers, EACH, axis=0) + 0.3 * own
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("index_type", "wanted"), [("exact", 1.0), ("hnsw", 0.99), ("int8", 0.99)])
def test_a_sorted_gallery_that_comes_in_chunks_is_found_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index_type: IndexType, wanted: float
) -> None:
    monkeypatch.setattr(store_faiss, "_SEARCH_WIDTH", 64)  # of so few, a wider search finds all however they are linked
    vectors = crowds()
    FaissStore.write(tmp_path, np.split(vectors, CROWDS), DIMENSIONS, index_type)
    store = FaissStore(tmp_path, index_type)
    queries = vectors[::31]
    found = 0
    for query in queries:
        truth = np.argsort(-(vectors @ query))[:10]
        first = store.search(query, 10)
        first = first[np.argsort(-(store.vectors(first) @ query))][:10]
        found += len(set(truth) & set(first))
    assert found >= wanted * 10 * len(queries)
    assert np.array_equal(store.vectors(np.arange(len(vectors))), vectors)
