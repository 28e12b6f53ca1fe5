"""The report of invented results, of missing results, and of the committed results."""

import base64
import json
import re
import shutil
import statistics
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from data_pipeline.experiments import efficiency, measurements
from data_pipeline.experiments.definitions import NAMES, load_experiment
from data_pipeline.experiments.features import BranchFeatures, save_features
from data_pipeline.experiments.plan import Plan
from data_pipeline.experiments.report import write_report
from data_pipeline.experiments.runs import TrainingRun
from modeling_bdam.evaluation.protocols import EncodedSplit

MakePlan = Callable[..., Plan]
WriteResult = Callable[..., None]
COMMITTED = Path(__file__).parents[3] / "hub_cards" / "experiments"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficiency, "_MIN_SECONDS", 0.0)
    monkeypatch.setattr(efficiency, "LENGTHS", (64,))


def run_of(plan: Plan, experiment: str, row: str, seed: int = 0) -> TrainingRun:
    definition = next(found for found in load_experiment(experiment).rows if found.name == row)
    key = plan.study.training_run(definition, seed).key
    return next(run for run in plan.runs if run.key == key)


def line_of(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"| {name} |"))


def results_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def write_features(path: Path, seed: int) -> None:
    """Random features of ten people in two outfits each."""
    rng = np.random.default_rng(seed)

    def branches(first: int) -> BranchFeatures:
        people = np.repeat(np.arange(first, first + 10), 4)
        fields = ("identity", "clothing", "identity_embeds", "clothing_embeds")
        arrays = {name: rng.normal(size=(40, 8)) for name in fields}
        gates = {"gate": rng.random((40, 8)), "fusion_gate": rng.dirichlet((1, 1), 40)}
        return BranchFeatures(**arrays, **gates, person_ids=people, outfit_ids=2 * people + np.tile([0, 0, 1, 1], 10))

    test = branches(100)
    vectors = torch.from_numpy(np.concatenate([test.identity_embeds, test.clothing_embeds], axis=1)).float()
    noise = 0.1 * torch.randn_like(vectors)
    people, outfits = torch.from_numpy(test.person_ids), torch.from_numpy(test.outfit_ids)
    split = EncodedSplit(vectors, vectors, people, outfits, vectors + noise, torch.arange(40))
    save_features(path, {"test": split, "validation": split}, {"test": test, "probe": branches(200)}, 1.0)


def test_table_shows_means_deviations_and_run_ids(plan_of: MakePlan, write_result: WriteResult, tmp_path: Path) -> None:
    plan = plan_of("table1_bdam", seeds=(0, 1, 2))
    plan.save(tmp_path)
    for seed, mean in enumerate((0.30, 0.32, 0.34)):
        write_result(run_of(plan, "table1_bdam", "Full model", seed), mAP=mean)
        write_result(run_of(plan, "table1_bdam", "Without gate", seed), mAP=mean + 0.1)
    text = write_report(tmp_path).read_text()
    header = next(line for line in text.splitlines() if "standard mAP" in line and line.startswith("|"))
    columns, values = ([value.strip() for value in line.split("|")] for line in (header, line_of(text, "Full model")))
    full = dict(zip(columns, values, strict=True))
    assert (full["seeds"], full["β"], full["standard mAP"]) == ("3", "1", "32.00 ± 2.00")
    assert (full["clothes-changing mAP"], full["described (oracle) mAP"]) == ("3.20 ± 0.20", "32.00 ± 2.00")
    assert (full["paper R-1"], full["paper mAP"]) == ("76.27", "66.74")
    assert [f"{full['run']}-seed{seed}" for seed in range(3)] == [line["run"] for line in results_of(tmp_path)[1:4]]
    assert results_of(tmp_path)[4]["settings"] == {"model": {"bdam_gate": False}}
    assert "**6 of 15 training runs are finished**" in text
    assert "0 of 3" in line_of(text, "3 layers")
    assert "(missing)" in line_of(text, "3 layers")
    gate = next(
        line for line in text.splitlines() if line.startswith("| Without gate | standard | mAP | +10.00 ± 0.00 |")
    )
    assert gate.endswith("| -1.63 | does not hold |")
    assert "| Table 1: Without gate | -1.6 / -1.6 | +0.0 / +10.0 | cannot be told / does not hold |" in text
    assert line_of(text, "chance").count(" 1.00 |") == 1
    assert line_of(text, "ceiling: every trait of an image known, real captions").count(" 90.00 |") == 1
    assert "Commits: abcdef0123" in text
    assert "60 captions, 30 images of 5 people" in text


def test_report_shows_the_reason_of_a_failure(plan_of: MakePlan, tmp_path: Path) -> None:
    plan = plan_of("table3_losses", seeds=(0, 1))
    plan.save(tmp_path)
    run = run_of(plan, "table3_losses", "Without InfoNCE", seed=1)
    (run.save(tmp_path) / "failure.txt").write_text("NonFiniteLossError: the loss of task 'triplet' is nan\n")
    text = write_report(tmp_path).read_text()
    assert "table3_losses: Without InfoNCE: **seed 1 failed**: NonFiniteLossError: the loss of task" in text
    assert f"{run.key} (failed)" in text
    assert text.count("(failed)") == 1


def test_report_without_results_lists_all_sections(plan_of: MakePlan, tmp_path: Path) -> None:
    plan_of(*NAMES).save(tmp_path)
    text = write_report(tmp_path).read_text()
    for name in NAMES:
        assert f"## {load_experiment(name).title}" in text
    for part in ("**0 of ", "No verdicts yet.", "Not measured yet", "Not drawn yet"):
        assert part in text


def test_complete_report_shows_all_figures_and_is_kept_without_runs(
    plan_of: MakePlan, write_result: WriteResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(*NAMES)
    plan.save(tmp_path)
    with_features = {run_of(plan, "figure4_tsne", row.name).key for row in load_experiment("figure4_tsne").rows}
    for number, run in enumerate(plan.runs):
        write_result(run, mAP=0.2 + 0.001 * number, rank1=0.3 + 0.001 * number)
        folder = run.folder(tmp_path)
        if run.key in with_features:
            write_features(folder / "features.npz", number)
        if "examples" in run.keep:
            (folder / "examples").mkdir()
            for name in ("retrieval", "attention"):
                shutil.copy(COMMITTED.parent / "retrieval.png", folder / "examples" / f"{name}.png")
    text = write_report(tmp_path).read_text()
    assert text.startswith("# BDAM experiments: ")
    assert re.search(r"All \d+ training runs are finished, with seeds 0\.", text)
    assert "(missing)" not in text
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    figures = {"beta", "probes", "noise", "gates", "tsne", "calibration", "efficiency", "retrieval", "attention"}
    assert {Path(found).stem for found in pictures} == figures
    assert all((tmp_path / found).is_file() for found in pictures)
    assert "| IRRA |" in text and "test split (default of its public code)" in text
    assert "β: clothes-changing rank-1 is highest at β = " in text
    assert "With 50 % wrong texts, plain training loses" in text
    assert '"Probably not in this gallery" is the answer to ' in text
    assert "| fusion_sequence: global | ✓ |" in text and "| fusion_sequence: token |  |" in text
    assert not list(tmp_path.rglob(".*.png"))
    # A second report measures nothing again, and a third one needs only results.jsonl and the figures.
    for name in ("measured-disentanglement.json", "measured-beta.json", "measured-calibration.json"):
        assert list(tmp_path.rglob(name))
    for name in ("measure_head", "beta_sweep", "disentanglement", "calibration_of"):
        monkeypatch.setattr(measurements, name, None)
    assert write_report(tmp_path).read_text() == text
    shutil.rmtree(tmp_path / "runs")
    assert write_report(tmp_path).read_text() == text


def test_robust_option_is_compared_with_the_loss(plan_of: MakePlan, write_result: WriteResult, tmp_path: Path) -> None:
    plan = plan_of("noise")
    plan.save(tmp_path)
    rank1 = {("plain", 0.0): 0.5, ("plain", 0.2): 0.4, ("plain", 0.5): 0.3, ("robust", 0.5): 0.45}
    rank1 |= {("robust", 0.2): 0.48, ("clean texts only", 0.5): 0.48}
    for row in load_experiment("noise").rows:
        if (row.name, row.noise) in rank1:
            write_result(plan.study.training_run(row, 0), rank1=rank1[row.name, row.noise])
    text = write_report(tmp_path).read_text()
    for noise, loses, recovers in ((20, "10.00", "8.00 points (0.80"), (50, "20.00", "15.00 points (0.75")):
        assert (
            f"With {noise} % wrong texts, plain training loses {loses} points of standard rank-1; the robust option "
            f"recovers {recovers} of the loss)."
        ) in text
    assert "Training only on the clean texts recovers 18.00." in text


def test_report_rejects_a_folder_without_a_study(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no results\.jsonl"):
        write_report(tmp_path)


def test_committed_report_is_reproduced_byte_for_byte(tmp_path: Path) -> None:
    shutil.copytree(COMMITTED, tmp_path, dirs_exist_ok=True)
    committed = {name: (COMMITTED / name).read_bytes() for name in ("report.md", "results.jsonl")}
    (tmp_path / "report.md").unlink()
    write_report(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in committed} == committed
    text = committed["report.md"].decode()
    linked = {name for name in re.findall(r"\]\(figures/([^)]+)\)", text)}
    assert linked == {path.name for path in (COMMITTED / "figures").iterdir()}
    assert sum(path.stat().st_size for path in COMMITTED.parent.rglob("*") if path.is_file()) < 1_500_000


def tables_of(title: str) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The rows of the first two tables in a section of the committed report: figures, and verdicts."""
    section = (COMMITTED / "report.md").read_text().partition(f"## {title}")[2].partition("\n## ")[0]
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)[:2]:
        head, _, *lines = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines()]
        found.append([dict(zip(head, line, strict=True)) for line in lines])
    return found[0], found[1]


def values_of(run: str, prefix: str, metric: str) -> list[float]:
    """A metric of each seed of the committed runs, in percent, from the ranks of the queries."""
    values = []
    for line in results_of(COMMITTED)[1:]:
        if line["run"].startswith(run):
            packed = zlib.decompress(base64.b64decode(line["ranks"][prefix]))
            numbers = [number for (number,) in struct.iter_unpack("<H", packed)]
            first, precision = numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]
            scored = [place for place, rank in enumerate(first) if rank > 0]
            hits = [
                precision[place] / 65535 if metric == "mAP" else first[place] <= int(metric[2:]) for place in scored
            ]
            values.append(100 * statistics.fmean(hits))
    return values


@pytest.mark.parametrize("title", ["Table 1.", "Table 3."])
def test_committed_entries_and_verdicts_are_recomputed(title: str) -> None:
    """From the ranks, without the code of the report: 20 entries, p-values over seeds, and every verdict."""
    figures, verdicts = tables_of(title)
    prefixes = {"standard": "", "clothes-changing": "clothes_changing_"}
    rows = [row for row in figures if re.fullmatch("[0-9a-f]{10}", row["run"])]
    reference = next(row[""] for row in rows if row[""].startswith("Full"))
    raw = []
    for protocol, prefix in prefixes.items():
        for metric in ("R-1", "mAP"):
            table = {row[""]: values_of(row["run"], prefix, metric) for row in rows}
            for row in rows:
                mean, _, spread = row[f"{protocol} {metric}"].partition(" ± ")
                assert float(mean) == pytest.approx(statistics.fmean(table[row[""]]), abs=0.0051)
                assert float(spread) == pytest.approx(statistics.stdev(table[row[""]]), abs=0.0051)
            grid = np.array(list(table.values()))  # [R, S]
            rest = grid - grid.mean(0) - grid.mean(1, keepdims=True) + grid.mean()
            freedom = (len(grid) - 1) * (len(grid[0]) - 1)
            for name in table.keys() - {reference}:
                less = np.subtract(table[name], table[reference])
                pooled, own = (2 * (rest**2).sum() / freedom) ** 0.5, less.std(ddof=1)
                degrees = freedom if pooled > own else len(less) - 1
                p = 2 * stats.t.sf(abs(less.mean()) / max(pooled, own) * len(less) ** 0.5, degrees)
                (line,) = [
                    line
                    for line in verdicts
                    if (line[""], line["protocol"], line["metric"]) == (name, protocol, metric)
                ]
                assert float(line["p over seeds"]) == pytest.approx(p, abs=2e-3)
                raw.append((max(p, float(line["p over people"])), line))
    assert len(raw) == len(verdicts) >= 16
    largest = 0.0
    for place, (p, line) in enumerate(sorted(raw, key=lambda each: each[0])):  # Holm
        largest = max(largest, min(1.0, p * (len(raw) - place)))
        assert float(line["p"]) == pytest.approx(largest, abs=0.01)
        if abs(largest - 0.05) > 0.01:
            up, claimed = line["Δ"].startswith("+"), line["Δ of the paper"]
            word = (
                ("higher" if up else "lower")
                if claimed == "–"
                else "holds"
                if up == (claimed[0] == "+")
                else "does not hold"
            )
            assert line["verdict"] == (word if largest <= 0.05 else "cannot be told")
