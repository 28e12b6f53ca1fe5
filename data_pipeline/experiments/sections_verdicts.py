"""The verdicts at the top of the report: each row of the paper's tables, and the gain at equal information and time."""

from collections.abc import Sequence
from typing import Any

from .definitions import Experiment
from .section import MISSING, table
from .verdicts import JUDGED, METRICS, UNKNOWN, Comparison

COMPARED = {"": ("rank1", "mAP"), "clothes_changing_": ("mAP",)}  # in the sentence on equal information and time


def verdict_rows(experiment: Experiment, found: Sequence[Comparison]) -> list[dict[str, Any]]:
    """One line per row of a table other than its reference: differences in R-1 / mAP, and verdicts."""
    lines = []
    for row in experiment.rows:
        if row.name == experiment.reference:
            continue
        own = {(one.prefix, one.metric): one for one in found if one.row == row.name}
        claimed = [one.claimed for (prefix, _), one in own.items() if prefix == "" and one.claimed is not None]
        line = {"": f"{experiment.title.split('.')[0]}: {row.name}"}
        line["paper Δ"] = " / ".join(f"{claim:+.1f}" for claim in claimed) or MISSING
        for prefix, protocol in JUDGED.items():
            pair = [own[prefix, metric] for metric in METRICS if (prefix, metric) in own]
            line[protocol] = " / ".join(f"{one.difference.mean:+.1f}" for one in pair) or MISSING
            line[f"{protocol}: verdict"] = " / ".join(dict.fromkeys(one.verdict for one in pair)) or MISSING
        lines.append(line)
    return lines


def verdict_summary(tables: Sequence[tuple[Experiment, list[Comparison]]]) -> list[str]:
    """The table of all verdicts, and the sentence on equal information and time, from the tables of the paper."""
    lines = [line for experiment, found in tables for line in verdict_rows(experiment, found)]
    if not tables:
        return []
    if not any(found for _, found in tables):
        return ["## Verdicts", "", "No verdicts yet.", ""]
    used = [name for name in lines[0] if any(line[name] != MISSING for line in lines)]
    text = (
        "Differences to the reference of each table, R-1 / mAP in points, and whether the direction that the paper "
        f"reports holds ({UNKNOWN}: at this size). One verdict where both metrics agree. For a row that the paper does "
        "not have, the direction itself. The rule is below each table."
    )
    if all(one.by_seeds is None for _, found in tables for one in found):
        text += " **One seed: verdicts rest on test people only and do not cover the variation over seeds.**"
    return [
        *("## Verdicts", "", *table([{name: line[name] for name in used} for line in lines])),
        *(text, "", *(line for experiment, found in tables if experiment.published for line in equal_time(found))),
    ]


def equal_time(baselines: Sequence[Comparison]) -> list[str]:
    """Says how the reference of table 5 differs from each baseline."""
    parts = []
    for name in dict.fromkeys(one.row for one in baselines if "printed" not in one.row):
        figures = []
        for one in baselines:
            if one.row == name and one.metric in COMPARED.get(one.prefix, ()):
                mean = -one.difference.mean
                word = f"{mean:+.2f} points of {JUDGED[one.prefix]} {METRICS[one.metric]}"
                figures.append(word + (f" ({UNKNOWN})" if one.verdict == UNKNOWN else ""))
        parts.append(f"{', '.join(figures)} over {name}")
    return [f"**At equal information and equal time, BDAM gives {'; '.join(parts)}.**", ""] if parts else []
