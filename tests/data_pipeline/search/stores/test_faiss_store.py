"""Recall of the index types on a sorted gallery."""

from pathlib import Path

import numpy as np
import pytest

from data_pipeline.search.stores import faiss_store
from data_pipeline.search.stores.faiss_store import LEAST_RECALL, FaissStore
from data_pipeline.search.stores.store import IndexType

CLUSTERS, EACH, DIMENSIONS = 20, 200, 32


def clustered_vectors() -> np.ndarray:
    """Returns unit vectors, cluster by cluster, as in a gallery sorted by person."""
    random = np.random.default_rng(0)
    centers = random.standard_normal((CLUSTERS, DIMENSIONS), dtype=np.float32) / np.sqrt(DIMENSIONS)
    own = random.standard_normal((CLUSTERS * EACH, DIMENSIONS), dtype=np.float32) / np.sqrt(DIMENSIONS)
    vectors = np.repeat(centers, EACH, axis=0) + 0.3 * own
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("index_type", "recall"), [("exact", 1.0), ("hnsw", 0.99), ("int8", 0.99)])
def test_search_recall_on_a_gallery_sorted_by_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index_type: IndexType, recall: float
) -> None:
    # A wider search would find everything in so few vectors, even in a disconnected graph
    monkeypatch.setattr(faiss_store, "_SEARCH_WIDTH", 64)
    vectors = clustered_vectors()
    FaissStore.write(tmp_path, np.split(vectors, CLUSTERS), DIMENSIONS, index_type)
    store = FaissStore(tmp_path, index_type)
    queries = vectors[::31]
    found = 0
    for query in queries:
        candidates = store.search(query, 10)
        best = candidates[np.argsort(-(store.vectors(candidates) @ query))][:10]
        found += len(set(np.argsort(-(vectors @ query))[:10]) & set(best))
    assert found >= recall * 10 * len(queries)
    assert np.array_equal(store.vectors(np.arange(len(vectors))), vectors)


@pytest.mark.parametrize("widest", [16, 4096])
def test_hnsw_widens_its_search_until_its_sample_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, widest: int
) -> None:
    """Random vectors have no clusters, which is the worst case of a graph search."""
    for name, value in {"_SEARCH_WIDTH": 16, "_LINKS": 8, "_BUILD_WIDTH": 20}.items():
        monkeypatch.setattr(faiss_store, name, value)
    monkeypatch.setattr(faiss_store, "_WIDEST_SEARCH", widest)
    drawn = np.random.default_rng(0).standard_normal((8300, 128), dtype=np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    vectors, queries = drawn[:8000], drawn[8000:]
    recall = FaissStore.write(tmp_path, [vectors], 128, "hnsw")
    assert (recall >= LEAST_RECALL) == (widest == 4096)
    store = FaissStore(tmp_path, "hnsw")
    assert store._approximation.hnsw.efSearch <= widest
    found = [len(set(np.argsort(-(vectors @ query))[:20]) & set(store.search(query, 20)[:20])) for query in queries]
    assert np.mean(found) / 20 == pytest.approx(recall, abs=0.1)
