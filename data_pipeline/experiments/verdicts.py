"""Judges the rows of a table against its reference row: two sources of variation, one verdict per row and metric.

1. Seeds: Student's t of the differences paired by seed. The standard error is that of the residuals of rows x seeds (a
   two-way analysis of variance), and at least that of the row itself.
2. Test people: a bootstrap over the people of the test split, of the differences averaged over the seeds.

The larger of both p-values counts, after Holm's correction over all rows, metrics and protocols of the table. With one
seed there is only the bootstrap, which does not cover the variation over seeds.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from .ranks import PEOPLE, person_sums
from .results import MeanStd, RowResult

LEVEL = 0.05
METRICS = {"rank1": "R-1", "mAP": "mAP"}
JUDGED = {"": "standard", "reranked_": "re-ranked", "clothes_changing_": "clothes-changing"}  # by prefix
HOLDS, FAILS, UNKNOWN = "holds", "does not hold", "cannot be told"
DRAWS = 10_000
Line = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """The difference of one row to the reference in one metric of one protocol.

    Attributes:
        row, prefix, metric: name of the row, prefix of the protocol, metric.
        difference: in points, over the seeds that both have on the same device and torch version.
        interval: of 95 % over test people, in points; None without ranks.
        by_seeds, by_people: p-values; None with one seed, and without ranks.
        p: the larger one, after Holm's correction.
        claimed: the difference that the paper reports by its standard protocol; None without one.
    """

    row: str
    prefix: str
    metric: str
    difference: MeanStd
    interval: tuple[float, float] | None
    by_seeds: float | None
    by_people: float | None
    p: float
    claimed: float | None

    @property
    def verdict(self) -> str:
        """Whether the direction of the paper's difference is confirmed; without one, `lower` or `higher`."""
        if self.p > LEVEL:
            return UNKNOWN
        if self.claimed is None:
            return "lower" if self.difference.mean < 0 else "higher"
        return HOLDS if (self.difference.mean < 0) == (self.claimed < 0) else FAILS


def compare(
    rows: Sequence[RowResult],
    reference: str,
    metrics: Sequence[str] = tuple(METRICS),
    prefixes: Sequence[str] = tuple(JUDGED),
    split: str = "test",
) -> list[Comparison]:
    """Compares all rows with the reference in every metric and protocol that the reference has.

    A model without a matching head is ranked by its vectors, so that its re-ranked figures are its standard ones. A row
    without a seed on the device and torch version of the reference is left out.

    Args:
        rows: all rows, including the reference.
        reference: name of the reference row.
        metrics, prefixes: names of metrics and prefixes of protocols.
        split: `test` or `validation`; only the former has ranks.
    """
    base = next(row for row in rows if row.row.name == reference)
    found: list[Comparison] = []
    for prefix in prefixes:
        for metric in metrics:
            by_row = {row.row.name: _pairs(row, base, prefix, metric, split) for row in rows}
            residual = _residual([_values([own for own, _ in p], prefix, metric, split) for p in by_row.values()])
            for row in rows:
                pairs = [] if row is base else by_row[row.row.name]
                if pairs:
                    one = _comparison(pairs, prefix, metric, split, residual)
                    claimed = row.row.paper.get(metric, math.nan) - base.row.paper.get(metric, math.nan)
                    found.append(replace(one, row=row.row.name, claimed=None if math.isnan(claimed) else claimed))
    corrected = holm([comparison.p for comparison in found])
    return [replace(comparison, p=p) for comparison, p in zip(found, corrected, strict=True)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrects p-values for their number (Holm, 1979)."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected


def _pairs(row: RowResult, base: RowResult, prefix: str, metric: str, split: str) -> list[tuple[Line, Line]]:
    """The results of both rows by seed that have a metric, from the same device and torch version."""
    theirs = {_origin(line): line for line in base.results if prefix + metric in line[split]}
    own = [line for line in row.results if _prefix(line, prefix, metric, split) + metric in line[split]]
    return [(line, theirs[_origin(line)]) for line in own if _origin(line) in theirs]


def _origin(line: Line) -> tuple[int, str, str]:
    return line["seed"], line["device"], line["torch"]


def _prefix(line: Line, prefix: str, metric: str, split: str) -> str:
    return prefix if prefix + metric in line[split] or prefix != "reranked_" else ""


def _values(lines: Sequence[Line], prefix: str, metric: str, split: str) -> dict[int, float]:
    """The metric by seed, in percent."""
    return {line["seed"]: 100 * line[split][_prefix(line, prefix, metric, split) + metric] for line in lines}


def _residual(tables: Sequence[dict[int, float]]) -> tuple[float, int] | None:
    """Standard deviation and degrees of freedom of the residuals of rows x seeds, over the seeds that all rows have."""
    tables = [table for table in tables if table]
    seeds = sorted(set.intersection(*map(set, tables))) if tables else []
    if len(tables) < 2 or len(seeds) < 2:
        return None
    freedom = (len(tables) - 1) * (len(seeds) - 1)
    values = np.array([[table[seed] for seed in seeds] for table in tables])  # [R, S]
    residual = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    return math.sqrt((residual**2).sum() / freedom), freedom


def _comparison(
    pairs: Sequence[tuple[Line, Line]], prefix: str, metric: str, split: str, residual: tuple[float, int] | None
) -> Comparison:
    ours, theirs = (_values([pair[side] for pair in pairs], prefix, metric, split) for side in (0, 1))
    difference = MeanStd.of([ours[seed] - theirs[seed] for seed in ours])
    assert difference is not None
    by_seeds = None
    if difference.std is not None:
        deviation, freedom = difference.std, difference.seeds - 1
        if residual is not None and math.sqrt(2) * residual[0] > deviation:
            deviation, freedom = math.sqrt(2) * residual[0], residual[1]
        error = max(deviation, 1e-9) / math.sqrt(difference.seeds)
        by_seeds = float(2 * student.sf(abs(difference.mean) / error, freedom))
    interval, by_people = None, None
    if split == "test" and all(PEOPLE in line.get("ranks", {}) for pair in pairs for line in pair):
        interval, by_people = _over_people(pairs, prefix, metric)
    known = [p for p in (by_seeds, by_people) if p is not None]
    return Comparison("", prefix, metric, difference, interval, by_seeds, by_people, max(known, default=1.0), None)


def _over_people(pairs: Sequence[tuple[Line, Line]], prefix: str, metric: str) -> tuple[tuple[float, float], float]:
    """The 95 % interval, in points, and the p-value of the mean difference of some pairs, by drawing test people."""
    sums: list[NDArray] = []  # of the difference, by person
    counts = np.zeros(1)
    for pair in pairs:
        both = [person_sums(line["ranks"], _prefix(line, prefix, metric, "test"), metric) for line in pair]
        counts = both[0][1]
        sums.append(both[0][0] - both[1][0])
    drawn = _draws(len(counts))  # [B, P]
    # Rounded, so that differences of 0 do not depend on the order in which a processor adds
    differences = np.round(100 * (drawn @ np.mean(sums, axis=0)) / np.maximum(drawn @ counts, 1), 9)  # [B]
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    low, high = np.percentile(differences, [2.5, 97.5])
    return (float(low), float(high)), min(1.0, 2 * (float(tail) + 1) / (DRAWS + 1))


@functools.cache
def _draws(people: int) -> NDArray:
    """The number of times that each person occurs in each draw, [B, P]."""
    return np.random.default_rng(0).multinomial(people, np.full(people, 1 / people), size=DRAWS).astype(np.float32)


def sentences(found: Sequence[Comparison], reference: str) -> list[str]:
    """One sentence per metric and protocol: the rows that are lower, higher, and neither."""
    groups: dict[str, dict[str, list[str]]] = {}
    for one in found:
        group = groups.setdefault(
            f"{JUDGED[one.prefix]} {METRICS[one.metric]}", {"lower": [], "higher": [], UNKNOWN: []}
        )
        word = UNKNOWN if one.p > LEVEL else "lower" if one.difference.mean < 0 else "higher"
        group[word].append(f"{one.row} ({one.difference.signed()})")
    return [
        f"{name}, against '{reference}': "
        + "; ".join(f"{word}: {', '.join(rows)}" for word, rows in group.items() if rows)
        + "."
        for name, group in groups.items()
    ]
