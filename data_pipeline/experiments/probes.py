"""Measures disentanglement: linear probes on each branch, HSIC, and retrieval in the same and in other clothes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from modeling_bdam import losses_bdam
from modeling_bdam.evaluation.protocols import EncodedSplit
from modeling_bdam.evaluation.retrieval_metrics import retrieval_metrics

from .attributes import CLOTHING_ATTRIBUTES, IDENTITY_TRAITS, attribute_labels
from .features import BranchFeatures, Features

# The probed representations: the gated features (paper, eq. 2), and the embeddings of the search.
BRANCHES = {
    "identity features": "identity",
    "clothing features": "clothing",
    "identity embedding": "identity_embeds",
    "clothing embedding": "clothing_embeds",
}
LEAST_GAIN = 0.02  # above chance; leakage is undefined below it
KINDS = {"identity": IDENTITY_TRAITS, "clothing": CLOTHING_ATTRIBUTES}


def probe(
    fit_features: NDArray, fit_labels: Sequence[str | None], features: NDArray, labels: Sequence[str | None]
) -> tuple[float, float]:
    """Fits a logistic regression and returns its accuracy on other people, and the accuracy of the best constant.

    Args:
        fit_features: [N, D], to fit on.
        fit_labels: [N]; images with None are skipped.
        features: [M, D], of people that the regression was not fitted on.
        labels: [M]; images with None are skipped.

    Returns:
        accuracy and chance level, as fractions.
    """
    fit_rows, rows = [np.array([value is not None for value in given]) for given in (fit_labels, labels)]
    fit_answers = np.array([value for value in fit_labels if value is not None])
    answers = np.array([value for value in labels if value is not None])
    chance = float(np.unique(answers, return_counts=True)[1].max() / len(answers))
    # Strong regularization: there are only a few hundred people to fit on.
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
    with threadpool_limits(1):  # BLAS threads that compete for busy cores make the fit 100 times slower
        model.fit(fit_features[fit_rows], fit_answers)
        return float(np.mean(model.predict(features[rows]) == answers)), chance


def probe_branches(fit: BranchFeatures, test: BranchFeatures) -> dict[str, Any]:
    """Probes each branch for each identity trait and clothing attribute.

    Returns:
        `accuracy`: by branch (`BRANCHES`) and attribute; `chance`: by attribute; fractions.

    Raises:
        ValueError: a person is in both sets of features.
    """
    if set(fit.person_ids.tolist()) & set(test.person_ids.tolist()):
        raise ValueError("the people that probes are fitted on and tested on must be disjoint")
    fit_labels = attribute_labels(fit.person_ids.tolist(), fit.outfit_ids.tolist())
    labels = attribute_labels(test.person_ids.tolist(), test.outfit_ids.tolist())
    accuracy: dict[str, dict[str, float]] = {branch: {} for branch in BRANCHES}
    chance: dict[str, float] = {}
    for name in labels:
        for branch, field in BRANCHES.items():
            accuracy[branch][name], chance[name] = probe(
                getattr(fit, field), fit_labels[name], getattr(test, field), labels[name]
            )
    return {"accuracy": accuracy, "chance": chance}


def gain_over_chance(probed: Mapping[str, Any], branch: str, kind: str) -> float:
    """Mean accuracy above chance of the probes of a branch, over the identity traits or the clothing attributes."""
    return float(np.mean([probed["accuracy"][branch][name] - probed["chance"][name] for name in KINDS[kind]]))


def leak(probed: Mapping[str, Any], level: str, kind: str) -> float | None:
    """Leakage: the gain over chance of the wrong branch divided by that of the right branch; 0 is none, 1 is full.

    Args:
        level: `features` or `embedding`.
        kind: `identity` or `clothing`.

    Returns:
        the ratio; None if the gain of the right branch is below `LEAST_GAIN`.
    """
    other = "clothing" if kind == "identity" else "identity"
    right = gain_over_chance(probed, f"{kind} {level}", kind)
    return gain_over_chance(probed, f"{other} {level}", kind) / right if right >= LEAST_GAIN else None


def normalized_hsic(identity: NDArray, clothing: NDArray) -> float | None:
    """Computes `losses_bdam.normalized_hsic` in float64; None if the shapes differ."""
    if identity.shape != clothing.shape:
        return None
    return float(losses_bdam.normalized_hsic(torch.from_numpy(identity).double(), torch.from_numpy(clothing).double()))


def same_clothes(split: EncodedSplit, clothing_weight: float) -> dict[str, float]:
    """Scores the opposite of `EncodedSplit.clothes_changing`: images of the person in other clothes are excluded.

    Returns:
        as `retrieval_metrics`.
    """
    rows = split.query_rows
    return retrieval_metrics(
        split.weighted_queries(clothing_weight),
        split.gallery,
        split.gallery_ids[rows],
        split.gallery_ids,
        query_outfits=split.gallery_outfits[rows],
        gallery_outfits=split.gallery_outfits,
        same_outfit=True,
    )


def disentanglement(features: Features) -> dict[str, Any]:
    """Computes all measures of the disentanglement table from the features of one model.

    Returns:
        `hsic`: normalized, of the gated features; with known outfits `same_clothes` and `clothes_changing`: metrics at
        β = 0; on the synthetic set `probes`: see `probe_branches`.
    """
    test = features.branches("test")
    found: dict[str, Any] = {"hsic": normalized_hsic(test.identity, test.clothing)}
    split = features.split("test")
    if split.changes_clothes:
        found["same_clothes"] = same_clothes(split, 0.0)
        found["clothes_changing"] = split.clothes_changing(0.0)
    if features.has_branches("probe"):
        found["probes"] = probe_branches(features.branches("probe"), test)
    return found
