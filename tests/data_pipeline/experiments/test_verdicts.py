"""What the report says in words about a table."""

import dataclasses
import math

import pytest

from data_pipeline.experiments.definitions import Row
from data_pipeline.experiments.results import Figure, RowResult
from data_pipeline.experiments.verdicts import judge, pooled_deviation, verdict


def figure(*values: float) -> Figure:
    found = Figure.of(values)
    assert found is not None
    return found


def row(name: str, *values: float, paper: float | None = None) -> RowResult:
    results = tuple(
        {"seed": seed, "test": {"mAP": value / 100, "rank1": value / 100}} for seed, value in enumerate(values)
    )
    return RowResult(Row(name, paper={} if paper is None else {"mAP": paper, "rank1": paper}), (), results, ())


@pytest.mark.parametrize(
    ("ours", "reference", "word"),
    [
        ((10, 12), (20, 22), "lower"),
        ((20, 22), (10, 12), "higher"),
        ((10, 14), (11, 15), "same"),
        ((10,), (20,), "lower (1 seed)"),
        ((20,), (10,), "higher (1 seed)"),
        ((10,), (10,), "same"),
    ],
)
def test_difference_counts_from_one_deviation_on(ours: tuple[float], reference: tuple[float], word: str) -> None:
    assert verdict(figure(*ours), figure(*reference)) == word


def test_deviation_is_pooled_over_both_rows() -> None:
    one, other = figure(1, 3), figure(10, 10)
    assert one.deviation == pytest.approx(2**0.5)
    assert pooled_deviation(one, other) == pytest.approx(1.0)
    assert math.isnan(pooled_deviation(one, figure(5)))  # chance is not known of one seed
    assert str(figure(5)) == "5.00"
    assert str(one) == "2.00 ± 1.41"


def test_best_row_is_called_so_and_a_close_one_named() -> None:
    rows = [row("Full model", 20, 22, paper=70), row("A", 10, 12, paper=60), row("B", 20, 21.8, paper=69)]
    text = " ".join(judge(rows, "Full model"))
    assert "mAP: no row is above 'Full model' by more than a deviation; within one: B." in text
    assert "The paper's 'B' does not hold here: -1.00 mAP in the paper, no difference beyond a deviation here." in text
    assert "'A'" not in text
    assert "'Full model' is the best row" in " ".join(judge(rows[:2], "Full model"))


def test_row_above_the_full_model_is_said_aloud() -> None:
    text = " ".join(judge([row("Full model", 20, 22, paper=70), row("A", 30, 32, paper=60)], "Full model"))
    assert "**mAP: 'Full model' is not the best row here.** Higher: A (+10.00)." in text
    assert "The paper's 'A' does not hold here: -10.00 R-1 in the paper, higher here." in text


def test_rows_are_compared_over_the_seeds_that_both_have() -> None:
    rows = [row("Full model", 20, 22, 2), row("A", 18, 19)]  # the third seed is a hard one
    assert judge(rows, "Full model")[0] == "mAP: 'Full model' is the best row."
    hard = dataclasses.replace(row("A", 18), results=({"seed": 7, "test": {"mAP": 0.18, "rank1": 0.18}},))
    assert judge([rows[0], hard], "Full model")[0] == "mAP: not measured yet."


def test_difference_is_taken_seed_by_seed() -> None:
    full = row("Full model", 20, 30, 40)
    below, near, other = row("A", 19, 28, 39), row("B", 21, 29, 41), row("C", 5)
    less = below.less(full, "mAP")
    assert less is not None
    assert less.signed() == "-1.33 ± 0.58"  # though each row's own deviation is 10
    assert below.less(row("D"), "mAP") is None
    sentence = (
        "mAP, each seed against the same seed of 'Full model': "
        "lower: A (-1.33 ± 0.58); within its deviation: B (+0.33 ± 1.15)."
    )
    assert sentence in judge([full, below, near, other], "Full model")


def test_choices_are_judged_by_the_validation_split() -> None:
    default, better = row("Default", 20, 30), row("A", 40, 50)  # on the test split
    swapped = []
    for one, other in ((default, better), (better, default)):
        pairs = zip(one.results, other.results, strict=True)
        results = tuple(result | {"validation": theirs["test"]} for result, theirs in pairs)
        swapped.append(dataclasses.replace(one, results=results))
    sentences = judge(swapped, "Default", {"mAP": "Validation mAP"}, split="validation")
    assert sentences == [
        "Validation mAP: 'Default' is the best row.",
        "Validation mAP, each seed against the same seed of 'Default': lower: A (-20.00 ± 0.00).",
    ]


def test_rows_that_are_missing_are_counted() -> None:
    assert judge([row("Full model"), row("A", 1)], "Full model")[0] == "mAP: not measured yet."
    text = " ".join(judge([row("Full model", 5), row("A", 1), row("B")], "Full model"))
    assert "'Full model' is the best row (1 rows are not measured yet)" in text
