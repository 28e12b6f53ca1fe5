"""Report sections that are tables: the tables of the paper, and the design choices that it leaves open."""

from typing import Any

import yaml

from .definitions import FOLDER, Experiment
from .results import Results, RowResult
from .section import MISSING, Section, table
from .verdicts import judge

COLUMNS = {
    "standard R-1": "rank1",
    "standard R-5": "rank5",
    "standard R-10": "rank10",
    "standard mAP": "mAP",
    "described R-1": "described_rank1",
    "described mAP": "described_mAP",
    "clothes-changing R-1": "clothes_changing_rank1",
    "clothes-changing mAP": "clothes_changing_mAP",
}
DIFFERENCES = {"Δ R-1": "rank1", "Δ mAP": "mAP"}  # to the reference row
CHOICE_COLUMNS = ("standard R-1", "standard mAP", "described R-1", "clothes-changing mAP")


def table_section(experiment: Experiment, results: Results) -> Section:
    """Tables 1 to 5: all protocols, the results of the paper, and the findings."""
    rows = results.rows(experiment)
    columns = {title: metric for title, metric in COLUMNS.items() if any(row.metric(metric) for row in rows)}
    has_paper = any(row.row.paper for row in rows)
    reference = next((row for row in rows if row.row.name == experiment.reference), None)
    lines = []
    for row in rows:
        figures = {title: row.metric(metric) for title, metric in columns.items()}
        line: dict[str, Any] = {"": row.row.name, "seeds": row.seeds, "β": _beta(row)}
        line |= {title: figure for title, figure in figures.items() if title.startswith("standard")}
        if reference:
            less = {title: None if row is reference else row.minus(reference, m) for title, m in DIFFERENCES.items()}
            line |= {title: difference and difference.signed() for title, difference in less.items()}
        line |= figures  # adds the other protocols
        if has_paper:
            line |= {"paper R-1": row.row.paper.get("rank1"), "paper mAP": row.row.paper.get("mAP")}
        lines.append(line | {"run": row.run_id})
    section = Section(table(lines))
    if reference:
        section.lines += [
            f"Δ: difference to '{experiment.reference}' under the standard protocol, paired by seed; mean and standard "
            "deviation of the differences.",
            "",
        ]
    if has_paper:
        section.lines += ["Results of the paper: CUHK-PEDES, standard protocol, in percent.", ""]
    if experiment.reference is not None:
        sentences = judge(rows, experiment.reference)
        section.lines += [f"- {sentence}" for sentence in sentences] + [""]
        section.findings = [sentence for sentence in sentences if not sentence.startswith("Not reproduced")]
    if experiment.published:
        section.lines += published_table()
    return section


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
        "Published results on other data sets, for context; they were not measured here. Our checkpoints are always "
        "selected on the validation split.",
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
        section.findings = judge(others, experiment.reference, {"mAP": "Validation mAP"}, split="validation")
        section.lines += [f"- {sentence}" for sentence in section.findings] + [""]
    return section


def _beta(row: RowResult) -> str:
    values = {result["clothing_weight"] for result in row.results}
    return ", ".join(f"{value:g}" for value in sorted(values)) or MISSING


def _or_dash(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"
