"""Compares the rows of a table with its reference row, and with the paper, in sentences."""

import math
from collections.abc import Mapping, Sequence

from .results import MeanStd, RowResult

METRICS = {"mAP": "mAP", "rank1": "R-1"}
SAME = "within one standard deviation"


def pooled_deviation(one: MeanStd, other: MeanStd) -> float | None:
    """The pooled standard deviation over seeds of two rows; None unless both rows have at least two seeds."""
    return None if one.std is None or other.std is None else math.sqrt((one.std**2 + other.std**2) / 2)


def verdict(row: MeanStd, reference: MeanStd) -> str:
    """`lower` or `higher`, `same` within one pooled deviation; with one seed, `lower (1 seed)` or `higher (1 seed)`."""
    deviation, distance = pooled_deviation(row, reference), row.mean - reference.mean
    direction = "higher" if distance > 0 else "lower"
    if deviation is None:
        return f"{direction} (1 seed)" if distance else "same"
    return "same" if abs(distance) <= deviation else direction


def judge(
    rows: Sequence[RowResult], reference: str, metrics: Mapping[str, str] = METRICS, split: str = "test"
) -> list[str]:
    """Writes the findings of a table, one sentence each. For each metric:

    1. whether the reference is the best row, over the seeds that both rows have;
    2. the paired differences of the other rows to the reference;
    3. each row that differs from the reference in another direction than in the paper.

    Args:
        rows: all rows, including the reference.
        reference: name of the reference row.
        metrics: printed name of each metric.
        split: `test` or `validation`.
    """
    by_name = {row.row.name: row for row in rows}
    sentences: list[str] = []
    for metric, label in metrics.items():
        pairs = {
            name: _over_common_seeds(row, by_name[reference], metric, split)
            for name, row in by_name.items()
            if name != reference
        }
        others = {name: pair for name, pair in pairs.items() if pair is not None}
        if not others:
            sentences.append(f"{label}: no results yet.")
            continue
        words = {name: verdict(row, ours) for name, (row, ours) in others.items()}
        better = [name for name, word in words.items() if word.startswith("higher")]
        close = [name for name, word in words.items() if word == "same"]
        missing = "" if len(others) == len(pairs) else f" ({len(pairs) - len(others)} rows have no results yet)"
        end = f"{missing}." + (" One seed: may be due to chance." if "seed" in " ".join(words.values()) else "")
        if better:
            listed = ", ".join(f"{name} ({others[name][0].mean - others[name][1].mean:+.2f})" for name in better)
            sentences.append(f"**{label}: '{reference}' is not the best row.** Higher: {listed}{end}")
        elif close:
            listed = ", ".join(close)
            sentences.append(
                f"{label}: no row exceeds '{reference}' by more than one standard deviation; {SAME}: {listed}{end}"
            )
        else:
            sentences.append(f"{label}: '{reference}' is the best row{end}")
        sentences += _seed_by_seed(by_name, reference, metric, label, split)
        sentences += _against_the_paper(by_name, reference, metric, label, words)
    return sentences


def _over_common_seeds(row: RowResult, reference: RowResult, metric: str, split: str) -> tuple[MeanStd, MeanStd] | None:
    seeds = {result["seed"] for result in row.results} & {result["seed"] for result in reference.results}
    one, other = row.metric(metric, split, seeds), reference.metric(metric, split, seeds)
    return None if one is None or other is None else (one, other)


def _seed_by_seed(by_name: dict[str, RowResult], reference: str, metric: str, label: str, split: str) -> list[str]:
    """Lists the rows by their paired difference to the reference, if it exceeds its standard deviation over seeds."""
    found: dict[str, list[str]] = {"lower": [], "higher": [], SAME: []}
    for name, row in by_name.items():
        less = None if name == reference else row.minus(by_name[reference], metric, split)
        if less is None or less.std is None:
            continue
        direction = "higher" if less.mean > 0 else "lower"
        found[direction if abs(less.mean) > less.std else SAME].append(f"{name} ({less.signed()})")
    parts = [f"{word}: {', '.join(names)}" for word, names in found.items() if names]
    return [f"{label}, paired by seed with '{reference}': {'; '.join(parts)}."] if parts else []


def _against_the_paper(
    by_name: dict[str, RowResult], reference: str, metric: str, label: str, words: dict[str, str]
) -> list[str]:
    """Lists the rows that differ from the reference in another direction than in the paper."""
    paper_reference = by_name[reference].row.paper.get(metric)
    if paper_reference is None:
        return []
    sentences = []
    for name, word in words.items():
        printed = by_name[name].row.paper.get(metric)
        if printed is None or word.startswith("lower" if printed < paper_reference else "higher"):
            continue
        here = "no difference beyond one standard deviation" if word == "same" else word
        sentences.append(
            f"Not reproduced: '{name}', {printed - paper_reference:+.2f} {label} in the paper; here {here}."
        )
    return sentences
