"""Report sections that are tables: the tables of the paper, and the design choices that it leaves open."""

from collections.abc import Sequence
from typing import Any

import yaml

from ..styles.style_captions import partition_notes
from .definitions import FOLDER, Experiment
from .results import MeanStd, Results, RowResult
from .section import MISSING, Section, table
from .verdicts import JUDGED, METRICS, Comparison, compare, sentences

COLUMNS = {
    "standard R-1": "rank1",
    "standard R-5": "rank5",
    "standard R-10": "rank10",
    "standard mAP": "mAP",
    "re-ranked R-1": "reranked_rank1",
    "re-ranked mAP": "reranked_mAP",
    "clothes-changing R-1": "clothes_changing_rank1",
    "clothes-changing mAP": "clothes_changing_mAP",
    "described R-1": "described_rank1",
    "described mAP": "described_mAP",
}
CHOICE_COLUMNS = ("standard R-1", "standard mAP", "clothes-changing mAP")
BOUNDS = {"chance": "chance", "ceiling": "ceiling: every trait of an image known, real captions"}
RULE = (
    "Δ: difference to '{}' in points, paired by seed, mean ± standard deviation. Interval: 95 % over test people. p: "
    "the larger one of both, after Holm's correction over this table. A verdict needs p ≤ 0.05. Where the paper has "
    "the row, it compares the direction with the paper's."
)


def table_section(experiment: Experiment, results: Results) -> Section:
    """Tables 1 to 5: all protocols between chance and ceiling, the results of the paper, and the verdicts."""
    rows = results.rows(experiment)
    columns = {title: metric for title, metric in COLUMNS.items() if any(row.metric(metric) for row in rows)}
    lines = []
    for row in rows:
        line: dict[str, Any] = {"": row.row.name, "seeds": row.seeds, "β": _beta(row)}
        line |= {results.label(title): row.metric(metric) for title, metric in columns.items()}
        if any(row.metric("described_rank1") for row in rows):
            weights = [found["test"].get("described_image_weight") for found in row.results]
            line["image weight of the described gallery"] = MeanStd.of(weights)
        if any(row.row.paper for row in rows):
            line |= {"paper R-1": row.row.paper.get("rank1"), "paper mAP": row.row.paper.get("mAP")}
        lines.append(line | {"run": row.run_id})
    for name, bound in results.measured.get("bounds", {}).items():
        line = dict.fromkeys(lines[0]) | {"": BOUNDS[name]}
        found = {results.label(title): bound.get(metric) for title, metric in columns.items()}
        lines.append(line | {title: None if value is None else f"{100 * value:.2f}" for title, value in found.items()})
    section = Section(table(lines))
    styles = {row.row.name: [found["styles"] for found in row.results if "styles" in found] for row in rows}
    section.lines += [line for note in partition_notes(styles) for line in (note, "")]
    if any(row.row.paper for row in rows):
        section.lines += ["Results of the paper: CUHK-PEDES, standard protocol, in percent.", ""]
    if experiment.reference is not None:
        section.verdicts = compare(rows, experiment.reference)
        section.lines += verdict_table(section.verdicts)
        section.lines += [RULE.format(experiment.reference), ""]
        judged = {one.row for one in section.verdicts} | {experiment.reference}
        if names := [row.row.name for row in rows if row.results and row.row.name not in judged]:
            other = "no seed ran on the device and torch version of the reference"
            section.lines += [f"Not judged, since {other}: {', '.join(names)}.", ""]
    if experiment.published:
        section.lines += published_table()
    return section


def verdict_table(found: Sequence[Comparison]) -> list[str]:
    """Lists each comparison with its two p-values."""
    if not found:
        return ["No verdicts yet.", ""]
    return table(
        [
            {
                "": one.row,
                "protocol": JUDGED[one.prefix],
                "metric": METRICS[one.metric],
                "Δ": one.difference.signed(),
                "interval": None if one.interval is None else "{:+.2f} to {:+.2f}".format(*one.interval),
                "p over seeds": None if one.by_seeds is None else f"{one.by_seeds:.4f}",
                "p over people": None if one.by_people is None else f"{one.by_people:.4f}",
                "p": f"{one.p:.4f}",
                "Δ of the paper": None if one.claimed is None else f"{one.claimed:+.2f}",
                "verdict": one.verdict,
            }
            for one in found
        ]
    )


def published_table() -> list[str]:
    """Published results with their source and the split used to select the checkpoint."""
    published = yaml.safe_load((FOLDER / "published.yaml").read_text(encoding="utf-8"))
    rows = []
    for entry in published["methods"]:
        row = {"published": entry["method"], "backbone": entry["backbone"]}
        for name, (rank1, _, _, mean_precision) in zip(published["sets"], entry["figures"], strict=True):
            row[f"{name} R-1 / mAP"] = f"{_or_dash(rank1)} / {_or_dash(mean_precision)}"
        rows.append(row | {"source": entry["source"], "checkpoint selected on": entry["picked"]})
    return [
        "Published results on other data sets, for context; they were not measured here.",
        "",
        *table(rows),
    ]


def choices_section(experiment: Experiment, results: Results) -> Section:
    """Design choices compared by validation mAP, with the test results for reference."""
    rows = results.rows(experiment)
    preset = {run.key for row in rows if row.row.name == experiment.reference for run in row.runs}
    lines = []
    for row in rows:
        is_preset = {run.key for run in row.runs} == preset
        line: dict[str, Any] = {"": row.row.name, "preset": "✓" if is_preset else "", "seeds": row.seeds}
        for split in ("validation", "test"):
            line |= {f"{split} {title}": row.metric(COLUMNS[title], split) for title in CHOICE_COLUMNS}
        lines.append(line | {"run": row.run_id})
    section = Section(table(lines))
    if experiment.reference is not None:
        others = [row for row in rows if row.row.name == experiment.reference or row.runs[0].key not in preset]
        found = compare(others, experiment.reference, ["mAP"], [""], split="validation")
        section.findings = [f"Validation: {sentence}" for sentence in sentences(found, experiment.reference)]
        section.lines += [f"- {sentence}" for sentence in section.findings] + [""]
    return section


def _beta(row: RowResult) -> str:
    values = {result["clothing_weight"] for result in row.results}
    return ", ".join(f"{value:g}" for value in sorted(values)) or MISSING


def _or_dash(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"
