"""Ranks of every query of a test split, in a compact form that recomputes figures and intervals without vectors."""

import base64
import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from modeling_bdam.evaluation.protocols import EncodedSplit

PEOPLE = "people"
_FULL = 65535  # an AP of 1; also the largest rank that is stored


def query_ranks(split: EncodedSplit, clothing_weight: float, matching: tuple[float, int]) -> dict[str, str]:
    """Computes the rank of the first correct image and the AP of each query, as `retrieval_metrics` defines them.

    Args:
        split: an encoded test split of Q captions.
        clothing_weight: β of the standard and of the re-ranked protocol.
        matching: λ and K of the re-ranked protocol.

    Returns:
        by prefix of the protocol the packed ranks and AP, [2, Q], and by `PEOPLE` the number of the person, [Q]. A rank
        of 0 is that of a query without a correct image.
    """
    people = split.gallery_ids[split.query_rows].numpy()  # [Q]
    same = people[:, None] == split.gallery_ids.numpy()  # [Q, G]
    queries, gallery = split.weighted_queries(clothing_weight).numpy(), split.gallery.numpy()
    scores = queries @ gallery.T  # [Q, G]
    ranks = {"": _ranks(scores, same, same)}
    if split.candidates is not None:
        found = split.candidates.first(matching[1])
        rows, places = found.rows.numpy(), np.arange(len(queries))[:, None]
        new = np.einsum("qd,qkd->qk", queries, gallery[rows]) + clothing_weight * matching[0] * found.logits.numpy()
        first = scores.copy()
        first[places, rows] = new - new.min(axis=1, keepdims=True) + scores.max(axis=1, keepdims=True) + 1
        ranks["reranked_"] = _ranks(first, same, same)
    if split.changes_clothes:
        outfits = split.gallery_outfits.numpy()
        other = same & (outfits[split.query_rows.numpy()][:, None] != outfits)
        ranks["clothes_changing_"] = _ranks(split.weighted_queries(0.0).numpy() @ gallery.T, other, same)
    return {PEOPLE: pack(np.unique(people, return_inverse=True)[1])} | {
        name: pack(part) for name, part in ranks.items()
    }


def _ranks(scores: NDArray, correct: NDArray, same: NDArray) -> NDArray:
    """Ranks the `correct` images of each query against those of other people, by scores, all [Q, G]; returns [2, Q]."""
    found = np.zeros((2, len(scores)))
    for query, own in enumerate(scores):
        positives = np.sort(own[correct[query]])[::-1]
        if len(positives):
            order = np.arange(1, len(positives) + 1)
            above = (own[~same[query]] >= positives[:, None]).sum(axis=1)  # ties are ranked pessimistically
            found[:, query] = min(1 + above[0], _FULL), _FULL * (order / (order + above)).mean()
    return found


def pack(values: NDArray) -> str:
    """Packs integers below 65536 to text."""
    return base64.b64encode(zlib.compress(np.round(values).astype("<u2").tobytes(), 9)).decode("ascii")


def unpack(text: str) -> NDArray:
    """Returns the integers that `pack` stored, as one dimension."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), "<u2").astype(np.int64)


def person_sums(ranks: Mapping[str, str], prefix: str, metric: str) -> tuple[NDArray, NDArray]:
    """Sums a metric over the queries of each person.

    Args:
        ranks: of one run, see `query_ranks`.
        prefix: of the protocol.
        metric: `mAP` or `rank1`, `rank5`, ....

    Returns:
        sums and numbers of queries with a correct image, [P] each; the metric is the ratio of both totals.
    """
    first, precision = unpack(ranks[prefix]).reshape(2, -1)
    people, scored = unpack(ranks[PEOPLE]), first > 0
    value = precision / _FULL if metric == "mAP" else (first <= int(metric.removeprefix("rank"))).astype(float)
    return np.bincount(people, value * scored), np.bincount(people, scored)
