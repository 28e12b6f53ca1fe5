"""Rank-k, mAP and mINP of text-to-image retrieval: exact, with pessimistic ties, without sorting the gallery."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RANKS = (1, 5, 10)
# Above this number of positives, sorting the scores once is cheaper than one count per positive.
_MANY_POSITIVES = 64


def retrieval_metrics(
    query_embeds: Tensor | NDArray,
    gallery_embeds: Tensor | NDArray,
    query_ids: Tensor | NDArray,
    gallery_ids: Tensor | NDArray,
    *,
    query_outfits: Tensor | NDArray | None = None,
    gallery_outfits: Tensor | NDArray | None = None,
    same_outfit: bool = False,
    reranked: tuple[Tensor, Tensor] | None = None,
    chunk_size: int = 512,
) -> dict[str, float]:
    """Scores every query against every gallery entry by dot product and computes Rank-k, mAP and mINP.

    Ties are ranked pessimistically: the j-th best positive of a query has rank `j + number of negatives with at least
    its score`. Rank-k is the share of queries with a first positive of rank <= k, AP the mean over j of j / rank_j, INP
    the number of positives divided by the rank of the last one.

    Args:
        query_embeds: [Q, D], scored in float32 on the CPU; β is applied to the clothing half of the queries.
        gallery_embeds: [G, D].
        query_ids: person of each query, integers [Q].
        gallery_ids: person of each gallery entry, integers [G].
        query_outfits: outfit of each query, integers [Q], for the clothes-changing protocol: gallery entries of the
            same person in the same outfit are then neither positives nor negatives of that query.
        gallery_outfits: outfit of each gallery entry, integers [G]; given with `query_outfits` or not at all.
        same_outfit: the positives are in the outfit of the query, and entries of the person in another one are neither.
        reranked: gallery rows and scores of the candidates of each query, [Q, K] each: they are ranked by these scores,
            before all other entries.
        chunk_size: queries scored at a time; memory above the inputs is about `4 * chunk_size * G` bytes.

    Returns:
        `rank1`, `rank5`, `rank10`, `mAP`, `mINP` as fractions, means over the queries that have a positive, and
        `unmatched_queries`, the number of queries that have none.

    Raises:
        ValueError: shapes differ, an embedding is not finite, only one side has outfits, or no query has a positive.

    Example:
        >>> gallery = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> metrics = retrieval_metrics(np.array([[1.0, 0.0]]), gallery, np.array([5]), np.array([4, 5, 5]))
        >>> metrics["rank1"], metrics["rank5"], round(metrics["mAP"], 4)  # positives have ranks 2 and 3
        (0.0, 1.0, 0.5833)
    """
    queries, query_persons = _checked("query", query_embeds, query_ids)
    gallery, gallery_persons = _checked("gallery", gallery_embeds, gallery_ids)
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"query_embeds have {queries.shape[1]} dimensions and gallery_embeds {gallery.shape[1]}: "
            "encode both with the same model"
        )
    if (query_outfits is None) != (gallery_outfits is None):
        given = "gallery_outfits" if query_outfits is None else "query_outfits"
        raise ValueError(f"only {given} was given: give the outfits of both queries and gallery, or of neither")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")

    # Gallery sorted by person: the entries of a person are one slice
    by_person = np.argsort(gallery_persons, kind="stable")
    gallery, gallery_persons = gallery[by_person], gallery_persons[by_person]
    place = np.argsort(by_person)  # of each gallery entry in this order
    starts = np.searchsorted(gallery_persons, query_persons, side="left")
    ends = np.searchsorted(gallery_persons, query_persons, side="right")
    query_wears = gallery_wears = None
    if query_outfits is not None and gallery_outfits is not None:
        query_wears = _integers("query_outfits", query_outfits, len(queries))
        gallery_wears = _integers("gallery_outfits", gallery_outfits, len(gallery))[by_person]

    # Ranks of the positives of each query
    first_ranks, precisions, inverse_penalties = [], [], []
    for query, scores in enumerate(_scores(queries, gallery, chunk_size)):
        if reranked is not None:
            rows, new_scores = (part[query].numpy() for part in reranked)  # [K] each
            scores[place[rows]] = new_scores - new_scores.min() + scores.max() + 1
        same_person = slice(starts[query], ends[query])
        positives = scores[same_person]
        if query_wears is not None and gallery_wears is not None:
            positives = positives[(gallery_wears[same_person] == query_wears[query]) == same_outfit]
        if len(positives) == 0:
            continue
        positives = np.sort(positives)[::-1]
        scores[same_person] = -np.inf  # only negatives remain to be counted
        order = np.arange(1, len(positives) + 1)
        ranks = order + _count_at_least(scores, positives)  # [P]
        first_ranks.append(ranks[0])
        precisions.append((order / ranks).sum() / len(positives))
        inverse_penalties.append(len(positives) / ranks[-1])
    if not first_ranks:
        raise ValueError(
            f"none of the {len(queries)} queries has a match among the {len(gallery)} gallery entries: "
            "do the person ids of both sides come from the same split?"
        )
    metrics = {f"rank{k}": float(np.mean(np.array(first_ranks) <= k)) for k in RANKS}
    metrics |= {"mAP": float(np.mean(precisions)), "mINP": float(np.mean(inverse_penalties))}
    return metrics | {"unmatched_queries": len(queries) - len(first_ranks)}


def _scores(queries: NDArray, gallery: NDArray, chunk_size: int) -> Iterator[NDArray]:
    """Yields the scores [G] of each query; the caller may overwrite them."""
    # GEMM results depend on the tile position, so identical gallery vectors reuse one score.
    vector = torch.unique(torch.from_numpy(gallery), dim=0, return_inverse=True)[1].numpy()
    first = np.unique(vector, return_index=True)[1][vector]
    copies = np.flatnonzero(first != np.arange(len(gallery)))
    for start in range(0, len(queries), chunk_size):
        # numpy's product is faster on a CPU and is never rounded to bfloat16.
        scores = queries[start : start + chunk_size] @ gallery.T
        scores[:, copies] = scores[:, first[copies]]
        yield from scores


def _count_at_least(scores: NDArray, thresholds: NDArray) -> NDArray:
    """Counts for each threshold [P] the scores [G] that are at least as high."""
    if len(thresholds) > _MANY_POSITIVES:
        return len(scores) - np.searchsorted(np.sort(scores), thresholds, side="left")
    return np.array([np.count_nonzero(scores >= threshold) for threshold in thresholds])


def _checked(side: str, embeds: Tensor | NDArray, ids: Tensor | NDArray) -> tuple[NDArray, NDArray]:
    """Returns the embeddings of one side in float32 and its person ids; raises ValueError for invalid ones."""
    vectors = torch.as_tensor(embeds).detach().float().cpu()
    if vectors.ndim != 2 or len(vectors) == 0:
        raise ValueError(f"{side}_embeds must have shape [1 or more, dimensions], got {list(vectors.shape)}")
    # A finite squared length on both sides also keeps every dot product finite.
    bad = ~torch.linalg.vector_norm(vectors, dim=1).square().isfinite()
    if bad.any():
        raise ValueError(
            f"{side}_embeds row {int(bad.nonzero()[0])} holds a NaN, an infinity, or values too large to score in "
            f"float32 ({int(bad.sum())} of {len(bad)} rows do): check the model that encoded it"
        )
    return vectors.numpy(), _integers(f"{side}_ids", ids, len(vectors))


def _integers(name: str, values: Tensor | NDArray, length: int) -> NDArray:
    integers = torch.as_tensor(values).cpu().numpy()
    if integers.shape != (length,) or integers.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be {length} integers, one per embedding, got shape {list(integers.shape)} of {integers.dtype}"
        )
    return integers
