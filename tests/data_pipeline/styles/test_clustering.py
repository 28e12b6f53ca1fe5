"""All clustering methods of the paper's table 4."""

import numpy as np
import pytest
from sklearn.cluster import DBSCAN
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score, silhouette_score

from data_pipeline.styles import clustering
from data_pipeline.styles.clustering import METHODS, cluster, knee
from data_pipeline.styles.comparison import compare_clusterings

FINDING = [method for method in METHODS if method not in ("random", "none")]


def _blobs(count: int = 400, dimensions: int = 80, spread: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    points, truth = make_blobs(count, dimensions, centers=4, cluster_std=spread, center_box=(-1, 1), random_state=0)
    return points.astype(np.float32), truth


@pytest.mark.parametrize(
    ("method", "sample"), [*((method, 5000) for method in FINDING), ("hdbscan", 100), ("agglomerative", 100)]
)
def test_cluster_finds_clear_clusters(method: str, sample: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "_MOST_PAIRWISE", sample)
    points, truth = _blobs()
    assert adjusted_rand_score(truth, cluster(points, method, num_clusters=4).labels) == 1


@pytest.mark.parametrize("method", METHODS)
def test_cluster_is_deterministic_and_sorts_by_size(method: str) -> None:
    points, _ = _blobs(count=200, spread=0.6)
    found = cluster(points, method, seed=3)
    np.testing.assert_array_equal(found.labels, cluster(points, method, seed=3).labels)
    sizes = np.bincount(found.labels)
    assert len(sizes) == found.count
    assert (np.diff(sizes) <= 0).all() and sizes[-1] > 0


def test_cluster_assigns_noise_to_the_nearest_cluster() -> None:
    points, truth = _blobs()
    outlier = points[truth == 2].mean(axis=0) * 1.5  # further out, in the same direction
    found = cluster(np.vstack([points, outlier]), "dbscan")
    assert found.noise == pytest.approx(1 / 401)
    assert found.count == 4
    assert found.labels[-1] == found.labels[np.argmax(truth == 2)]


def test_cluster_merges_small_clusters_into_the_nearest() -> None:
    points, truth = _blobs()
    few = points[truth == 1][:6] + 0.8
    apart, merged = (cluster(np.vstack([points, few]), eps=1.5, min_cluster=least) for least in (2, 7))
    assert (apart.count, merged.count) == (5, 4)
    assert set(merged.labels[-6:]) == {merged.labels[np.argmax(truth == 1)]}


def test_dbscan_weights_captions_that_share_a_wording() -> None:
    points, truth = _blobs(count=80)
    times = np.random.default_rng(0).integers(1, 200, size=80)
    found = cluster(np.repeat(points, times, axis=0))
    assert adjusted_rand_score(np.repeat(truth, times), found.labels) == 1


def test_dbscan_on_the_neighbor_graph_equals_exact_dbscan() -> None:
    points, _ = _blobs(dimensions=40, spread=0.45)  # below 50 dimensions, PCA is only a rotation
    found = cluster(points, eps=3.5, min_cluster=1)
    exact = DBSCAN(eps=3.5, min_samples=4).fit_predict(points)
    assert 0 < found.noise == np.mean(exact == -1)
    assert adjusted_rand_score(exact[exact >= 0], found.labels[exact >= 0]) == 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("points", [np.ones((1, 8)), np.ones((5, 8)), np.eye(3), np.eye(2)], ids=str)
def test_cluster_accepts_a_few_captions(method: str, points: np.ndarray) -> None:
    assert len(cluster(points, method).labels) == len(points)


def test_knee_is_the_bend_of_the_curve() -> None:
    assert knee(np.array([5.0, 1.0, 1.1, 1.2, 9.0, 1.3])) == 1.3
    assert knee(np.full(7, 2.0)) == 2.0


@pytest.mark.parametrize(
    ("points", "options", "message"),
    [
        (np.eye(3), {"method": "meanshift"}, "'meanshift'; choose from dbscan, hdbscan"),
        (np.zeros((0, 3)), {}, "N > 0"),
        (np.full((3, 3), np.nan), {}, "not finite"),
        (np.eye(3), {"num_clusters": 0}, "clusters must be at least 1, got 0"),
        (np.eye(3), {"min_samples": 1}, "min_samples must be at least 2"),
        (np.eye(3), {"min_cluster": 0}, "min_cluster must be at least 1"),
        (np.eye(3), {"eps": 0.0}, "eps must be positive"),
    ],
)
def test_cluster_rejects_invalid_input(points: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cluster(points, **options)


def test_compare_scores_all_methods_against_the_truth() -> None:
    points, truth = _blobs(count=200)
    rows = {row.method: row for row in compare_clusterings(points, [str(number) for number in truth], num_clusters=4)}
    assert list(rows) == list(METHODS)
    assert all(rows[method].rand_index == 1 and rows[method].clusters == 4 for method in FINDING)
    assert rows["random"].rand_index == pytest.approx(0, abs=0.1) and rows["none"].rand_index == 0
    assert rows["dbscan"].silhouette == pytest.approx(silhouette_score(points, truth))
    assert rows["none"].silhouette is None
    assert {row.same_as for row in rows.values()} == {None, "dbscan"} and rows["kmeans"].same_as == "dbscan"
    assert {row.rand_index for row in compare_clusterings(points[:20], num_clusters=4)} == {None}
