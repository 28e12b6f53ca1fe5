"""The sentences of the report about a table."""

import dataclasses

import pytest

from data_pipeline.experiments.definitions import Row
from data_pipeline.experiments.results import MeanStd, RowResult
from data_pipeline.experiments.verdicts import judge, pooled_deviation, verdict


def figure(*values: float) -> MeanStd:
    found = MeanStd.of(values)
    assert found is not None
    return found


def row(name: str, *values: float, paper: float | None = None) -> RowResult:
    results = tuple(
        {"seed": seed, "test": {"mAP": value / 100, "rank1": value / 100}} for seed, value in enumerate(values)
    )
    return RowResult(Row(name, paper={} if paper is None else {"mAP": paper, "rank1": paper}), (), results)


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
def test_verdict_needs_one_standard_deviation(ours: tuple[float], reference: tuple[float], word: str) -> None:
    assert verdict(figure(*ours), figure(*reference)) == word


def test_pooled_deviation_needs_two_seeds_of_both_rows() -> None:
    one, other = figure(1, 3), figure(10, 10)
    assert one.std == pytest.approx(2**0.5)
    assert pooled_deviation(one, other) == pytest.approx(1.0)
    assert pooled_deviation(one, figure(5)) is None
    assert (str(figure(5)), str(one)) == ("5.00", "2.00 ± 1.41")


def test_judge_names_the_best_row_and_close_rows() -> None:
    rows = [row("Full model", 20, 22, paper=70), row("A", 10, 12, paper=60), row("B", 20, 21.8, paper=69)]
    text = " ".join(judge(rows, "Full model"))
    close = "no row exceeds 'Full model' by more than one standard deviation; within one standard deviation: B."
    assert f"mAP: {close}" in text
    assert "Not reproduced: 'B', -1.00 mAP in the paper; here no difference beyond one standard deviation." in text
    assert "'A'" not in text
    assert "'Full model' is the best row" in " ".join(judge(rows[:2], "Full model"))


def test_judge_emphasizes_a_row_above_the_reference() -> None:
    text = " ".join(judge([row("Full model", 20, 22, paper=70), row("A", 30, 32, paper=60)], "Full model"))
    assert "**mAP: 'Full model' is not the best row.** Higher: A (+10.00)." in text
    assert "Not reproduced: 'A', -10.00 R-1 in the paper; here higher." in text


def test_judge_compares_over_common_seeds() -> None:
    rows = [row("Full model", 20, 22, 2), row("A", 18, 19)]  # the third seed is a hard one
    assert judge(rows, "Full model")[0] == "mAP: 'Full model' is the best row."
    hard = dataclasses.replace(row("A", 18), results=({"seed": 7, "test": {"mAP": 0.18, "rank1": 0.18}},))
    assert judge([rows[0], hard], "Full model")[0] == "mAP: no results yet."


def test_minus_is_paired_by_seed() -> None:
    full = row("Full model", 20, 30, 40)
    below, near, other = row("A", 19, 28, 39), row("B", 21, 29, 41), row("C", 5)
    less = below.minus(full, "mAP")
    assert less is not None
    assert less.signed() == "-1.33 ± 0.58"  # although the deviation of each row is 10
    assert below.minus(row("D"), "mAP") is None
    paired = "lower: A (-1.33 ± 0.58); within one standard deviation: B (+0.33 ± 1.15)."
    assert f"mAP, paired by seed with 'Full model': {paired}" in judge([full, below, near, other], "Full model")


def test_judge_reads_the_validation_split() -> None:
    default, better = row("Default", 20, 30), row("A", 40, 50)  # on the test split
    swapped = []
    for one, other in ((default, better), (better, default)):
        pairs = zip(one.results, other.results, strict=True)
        results = tuple(result | {"validation": theirs["test"]} for result, theirs in pairs)
        swapped.append(dataclasses.replace(one, results=results))
    assert judge(swapped, "Default", {"mAP": "Validation mAP"}, split="validation") == [
        "Validation mAP: 'Default' is the best row.",
        "Validation mAP, paired by seed with 'Default': lower: A (-20.00 ± 0.00).",
    ]


def test_judge_counts_missing_rows() -> None:
    assert judge([row("Full model"), row("A", 1)], "Full model")[0] == "mAP: no results yet."
    text = " ".join(judge([row("Full model", 5), row("A", 1), row("B")], "Full model"))
    assert "'Full model' is the best row (1 rows have no results yet)" in text
