"""The report of a run, finished or not: one Markdown page and the same as HTML."""

import datetime
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from .cells import essential, write_text
from .definitions import NAMES, load_experiment
from .results import RowResult, RunResults
from .section import table
from .sections import SECTIONS

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.55 system-ui, sans-serif; color: #111827; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto; }}
th, td {{ padding: .3rem .6rem; border-bottom: 1px solid #e5e7eb; white-space: nowrap; }}
td:first-child, th:first-child {{ white-space: normal; min-width: 12rem; }}
img {{ max-width: min(100%, 60rem); }}
a {{ color: #0072b2; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def write_report(output_dir: Path) -> Path:
    """Writes `report.md`, `report.html` and `figures/` into the folder of a run; what is missing is marked.

    Returns:
        the Markdown page.

    Raises:
        ValueError: there is no run in that folder.
    """
    results = RunResults(output_dir)
    experiments = [load_experiment(name) for name in NAMES if name in results.seeds]
    cells: dict[str, tuple[RowResult, int, list[str]]] = {}
    sections: list[str] = []
    findings: list[str] = []
    for experiment in experiments:
        section = SECTIONS[experiment.kind](experiment, results)
        sections += [f"## {experiment.title}", ""]
        sections += [experiment.note.strip(), ""] if experiment.note else []
        sections += section.lines
        if section.findings:
            findings += [f"- **{experiment.title.split('.')[0]}**", *(f"  - {found}" for found in section.findings)]
        for row in results.rows(experiment):
            for place, cell in enumerate(row.cells):
                cells.setdefault(cell.key, (row, place, []))[2].append(f"{experiment.name}: {row.row.name}")
    failed = [
        f"- {'; '.join(uses)}: **the training of seed {row.cells[place].seed} failed**: {row.failures[key]}"
        for key, (row, place, uses) in cells.items()
        if key in row.failures
    ]
    skipped = [f"- {name} was left out: {reason}." for name, reason in results.skipped.items()]
    lines = [
        *_head(results, cells),
        "## What it shows",
        "",
        *(findings or ["Nothing yet."]),
        *failed,
        *skipped,
        "",
        *sections,
        *_cells(results, cells),
    ]
    text = "\n".join(lines).rstrip() + "\n"
    title = lines[0].removeprefix("# ")
    body = MarkdownIt("commonmark").enable("table").render(text)
    write_text(output_dir / "report.html", _PAGE.format(title=title, body=body))
    write_text(output_dir / "report.md", text)
    return output_dir / "report.md"


def _head(results: RunResults, cells: dict[str, tuple[RowResult, int, list[str]]]) -> list[str]:
    """What was run, how much of it is there, how it is scored."""
    run = results.run
    finished = _finished(results, cells)
    seconds = sum(result["seconds"] for result in finished)
    seeds = sorted({seed for seeds in results.seeds.values() for seed in seeds})
    seed_list = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    commits = sorted({result["commit"] for result in finished})
    sizes = sorted({f"{r['queries']} captions, {r['gallery']} images of {r['people']} people" for r in finished})
    changed = " (+: with changes)" if any(commit.endswith("+") for commit in commits) else ""
    part = (
        f"All {len(cells)}"
        if len(finished) == len(cells)
        else f"**{len(finished)} of {len(cells)}, the others are missing:**"
    )
    at_least = "at least " if any(result["resumed"] for result in finished) else ""
    devices = sorted({f"{result['device']}, {result['threads']} threads" for result in finished})
    data = ", ".join(run.base["data"].get("dataset_name", ["synthetic"]))
    return [
        f"# BDAM experiments: {run.preset} on {data}, budget {run.budget}",
        "",
        f"{part} cells (a cell is one training) of {seed_list}; {at_least}"
        f"{datetime.timedelta(seconds=round(seconds))} of training and evaluation in turn, on "
        f"{' and '.join(devices) or 'nothing yet'}; commit {', '.join(commits) or 'unknown'}{changed}; "
        f"written {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC.",
        "",
        f"Test split: {'; '.join(sizes) or 'not seen yet'}. Every figure is of the checkpoint with the best standard "
        "mAP on the validation split, per cent, mean ± standard deviation (n - 1) over seeds; one seed has none. "
        "Protocols: **standard**, every test caption against every test image, at the row's β; **described** gallery, "
        "each image fused with its own description; **clothes-changing**, without images of the same person in the "
        "same clothes, at β = 0.",
        "",
    ]


def _cells(results: RunResults, cells: dict[str, tuple[RowResult, int, list[str]]]) -> list[str]:
    """Every cell with its settings, commit and time."""
    base = essential(results.run.base)
    rows: list[list[Any]] = []
    for key, (row, place, uses) in cells.items():
        settings = essential(row.cells[place].settings)
        changes = [
            f"{section}.{name}={settings[section].get(name)}"
            for section in settings
            for name in sorted(settings[section].keys() | base.get(section, {}).keys())
            if settings[section].get(name) != base.get(section, {}).get(name)
        ]
        result = next((found for found in row.results if found["key"] == key), None)
        facts = [None] * 5
        if result is not None:
            facts = [result["commit"], result["steps"], result["best_step"], result["train_seconds"], result["seconds"]]
        missing = f"{key} (failed)" if key in row.failures else f"{key} (missing)"
        state = f"[{key}](cells/{key}/result.json)" if result is not None else missing
        rows.append([state, "; ".join(uses), "`" + (" ".join(changes) or "the preset") + "`", *facts])
    header = [
        "cell",
        "rows",
        "settings beside the preset and budget",
        "commit",
        "steps",
        "best step",
        "training, s",
        "all, s",
    ]
    return ["## Cells", "", *table(header, rows)]


def _finished(results: RunResults, cells: dict[str, tuple[RowResult, int, list[str]]]) -> list[dict[str, Any]]:
    found = []
    for key, (row, _, _) in cells.items():
        found += [result for result in row.results if result["key"] == key]
    return found
