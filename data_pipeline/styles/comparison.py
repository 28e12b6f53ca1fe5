"""Comparison of the clustering methods of the paper's table 4 on the same captions."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import adjusted_rand_score, silhouette_score

from .clustering import METHODS, cluster

_MOST_PAIRWISE = 5_000  # captions of the silhouette, which is quadratic


@dataclass(frozen=True)
class ComparedMethod:
    """Result of one method.

    Attributes:
        rand_index: adjusted Rand index against the true styles; None if they are unknown.
        silhouette: mean silhouette in the embedding space, over at most 5,000 captions; None for a single cluster.
        clusters: final number of clusters.
        noise: share of captions that the method itself labeled as noise.
        seconds: run time.
        same_as: an earlier method with the same partition (adjusted Rand index 1): the two cannot be compared.
    """

    method: str
    rand_index: float | None
    silhouette: float | None
    clusters: int
    noise: float
    seconds: float
    same_as: str | None = None


def compare_clusterings(
    embeddings: np.ndarray,
    true_styles: Sequence[str] | None = None,
    *,
    num_clusters: int = 10,
    min_cluster: int | None = None,
    seed: int = 0,
) -> list[ComparedMethod]:
    """Clusters the embeddings [N, D] by each of `METHODS`; the true styles are used only for the scores."""
    rng = np.random.default_rng(seed)
    shown = rng.permutation(len(embeddings))[:_MOST_PAIRWISE]
    compared: list[ComparedMethod] = []
    partitions: dict[bytes, str] = {}
    for method in METHODS:
        start = time.perf_counter()
        found = cluster(embeddings, method, num_clusters=num_clusters, min_cluster=min_cluster, seed=seed)
        seconds = time.perf_counter() - start
        index = None if true_styles is None else float(adjusted_rand_score(true_styles, found.labels))
        several = 1 < len(np.unique(found.labels[shown])) < len(shown)
        silhouette = float(silhouette_score(embeddings[shown], found.labels[shown])) if several else None
        first = partitions.setdefault(found.labels.tobytes(), method)
        same_as = None if first == method else first
        compared.append(ComparedMethod(method, index, silhouette, found.count, found.noise, seconds, same_as))
    return compared
