"""Calibrates scores: the likelihood that a hit is the right person, and "probably not in this gallery".

The likelihood is Platt scaling: a logistic function of `s / (1 + β)`, fitted on the first hits of the validation split,
a gallery of N_0 images that has images of each person searched for. A gallery of N images has N / N_0 times as many
wrong images of a score, so its odds are divided by N / N_0. This assumes that a person has as many images in it as in
the validation split.

A person is probably not in the gallery if the best score is below a threshold, which the best scores of 10 % of the
queries of the validation split are below. The best of N scores grows with log N (extreme value theory), so the
threshold is `t + g log(N / N_0)`, with g from the halves of the validation split.

Applying a calibration needs only numpy.
"""

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from .protocols import EncodedSplit

Kind = Literal["text", "image", "composed"]
Calibration = dict[str, Any]
FALSE_ABSENT = 0.1  # share of the best scores with the person in the gallery that are below the threshold
CLOTHING_WEIGHTS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
CURVES = ("slopes", "intercepts", "thresholds", "growths")
FIRST_HITS = 20
_MOST_PAIRS = 4_000_000


def calibrate(split: "EncodedSplit") -> Calibration:
    """Fits the calibration of a validation split.

    Returns:
        `images`, N_0; `clothing_weights`, the β of the fits; by kind of query ("text", "image" and, if people change
        clothes, "composed") the lists `CURVES`, one number per β. A kind is left out if it cannot be fitted, since its
        first hits are all right or all wrong.
    """
    calibration: Calibration = {"images": len(split.gallery), "clothing_weights": list(CLOTHING_WEIGHTS)}
    for kind in ("text", "image", *(["composed"] if split.has_compositions else [])):
        fits = [_fit(*scored_pairs(split, kind, beta), split.gallery_ids.numpy()) for beta in CLOTHING_WEIGHTS]
        if None not in fits:
            calibration[kind] = dict(zip(CURVES, map(list, zip(*fits, strict=True)), strict=True))  # type: ignore[arg-type]
    return calibration


def likelihoods(
    calibration: Calibration | None, kind: Kind | None, scores: ArrayLike, clothing_weight: float, images: int
) -> NDArray | None:
    """Returns the probability that a hit of each score is the right person, [...]; None without a calibration.

    Args:
        calibration: see `calibrate`; None for a model without one.
        kind: of the query; None for one that is not calibrated.
        scores: `s_id + β s_clo`, [...].
        clothing_weight: β.
        images: number of images that were searched, N.
    """
    if calibration is None or kind not in calibration:
        return None
    slope, intercept, _, _ = _at(calibration[kind], calibration["clothing_weights"], clothing_weight)
    logits = slope * np.asarray(scores) / (1 + clothing_weight) + intercept - math.log(images / calibration["images"])
    return 1 / (1 + np.exp(-logits))


def absence_threshold(
    calibration: Calibration | None, kind: Kind | None, clothing_weight: float, images: int
) -> float | None:
    """Returns the score below which the best hit says "probably not in this gallery"; arguments as `likelihoods`."""
    if calibration is None or kind not in calibration:
        return None
    _, _, threshold, growth = _at(calibration[kind], calibration["clothing_weights"], clothing_weight)
    return (1 + clothing_weight) * (threshold + growth * math.log(images / calibration["images"]))


def absence_metrics(split: "EncodedSplit", calibration: Calibration | None, clothing_weight: float) -> dict[str, float]:
    """Measures "probably not in this gallery" with the captions of a split.

    Returns:
        `absent_found`, the share of queries that are answered so after all images of their person were taken out of the
        gallery, and `absent_false`, the share with these images. Empty without a calibration of captions.
    """
    threshold = absence_threshold(calibration, "text", clothing_weight, len(split.gallery))
    if threshold is None:
        return {}
    present, absent = _best_scores(*scored_pairs(split, "text", clothing_weight))
    best = {"absent_found": absent, "absent_false": present}
    return {name: float((values < threshold / (1 + clothing_weight)).mean()) for name, values in best.items()}


def reliability(
    split: "EncodedSplit", calibration: Calibration | None, clothing_weight: float, bins: int = 10
) -> list[tuple[float, float, int]]:
    """Compares likelihoods with results, over the first hits of the captions of a split.

    Returns:
        of each non-empty bin of equal width the mean likelihood, the share of right hits, and the number of hits; empty
        without a calibration of captions.
    """
    scores, right = _first_hits(*scored_pairs(split, "text", clothing_weight))
    scores *= 1 + clothing_weight
    likely = likelihoods(calibration, "text", scores, clothing_weight, len(split.gallery))
    if likely is None:
        return []
    numbers = np.minimum((likely * bins).astype(int), bins - 1)
    chosen = [numbers == number for number in np.unique(numbers)]
    return [(float(likely[one].mean()), float(right[one].mean()), int(one.sum())) for one in chosen]


def scored_pairs(split: "EncodedSplit", kind: str, clothing_weight: float) -> tuple[NDArray, NDArray]:
    """Scores evenly spaced queries of one kind against the gallery.

    Captions and composed queries follow `EncodedSplit.standard` and `EncodedSplit.composed`; a picture is compared with
    all images but itself.

    Returns:
        `s / (1 + β)`, -inf for a pair that is not compared, and whether the image is right, [Q, G] each.
    """
    people, outfits = split.gallery_ids.numpy(), split.gallery_outfits.numpy()
    if kind == "composed":
        vectors, captions, _ = split.composed_queries()
        described = split.query_rows[captions]  # gallery row of the image of each query
    elif kind == "text":
        vectors, described = split.queries, split.query_rows
    else:
        described = (split.gallery_ids >= 0).nonzero()[:, 0]  # known people
        vectors = split.gallery[described]
    step = max(1, len(vectors) * len(people) // _MOST_PAIRS)
    queries, rows = vectors[::step].numpy(), described[::step].numpy()
    weights = np.repeat(np.array([1, clothing_weight]) / (1 + clothing_weight), queries.shape[1] // 2)
    scores = (queries * weights.astype(np.float32)) @ split.gallery.numpy().T  # [Q, G]
    right = people[rows][:, None] == people
    excluded = np.zeros_like(right)
    if kind == "image":
        excluded[np.arange(len(rows)), rows] = True
    elif kind == "composed":
        excluded = right & (outfits[rows][:, None] != outfits)
    scores[excluded] = -np.inf
    return scores, right & ~excluded


def _fit(scores: NDArray, right: NDArray, people: NDArray) -> tuple[float, float, float, float] | None:
    """Returns slope, intercept, threshold and its growth; None if the first hits are all right or all wrong."""
    from sklearn.linear_model import LogisticRegression  # slow to import

    values, labels = _first_hits(scores, right)
    if labels.all() or not labels.any():
        return None
    mean, scale = float(values.mean()), float(values.std()) + 1e-6
    fitted = LogisticRegression().fit((values[:, None] - mean) / scale, labels)
    slope = max(0.0, float(fitted.coef_[0, 0]) / scale)  # a higher score never means a lower likelihood
    threshold = float(np.quantile(_best_scores(scores, right)[0], FALSE_ABSENT))
    halves = [np.isin(people, np.unique(people)[start::2]) for start in (0, 1)]
    best = np.concatenate([_best_scores(np.where(half | right, scores, -np.inf), right)[0] for half in halves])
    growth = max(0.0, threshold - float(np.quantile(best, FALSE_ABSENT))) / math.log(2)
    return slope, float(fitted.intercept_[0]) - slope * mean, threshold, growth


def _first_hits(scores: NDArray, right: NDArray) -> tuple[NDArray, NDArray]:
    """Returns scores and labels of the first hits of all queries, [hits]."""
    first = np.argsort(-scores, axis=1, kind="stable")[:, :FIRST_HITS]  # [Q, K]
    values, labels = (np.take_along_axis(part, first, axis=1) for part in (scores, right))
    return values[np.isfinite(values)], labels[np.isfinite(values)]


def _best_scores(scores: NDArray, right: NDArray) -> tuple[NDArray, NDArray]:
    """Returns the best score of each query that has a right image, and of each query without its right images."""
    return scores.max(axis=1)[right.any(axis=1)], np.where(right, -np.inf, scores).max(axis=1)


def _at(curves: dict[str, list[float]], weights: list[float], clothing_weight: float) -> list[float]:
    """Interpolates the numbers of `CURVES` between the β of the fits."""
    return [float(np.interp(clothing_weight, weights, curves[name])) for name in CURVES]


__all__ = ["absence_metrics", "absence_threshold", "calibrate", "likelihoods", "reliability"]
