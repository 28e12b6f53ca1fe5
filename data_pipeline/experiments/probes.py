"""Disentanglement, measured: what a linear probe reads off each branch, HSIC, and retrieval in the same and in other
clothes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from modeling_bdam.evaluation.protocols import EncodedSplit
from modeling_bdam.evaluation.retrieval_metrics import retrieval_metrics
from modeling_bdam.losses_bdam import hsic

from .attributes import CLOTHING_ATTRIBUTES, IDENTITY_TRAITS, attribute_labels
from .features import BranchFeatures, Features

# What is probed: the gated features of eq. 2, and the embeddings that are searched.
BRANCHES = {
    "identity features": "identity",
    "clothing features": "clothing",
    "identity embedding": "identity_embeds",
    "clothing embedding": "clothing_embeds",
}
LEAST_GAIN = 0.02  # two points above chance
KINDS = {"identity": IDENTITY_TRAITS, "clothing": CLOTHING_ATTRIBUTES}


def probe(
    fit_features: NDArray, fit_labels: Sequence[str | None], features: NDArray, labels: Sequence[str | None]
) -> tuple[float, float]:
    """Accuracy of a logistic regression on images of other people, and the most that a constant answer reaches.

    Args:
        fit_features: [N, D], to learn from.
        fit_labels: [N]; None leaves an image out.
        features: [M, D], of people who are not among those learned from.
        labels: [M].

    Returns:
        accuracy and chance, as fractions.
    """
    fit_rows, rows = [np.array([value is not None for value in given]) for given in (fit_labels, labels)]
    fit_answers = np.array([value for value in fit_labels if value is not None])
    answers = np.array([value for value in labels if value is not None])
    chance = float(np.unique(answers, return_counts=True)[1].max() / len(answers))
    # A strong penalty: a few hundred people are little to learn from.
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
    with threadpool_limits(1):  # on busy cores, threads that wait for each other take a hundred times as long
        model.fit(fit_features[fit_rows], fit_answers)
        return float(np.mean(model.predict(features[rows]) == answers)), chance


def probe_branches(fit: BranchFeatures, test: BranchFeatures) -> dict[str, Any]:
    """Every trait and attribute, probed from every branch.

    Returns:
        `accuracy`: by branch (`BRANCHES`) and attribute; `chance`: by attribute; fractions.

    Raises:
        ValueError: the same person is among those learned from and those asked about.
    """
    if set(fit.person_ids.tolist()) & set(test.person_ids.tolist()):
        raise ValueError("probes must learn from other people than they are asked about")
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
    """How far above chance a branch tells the identity traits or the clothing attributes, a mean over them."""
    names = KINDS[kind]
    return float(np.mean([probed["accuracy"][branch][name] - probed["chance"][name] for name in names]))


def leak(probed: Mapping[str, Any], what: str, kind: str) -> float:
    """How much of what its own branch tells of `kind` the other branch tells as well; 0 is none, 1 is all, NaN
    where its own branch tells next to nothing (`LEAST_GAIN`).

    Args:
        what: `features` or `embedding`.
        kind: `identity` or `clothing`.
    """
    other = "clothing" if kind == "identity" else "identity"
    right = gain_over_chance(probed, f"{kind} {what}", kind)
    return gain_over_chance(probed, f"{other} {what}", kind) / right if right >= LEAST_GAIN else float("nan")


def normalized_hsic(identity: NDArray, clothing: NDArray) -> float:
    """HSIC of eq. 2 over the geometric mean of each with itself: from 0, uncorrelated, to 1; free of scale."""
    x, y = torch.from_numpy(identity).double(), torch.from_numpy(clothing).double()
    return float(hsic(x, y) / (hsic(x, x) * hsic(y, y)).sqrt()) if x.shape == y.shape else float("nan")


def same_clothes(split: EncodedSplit, clothing_weight: float) -> dict[str, float]:
    """The mirror of `EncodedSplit.clothes_changing`: images of the same person in other clothes are left out.

    Returns:
        the figures of `retrieval_metrics` without `unmatched_queries`.
    """
    # The protocol leaves out the same person in the same outfit. Told that every other outfit of a person is the same
    # as the query's, it leaves out those; one pass for the first outfit of everybody, one for the second, ...
    number = _outfit_numbers(split.gallery_ids, split.gallery_outfits)  # [G]
    queries = split.weighted_queries(clothing_weight)
    sums: dict[str, float] = {}
    matched = 0
    for outfit in number.unique().tolist():
        chosen = number[split.query_rows] == outfit
        found = retrieval_metrics(
            queries[chosen],
            split.gallery,
            split.gallery_ids[split.query_rows[chosen]],
            split.gallery_ids,
            query_outfits=torch.zeros(int(chosen.sum()), dtype=torch.int64),
            gallery_outfits=(number == outfit).long(),
        )
        count = int(chosen.sum()) - int(found.pop("unmatched_queries"))
        matched += count
        for name, value in found.items():
            sums[name] = sums.get(name, 0.0) + count * value
    return {name: value / matched for name, value in sums.items()}


def _outfit_numbers(person_ids: torch.Tensor, outfits: torch.Tensor) -> torch.Tensor:
    """For each image, the how-manieth outfit of its person it shows, from 0, [G]."""
    seen: dict[int, dict[int, int]] = {}
    numbers = []
    for person, outfit in zip(person_ids.tolist(), outfits.tolist(), strict=True):
        worn = seen.setdefault(person, {})
        numbers.append(worn.setdefault(outfit, len(worn)))
    return torch.tensor(numbers)


def disentanglement(features: Features) -> dict[str, Any]:
    """Everything of the disentanglement table that can be measured on one trained model's features.

    Returns:
        `hsic`: normalized, of the gated features; with known outfits `same_clothes` and `clothes_changing`: figures at
        β = 0; on the synthetic set `probes`: see `probe_branches`.
    """
    test = features.branches("test")
    assert test is not None  # every feature file has them
    found: dict[str, Any] = {"hsic": normalized_hsic(test.identity, test.clothing)}
    split = features.split("test")
    if split.changes_clothes:
        found["same_clothes"] = same_clothes(split, 0.0)
        found["clothes_changing"] = split.clothes_changing(0.0)
    fit = features.branches("probe")
    if fit is not None:
        found["probes"] = probe_branches(fit, test)
    return found
