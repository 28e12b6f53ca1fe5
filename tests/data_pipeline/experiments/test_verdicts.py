"""The rule of judgement: its error rate without an effect, its power, and its parts against slow oracles."""

import dataclasses
import random
import statistics

import numpy as np
import pytest
from scipy import stats

from data_pipeline.experiments.definitions import Row
from data_pipeline.experiments.ranks import PEOPLE, pack, person_sums
from data_pipeline.experiments.results import RowResult
from data_pipeline.experiments.verdicts import FAILS, HOLDS, UNKNOWN, compare, holm, sentences

PEOPLE_COUNT, QUERIES = 40, 6  # QUERIES of each person


def row(name: str, skills: list[float], rng: np.random.Generator, paper: float | None = None, **line: str) -> RowResult:
    """A row with one result per seed: each query is answered with the probability `skill`, which varies by person."""
    results = []
    for seed, skill in enumerate(skills):
        chance = np.clip(skill + 0.15 * rng.standard_normal(PEOPLE_COUNT), 0, 1).repeat(QUERIES)
        first = np.where(rng.random(len(chance)) < chance, 1, 5)
        ranks = {"": pack(np.stack([first, 65535 / first])), PEOPLE: pack(np.arange(PEOPLE_COUNT).repeat(QUERIES))}
        test = {"rank1": float((first == 1).mean()), "mAP": float((1 / first).mean())}
        origin = {"device": "CPU", "torch": "2"} | line
        results.append({"seed": seed, "test": test, "validation": test, "ranks": ranks, **origin})
    return RowResult(Row(name, paper={} if paper is None else {"rank1": paper, "mAP": paper}), (), tuple(results))


def test_rule_fires_in_at_most_5_percent_without_an_effect() -> None:
    """Tables of three equal rows, whose trainings vary over seeds and whose people vary in difficulty."""
    rng, fired, tables = np.random.default_rng(0), 0, 120
    for _ in range(tables):
        rows = [row(name, list(0.4 + 0.03 * rng.standard_normal(3)), rng) for name in ("Full", "A", "B")]
        fired += any(one.verdict != UNKNOWN for one in compare(rows, "Full"))
    assert fired <= 0.05 * tables


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize(("skill", "claimed", "verdict"), [(0.1, 50, HOLDS), (0.8, 50, FAILS), (0.1, None, "lower")])
def test_compare_judges_a_large_effect(seeds: int, skill: float, claimed: float | None, verdict: str) -> None:
    rng = np.random.default_rng(1)
    rows = [row("Full", [0.4] * seeds, rng, 70), row("A", [skill] * seeds, rng, claimed), row("B", [0.4] * seeds, rng)]
    found = compare(rows, "Full")
    assert {one.verdict for one in found if one.row == "A"} == {verdict}
    assert {one.verdict for one in found if one.row == "B"} == {UNKNOWN}
    assert all((one.by_seeds is None) == (seeds == 1) for one in found)
    (r1, _) = sentences(found, "Full")
    assert f"R-1, against 'Full': {'lower' if skill < 0.4 else 'higher'}: A (" in r1


def test_compare_uses_t_of_the_residuals_and_people() -> None:
    """One comparison of three seeds, recomputed by plain loops."""
    rng = np.random.default_rng(2)
    rows = [row(name, [0.4, 0.5, 0.3], rng) for name in ("Full", "A", "B")]
    one = next(found for found in compare(rows, "Full", ["rank1"]) if found.row == "A")
    table = [[100 * line["test"]["rank1"] for line in each.results] for each in rows]
    differences = [a - full for full, a in zip(table[0], table[1], strict=True)]
    assert one.difference.mean == pytest.approx(statistics.fmean(differences))
    everything = statistics.fmean(value for values in table for value in values)
    squares = [
        (table[i][s] - statistics.fmean(table[i]) - statistics.fmean(each[s] for each in table) + everything) ** 2
        for i in range(3)
        for s in range(3)
    ]
    deviation = max((2 * sum(squares) / 4) ** 0.5, statistics.stdev(differences))
    freedom = 4 if deviation > statistics.stdev(differences) else 2
    t = abs(one.difference.mean) / (deviation / 3**0.5)
    assert one.by_seeds == pytest.approx(2 * stats.t.sf(t, freedom))
    sums = [[person_sums(line["ranks"], "", "rank1")[0] for line in each.results] for each in rows[:2]]
    per_person = (np.mean(sums[1], axis=0) - np.mean(sums[0], axis=0)) / QUERIES
    draw = random.Random(0)
    means = sorted(100 * statistics.fmean(draw.choices(per_person.tolist(), k=PEOPLE_COUNT)) for _ in range(4000))
    assert one.interval == pytest.approx((means[100], means[3900]), abs=0.7)


def test_holm_equals_its_definition() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_compare_leaves_out_rows_of_another_device_or_torch() -> None:
    rng = np.random.default_rng(3)
    full, same = row("Full", [0.4, 0.4], rng), row("A", [0.1, 0.1], rng)
    others = [row("GPU", [0.1, 0.1], rng, device="H200"), row("new", [0.1, 0.1], rng, torch="3")]
    assert {one.row for one in compare([full, same, *others], "Full")} == {"A"}


def test_compare_takes_standard_ranks_of_a_model_without_a_head() -> None:
    rng = np.random.default_rng(4)
    full, plain = row("Full", [0.7, 0.7], rng), row("A", [0.2, 0.2], rng)
    lines = tuple(
        line
        | {"test": line["test"] | {f"reranked_{name}": value for name, value in line["test"].items()}}
        | {"ranks": line["ranks"] | {"reranked_": line["ranks"][""]}}
        for line in full.results
    )
    found = compare([dataclasses.replace(full, results=lines), plain], "Full")
    by_key = {(one.prefix, one.metric): one.difference for one in found}
    assert by_key["reranked_", "mAP"] == by_key["", "mAP"]


def test_compare_reads_validation_without_ranks() -> None:
    rng = np.random.default_rng(5)
    (one,) = compare([row("Full", [0.4, 0.5], rng), row("A", [0.1, 0.2], rng)], "Full", ["mAP"], [""], "validation")
    assert one.interval is None and one.by_people is None and one.by_seeds is not None
