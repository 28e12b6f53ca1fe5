"""Sections of the report that are tables: the paper's, and the choices it leaves open."""

from typing import Any

import yaml

from .definitions import FOLDER, Experiment
from .results import RowResult, RunResults
from .section import MISSING, Section, cell_link, table
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
DIFFERENCES = {"Δ R-1": "rank1", "Δ mAP": "mAP"}  # to the table's reference row


def table_section(experiment: Experiment, results: RunResults) -> Section:
    """Tables 1 to 5: every protocol, the paper's figures beside ours, and in words what holds."""
    rows = results.rows(experiment)
    columns = {title: metric for title, metric in COLUMNS.items() if any(row.test(metric) for row in rows)}
    has_paper = any(row.row.paper for row in rows)
    reference = next((row for row in rows if row.row.name == experiment.reference), None)
    lines = []
    for row in rows:
        figures = {title: row.test(metric) for title, metric in columns.items()}
        line: dict[str, Any] = {"": row.row.name, "seeds": row.seeds, "β": _beta(row)}
        line |= {title: figure for title, figure in figures.items() if title.startswith("standard")}
        if reference:
            line |= {title: _difference(row, reference, metric) for title, metric in DIFFERENCES.items()}
        line |= figures  # the other protocols'
        if has_paper:
            line |= {"paper R-1": row.row.paper.get("rank1"), "paper mAP": row.row.paper.get("mAP")}
        lines.append(line | {"config": cell_link(row, results)})
    section = Section(table(list(lines[0]), [list(line.values()) for line in lines]))
    if reference:
        section.lines += [
            f"Δ: standard protocol, the row less '{experiment.reference}', each seed against the same seed; the mean "
            "and the deviation of these differences.",
            "",
        ]
    if has_paper:
        section.lines += ["The paper's figures are of CUHK-PEDES, standard protocol, per cent.", ""]
    if experiment.reference is not None:
        sentences = judge(rows, experiment.reference)
        section.lines += [f"- {sentence}" for sentence in sentences] + [""]
        section.findings = [sentence for sentence in sentences if not sentence.startswith("The paper's")]
    if experiment.published:
        section.lines += published_table()
    return section


def published_table() -> list[str]:
    """Published figures with their source and how the checkpoint was picked."""
    published = yaml.safe_load((FOLDER / "published.yaml").read_text(encoding="utf-8"))
    header = ["published", "backbone", *(f"{name} R-1 / mAP" for name in published["sets"]), "source", "picked on"]
    rows = []
    for entry in published["methods"]:
        figures = [f"{_or_dash(values[0])} / {_or_dash(values[3])}" for values in entry["figures"]]
        rows.append([entry["method"], entry["backbone"], *figures, entry["source"], entry["picked"]])
    return [
        "Published figures on other sets, for context; none was measured here. Ours are picked on the validation "
        "split, always.",
        "",
        *table(header, rows),
    ]


def choices_section(experiment: Experiment, results: RunResults) -> Section:
    """Choices by validation mAP, the test figures beside it."""
    rows = results.rows(experiment)
    shown = ("standard R-1", "standard mAP", "described R-1", "clothes-changing mAP")
    columns = {title: COLUMNS[title] for title in shown}
    header = [
        "",
        "preset",
        "seeds",
        *(f"validation {title}" for title in columns),
        *(f"test {title}" for title in columns),
        "config",
    ]
    preset = {cell.key for row in rows if row.row.name == experiment.reference for cell in row.cells}
    lines = [
        [
            row.row.name,
            "✓" if {cell.key for cell in row.cells} == preset else "",
            row.seeds,
            *(row.validation(metric) for metric in columns.values()),
            *(row.test(metric) for metric in columns.values()),
            cell_link(row, results),
        ]
        for row in rows
    ]
    section = Section(table(header, lines))
    if experiment.reference is not None:
        others = [row for row in rows if row.row.name == experiment.reference or row.cells[0].key not in preset]
        section.findings = judge(others, experiment.reference, {"mAP": "Validation mAP"}, split="validation")
        section.lines += [f"- {sentence}" for sentence in section.findings] + [""]
    return section


def _difference(row: RowResult, reference: RowResult, metric: str) -> str | None:
    less = None if row is reference else row.less(reference, metric)
    return None if less is None else less.signed()


def _beta(row: RowResult) -> str:
    values = {result["clothing_weight"] for result in row.results}
    return ", ".join(f"{value:g}" for value in sorted(values)) or MISSING


def _or_dash(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"
