"""Writes the Markdown report of a study, finished or not."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modeling_bdam.files import write_text

from .definitions import PAPER_TABLES, Experiment
from .measurements import measure
from .results import Results
from .runs import difference
from .section import Section, table
from .sections_analysis import beta_section, disentanglement_section, noise_section
from .sections_figures import PICTURES, efficiency_section, pictures_section
from .sections_tables import choices_section, table_section
from .sections_verdicts import verdict_summary
from .verdicts import Comparison

SECTIONS: dict[str, Callable[[Experiment, Results], Section]] = {
    "table": table_section,
    "choices": choices_section,
    "beta": beta_section,
    "disentanglement": disentanglement_section,
    "noise": noise_section,
    "efficiency": efficiency_section,
    **dict.fromkeys(PICTURES, pictures_section),
}


def write_report(output_dir: Path) -> Path:
    """Updates `results.jsonl` from the folders of the runs and writes `report.md` and `figures/` from it.

    Returns:
        the path of the report, which marks missing and failed runs.

    Raises:
        ValueError: the folder holds no study.
    """
    results = Results(output_dir)
    measure(results)
    results.save()
    uses: dict[str, list[str]] = {key: [] for key in results.runs}
    sections: list[str] = []
    findings: list[str] = []
    verdicts: list[tuple[Experiment, list[Comparison]]] = []
    for experiment in results.experiments:
        section = SECTIONS[experiment.kind](experiment, results)
        sections += [f"## {experiment.title}", ""]
        sections += [experiment.note.strip(), ""] if experiment.note else []
        sections += section.lines
        if experiment.name in PAPER_TABLES:
            verdicts.append((experiment, section.verdicts))
        if section.findings:
            findings += [f"- **{experiment.title.split('.')[0]}**", *(f"  - {found}" for found in section.findings)]
        for row in results.rows(experiment):
            for run in row.runs:
                uses[run.key].append(f"{experiment.name}: {row.row.name}")
    for key, line in results.lines.items():
        if "failure" in line:
            findings.append(f"- {'; '.join(uses[key])}: **seed {line['seed']} failed**: {line['failure']}")
    findings += [f"- {name} was skipped: {reason}." for name, reason in results.skipped.items()]
    parts = [*_head(results), *verdict_summary(verdicts)]
    parts += ["## Further findings", "", *findings, ""] if findings else []
    text = "\n".join([*parts, *sections, *_runs(results, uses)]).rstrip() + "\n"
    write_text(output_dir / "report.md", text)
    return output_dir / "report.md"


def _head(results: Results) -> list[str]:
    """Title, progress, origin of the results, and the protocols."""
    study = results.study
    finished = [line for key in results.runs if (line := results.finished(key)) is not None]
    if not finished:
        progress = f"**0 of {len(results.runs)} training runs are finished.**"
    else:
        done, planned = len(finished), len(results.runs)
        all_done = f"All {planned} training runs are finished"
        progress = all_done if done == planned else f"**{done} of {planned} training runs are finished**"
        at_least = "at least " if any(line["resumed"] for line in finished) else ""
        seconds = datetime.timedelta(seconds=round(sum(line["seconds"] for line in finished)))
        devices = sorted({f"{line['device']} (CPU threads: {line['threads']})" for line in finished})
        last = datetime.datetime.fromisoformat(max(line["finished"] for line in finished))
        commits = sorted({line["commit"] for line in finished})
        modified = " (+: with uncommitted changes)" if any(commit.endswith("+") for commit in commits) else ""
        last_best = sum(line["best_step"] == line["steps"] for line in finished)
        sizes = sorted({f"{r['queries']} captions, {r['gallery']} images of {r['people']} people" for r in finished})
        progress += (
            f", with seeds {', '.join(map(str, sorted({run.seed for run in results.runs.values()})))}. Total time of "
            f"training and evaluation: {at_least}{seconds}. Devices: {'; '.join(devices)}. Commits: "
            f"{', '.join(commits)}{modified}. Last run finished on {last:%Y-%m-%d %H:%M} UTC. Test split: "
            f"{'; '.join(sizes)}. The best checkpoint is the last one in {last_best} of {done} runs."
        )
    return [
        f"# BDAM experiments: {study.preset} on {', '.join(study.base['data'].get('dataset_name', ['synthetic']))}, "
        f"budget {study.budget}",
        "",
        progress,
        "",
        "All results are those of the checkpoint with the best standard mAP on the validation split, in percent, as "
        "mean ± standard deviation (n - 1) over seeds. β is that of the row, not chosen. Protocols: **standard**, "
        "every test caption against every test image, at β; **re-ranked**, the first K of them ordered by the matching "
        "head, with λ and K chosen on validation; **clothes-changing**, without images of the same person in the same "
        f"clothes, at β = 0; **{results.label('described')}** gallery, each image fused with its own description"
        + (", which is the truth of the drawing here" if study.is_synthetic else "")
        + ". The column `run` is the identifier of the runs in `results.jsonl`, without the seed.",
        "",
    ]


def _runs(results: Results, uses: dict[str, list[str]]) -> list[str]:
    """Lists all runs with their settings, commit and time."""
    rows = []
    for key, run in results.runs.items():
        line = results.lines.get(key, {"run": f"{key} (missing)"})
        settings = " ".join(_flat(difference(run.settings, results.study.base)))
        row = {"run": f"{line['run']} (failed)" if "failure" in line else line["run"], "rows": "; ".join(uses[key])}
        row["settings that differ from the preset and budget"] = f"`{settings}`" if settings else "none"
        columns = {"commit": "commit", "steps": "steps", "best step": "best_step"}
        columns |= {"training, s": "train_seconds", "total, s": "seconds"}
        rows.append(row | {title: line.get(name) for title, name in columns.items()})
    return ["## Runs", "", *table(rows)]


def _flat(settings: dict[str, Any], prefix: str = "") -> list[str]:
    """Formats nested settings as `section.name=value`."""
    found: list[str] = []
    for name, value in sorted(settings.items()):
        found += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}={value}"]
    return found
