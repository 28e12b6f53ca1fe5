"""Whether a row of the paper holds here, in words."""

import math
from collections.abc import Mapping, Sequence

from .results import Figure, RowResult

METRICS = {"mAP": "mAP", "rank1": "R-1"}


def pooled_deviation(one: Figure, other: Figure) -> float:
    """The deviation of a seed, over both rows; NaN unless both rows have two seeds."""
    return math.sqrt((one.deviation**2 + other.deviation**2) / 2)


def difference(row: Figure, reference: Figure) -> str:
    """`-1.20`, the row against the reference, per cent points."""
    return f"{row.mean - reference.mean:+.2f}"


def verdict(row: Figure, reference: Figure) -> str:
    """`lower`, `higher`, or `same` within a deviation; without a deviation, `lower (1 seed)` or `higher (1 seed)`."""
    deviation, distance = pooled_deviation(row, reference), row.mean - reference.mean
    direction = "higher" if distance > 0 else "lower"
    if math.isnan(deviation):
        return f"{direction} (1 seed)" if distance else "same"
    return "same" if abs(distance) <= deviation else direction


def judge(
    rows: Sequence[RowResult], reference: str, metrics: Mapping[str, str] = METRICS, split: str = "test"
) -> list[str]:
    """What a table says about its reference: for each metric whether it is the best row, how the others differ from it
    seed by seed, and each row of the paper that does not hold here. Rows are compared over the seeds that both have.

    Args:
        rows: the reference among them.
        reference: its name.
        metrics: what to call each.
        split: `test` or `validation`.
    """
    by_name = {row.row.name: row for row in rows}
    sentences: list[str] = []
    for metric, label in metrics.items():
        figures = {
            name: _over_common_seeds(row, by_name[reference], metric, split)
            for name, row in by_name.items()
            if name != reference
        }
        others = {name: pair for name, pair in figures.items() if pair is not None}
        if not others:
            sentences.append(f"{label}: not measured yet.")
            continue
        words = {name: verdict(figure, ours) for name, (figure, ours) in others.items()}
        better = [name for name, word in words.items() if word.startswith("higher")]
        close = [name for name, word in words.items() if word == "same"]
        chance = " One seed: chance is not ruled out." if any("seed" in word for word in words.values()) else ""
        missing = "" if len(others) == len(figures) else f" ({len(figures) - len(others)} rows are not measured yet)"
        if better:
            listed = ", ".join(f"{name} ({difference(*others[name])})" for name in better)
            sentences.append(f"**{label}: '{reference}' is not the best row here.** Higher: {listed}{missing}.{chance}")
        elif close:
            sentences.append(
                f"{label}: no row is above '{reference}' by more than a deviation; within one: {', '.join(close)}"
                f"{missing}.{chance}"
            )
        else:
            sentences.append(f"{label}: '{reference}' is the best row{missing}.{chance}")
        sentences += _seed_by_seed(by_name, reference, metric, label, split)
        sentences += _against_the_paper(by_name, reference, metric, label, words)
    return sentences


def _over_common_seeds(row: RowResult, reference: RowResult, metric: str, split: str) -> tuple[Figure, Figure] | None:
    seeds = {result["seed"] for result in row.results} & {result["seed"] for result in reference.results}
    figures = row.of_split(split, metric, seeds), reference.of_split(split, metric, seeds)
    return None if figures[0] is None or figures[1] is None else (figures[0], figures[1])


def _seed_by_seed(by_name: dict[str, RowResult], reference: str, metric: str, label: str, split: str) -> list[str]:
    """Which rows differ from the reference by more than the deviation of that difference over the seeds."""
    found: dict[str, list[str]] = {"lower": [], "higher": [], "within its deviation": []}
    for name, row in by_name.items():
        less = None if name == reference else row.less(by_name[reference], metric, split)
        if less is None or less.seeds == 1:
            continue
        direction = "higher" if less.mean > 0 else "lower"
        word = direction if abs(less.mean) > less.deviation else "within its deviation"
        found[word].append(f"{name} ({less.signed()})")
    parts = [f"{word}: {', '.join(names)}" for word, names in found.items() if names]
    return [f"{label}, each seed against the same seed of '{reference}': {'; '.join(parts)}."] if parts else []


def _against_the_paper(
    by_name: dict[str, RowResult], reference: str, metric: str, label: str, words: dict[str, str]
) -> list[str]:
    """The rows whose direction in the paper is another than here."""
    paper_reference = by_name[reference].row.paper.get(metric)
    if paper_reference is None:
        return []
    sentences = []
    for name, word in words.items():
        printed = by_name[name].row.paper.get(metric)
        if printed is None:
            continue
        expected = "lower" if printed < paper_reference else "higher"
        if not word.startswith(expected):
            here = "no difference beyond a deviation" if word == "same" else word
            sentences.append(
                f"The paper's '{name}' does not hold here: {printed - paper_reference:+.2f} {label} in the paper, "
                f"{here} here."
            )
    return sentences
