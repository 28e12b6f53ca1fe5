"""Clustering of captions by writing style: DBSCAN (paper, section 3.3) and the other methods of the paper's table 4."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.cluster import DBSCAN, HDBSCAN, AgglomerativeClustering, KMeans
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors, sort_graph_by_row_values

METHODS = ("dbscan", "hdbscan", "kmeans", "gmm", "agglomerative", "random", "none")
"""Methods of `cluster`; "random" draws a cluster for each caption, "none" makes a single cluster."""

_DIMENSIONS = 50
_NEIGHBORS = 64
_MOST_PAIRWISE = 5_000  # captions for methods of quadratic time or memory
_NOISE = -1


@dataclass(frozen=True)
class Clustering:
    """A clustering of N captions.

    Attributes:
        labels: int [N], cluster of each caption, numbered from 0 by decreasing size.
        noise: share of captions that the method itself labeled as noise.
        eps: DBSCAN's radius; None for other methods.
    """

    labels: np.ndarray
    noise: float = 0.0
    eps: float | None = None

    @property
    def count(self) -> int:
        """Number of clusters."""
        return int(self.labels.max()) + 1


def cluster(
    embeddings: np.ndarray,
    method: str = "dbscan",
    *,
    num_clusters: int = 10,
    eps: float | None = None,
    min_samples: int = 4,
    min_cluster: int | None = None,
    seed: int = 0,
) -> Clustering:
    """Clusters caption embeddings, assigns noise to the nearest cluster and merges small clusters into the nearest.

    PCA first reduces the embeddings to 50 dimensions. DBSCAN uses the graph of the 64 nearest neighbors of each
    distinct embedding: quadratic in time, but not in memory. HDBSCAN and agglomerative clustering are fitted on at most
    5,000 captions; each other caption gets the label of the nearest of these.

    Args:
        embeddings: [N, D]; captions with equal neutral wordings share an embedding.
        method: one of `METHODS`.
        num_clusters: for kmeans, gmm, agglomerative and random.
        eps: DBSCAN's radius; by default the knee of the k-distance curve, k = `min_samples` - 1.
        min_samples: DBSCAN's minimum number of captions of a dense region.
        min_cluster: clusters of fewer captions are merged; 1 % of the captions by default.
        seed: random seed; the result is deterministic.

    Raises:
        ValueError: an unknown method, no captions, or a number out of range.
    """
    if method not in METHODS:
        raise ValueError(f"unknown clustering method {method!r}; choose from {', '.join(METHODS)}")
    if embeddings.ndim != 2 or len(embeddings) == 0:
        raise ValueError(f"clustering: embeddings must be [N, D] with N > 0, got shape {list(embeddings.shape)}")
    if not np.isfinite(embeddings).all():
        raise ValueError("clustering: an embedding is not finite; check the weights of the style encoder")
    if min_cluster is None:
        min_cluster = max(2, len(embeddings) // 100)
    lower_bounds = (("clusters", num_clusters, 1), ("min_samples", min_samples, 2), ("min_cluster", min_cluster, 1))
    for name, value, least in lower_bounds:
        if value < least:
            raise ValueError(f"clustering: {name} must be at least {least}, got {value}")
    if eps is not None and eps <= 0:
        raise ValueError(f"clustering: eps must be positive, got {eps}")

    # Trivial clusterings.
    if method == "none" or (embeddings == embeddings[0]).all():
        return Clustering(np.zeros(len(embeddings), dtype=np.int64))
    rng = np.random.default_rng(seed)
    num_clusters = min(num_clusters, len(embeddings))
    if method == "random":
        return Clustering(_by_size(rng.integers(num_clusters, size=len(embeddings))))
    # Cluster the embeddings after PCA.
    points = PCA(min(_DIMENSIONS, *embeddings.shape), random_state=seed).fit_transform(embeddings.astype(np.float64))
    if method == "dbscan":
        labels, eps = _dbscan(embeddings, points, eps, min_samples)
    elif method == "hdbscan":
        size = max(2, min_cluster * min(len(points), _MOST_PAIRWISE) // len(points))
        labels = _on_sample(points, rng, HDBSCAN(min_cluster_size=min(size, len(points)), copy=True).fit_predict)
    elif method == "agglomerative":
        labels = _on_sample(points, rng, AgglomerativeClustering(num_clusters).fit_predict)
    elif method == "kmeans":
        labels = KMeans(num_clusters, n_init=5, random_state=seed).fit_predict(points)
    else:
        mixture = GaussianMixture(num_clusters, covariance_type="diag", reg_covar=1e-4, random_state=seed)
        labels = mixture.fit_predict(points)
    # Resolve noise and small clusters.
    noise = float(np.mean(labels == _NOISE))
    labels = _merge_small(points, _without_noise(points, labels), min_cluster)
    return Clustering(_by_size(labels), noise, eps if method == "dbscan" else None)


def knee(values: np.ndarray) -> float:
    """Returns the knee of the sorted curve: its value furthest below the line from its minimum to its maximum."""
    curve = np.sort(values)
    rise = (curve - curve[0]) / max(float(curve[-1] - curve[0]), np.finfo(float).tiny)
    return float(curve[np.argmax(np.linspace(0, 1, len(curve)) - rise)])


def distinct_rows(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Finds the distinct rows: their first indices [U], the number of each row [N], and their counts [U].

    Ten times faster than `np.unique` over rows.
    """
    numbers: dict[bytes, int] = {}
    number = np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in embeddings])
    return np.unique(number, return_index=True)[1], number, np.bincount(number)


def _dbscan(
    embeddings: np.ndarray, points: np.ndarray, eps: float | None, min_samples: int
) -> tuple[np.ndarray, float]:
    """Runs DBSCAN; returns the labels [N] and the radius.

    The neighbor graph has one node per distinct embedding, weighted by the number of captions that share it. With one
    node per caption, all nearest neighbors of a frequent wording would be its own copies.
    """
    first, distinct, counts = distinct_rows(embeddings)
    num_neighbors = min(max(_NEIGHBORS, min_samples), len(first) - 1)
    search = NearestNeighbors(n_neighbors=num_neighbors, algorithm="brute").fit(points[first])
    graph = sort_graph_by_row_values(search.kneighbors_graph(mode="distance"), warn_when_not_sorted=False)
    if eps is None:
        distances = graph.data.reshape(len(first), num_neighbors)  # [distinct, neighbors], the nearest first
        eps = max(knee(distances[:, min(min_samples - 1, num_neighbors) - 1]), 1e-6)
    labels = DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit_predict(graph, sample_weight=counts)
    return labels[distinct], eps


def _on_sample(
    points: np.ndarray, rng: np.random.Generator, fit_predict: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Labels a sample of `_MOST_PAIRWISE` points; each other point gets the label of its nearest sample point."""
    if len(points) <= _MOST_PAIRWISE:
        return fit_predict(points)
    chosen = rng.choice(len(points), _MOST_PAIRWISE, replace=False)
    return fit_predict(points[chosen])[_nearest(points, points[chosen])]


def _without_noise(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Gives noise the label of the nearest labeled point; makes a single cluster if all points are noise."""
    is_noise = labels == _NOISE
    if is_noise.all():
        return np.zeros_like(labels)
    settled = labels.copy()
    if is_noise.any():
        settled[is_noise] = labels[~is_noise][_nearest(points[is_noise], points[~is_noise])]
    return settled


def _merge_small(points: np.ndarray, labels: np.ndarray, min_cluster: int) -> np.ndarray:
    """Merges the smallest cluster into the one with the nearest center until it has at least `min_cluster` points."""
    labels = labels.copy()
    sizes = {name: int((labels == name).sum()) for name in np.unique(labels)}
    centers = {name: points[labels == name].mean(axis=0) for name in sizes}
    while len(sizes) > 1:
        smallest = min(sizes, key=lambda name: (sizes[name], name))
        if sizes[smallest] >= min_cluster:
            break
        size, center = sizes.pop(smallest), centers.pop(smallest)
        into = min(centers, key=lambda name: float(np.linalg.norm(centers[name] - center)))
        centers[into] = (sizes[into] * centers[into] + size * center) / (sizes[into] + size)
        sizes[into] += size
        labels[labels == smallest] = into
    return labels


def _by_size(labels: np.ndarray) -> np.ndarray:
    """Renumbers the clusters by decreasing size, and by first caption among equal sizes."""
    _, first, numbers, sizes = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    return rank[numbers]


def _nearest(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the index of the nearest of `others` for each point, [N]."""
    search = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(others)
    return search.kneighbors(points, return_distance=False)[:, 0]
