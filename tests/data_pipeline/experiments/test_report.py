"""The report of made-up results: what it shows, and what it says of what is missing."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipeline.experiments import efficiency
from data_pipeline.experiments.cells import Cell
from data_pipeline.experiments.definitions import NAMES, load_experiment
from data_pipeline.experiments.features import BranchFeatures, save_features
from data_pipeline.experiments.plan import Plan
from data_pipeline.experiments.report import write_report
from modeling_bdam.evaluation.protocols import EncodedSplit

MakePlan = Callable[..., Plan]
WriteResult = Callable[..., None]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficiency, "_MIN_SECONDS", 0.0)
    monkeypatch.setattr(efficiency, "BATCH", 2)


def cell_of(plan: Plan, experiment: str, row: str, seed: int = 0) -> Cell:
    wanted = next(found for found in load_experiment(experiment).rows if found.name == row)
    key = plan.run.cell(wanted, seed).key
    return next(cell for cell in plan.cells if cell.key == key)


def line_of(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"| {name} |"))


def write_features(path: Path, seed: int) -> None:
    """Features of ten people in two outfits, the identity half of whose vectors is their own."""
    rng = np.random.default_rng(seed)

    def branches(first: int) -> BranchFeatures:
        people = np.repeat(np.arange(first, first + 10), 4)
        arrays = {
            name: rng.normal(size=(40, 8)) for name in ("identity", "clothing", "identity_embeds", "clothing_embeds")
        }
        outfits = 2 * people + np.tile([0, 0, 1, 1], 10)
        gates = {"gate": rng.random((40, 8)), "fusion_gate": rng.dirichlet((1, 1), 40)}
        return BranchFeatures(**arrays, **gates, person_ids=people, outfit_ids=outfits)

    test = branches(100)
    vectors = torch.from_numpy(np.concatenate([test.identity_embeds, test.clothing_embeds], axis=1)).float()
    noise = 0.1 * torch.randn_like(vectors)
    people, outfits = torch.from_numpy(test.person_ids), torch.from_numpy(test.outfit_ids)
    split = EncodedSplit(vectors, vectors, people, outfits, vectors + noise, torch.arange(40))
    save_features(path, {"test": split, "validation": split}, {"test": test, "probe": branches(200)}, 1.0)


def test_table_prints_means_and_deviations_with_protocol_seeds_and_config(
    plan_of: MakePlan, write_result: WriteResult, tmp_path: Path
) -> None:
    plan = plan_of("table1_bdam", seeds=(0, 1, 2))
    plan.save(tmp_path)
    for seed, mean in enumerate((0.30, 0.32, 0.34)):
        write_result(cell_of(plan, "table1_bdam", "Full model", seed), mAP=mean)
        write_result(cell_of(plan, "table1_bdam", "Without gate", seed), mAP=mean + 0.1)
    text = write_report(tmp_path).read_text()
    header = next(line for line in text.splitlines() if "standard mAP" in line and line.startswith("|"))
    columns = [column.strip() for column in header.split("|")]
    cells = [value.strip() for value in line_of(text, "Full model").split("|")]
    full = dict(zip(columns, cells, strict=True))
    assert (full["seeds"], full["β"], full["standard mAP"]) == ("3", "1", "32.00 ± 2.00")
    assert (full["clothes-changing mAP"], full["described mAP"]) == ("3.20 ± 0.20", "32.00 ± 2.00")
    assert (full["paper R-1"], full["paper mAP"]) == ("76.27", "66.74")
    link = re.search(r"\((cells/[^)]+/result.json)\)", full["config"])
    assert link and (tmp_path / link[1]).is_file()
    assert "6 of 15, the others are missing" in text
    assert "0 of 3" in line_of(text, "3 layers")
    assert "(missing)" in line_of(text, "3 layers")
    assert "Higher: Without gate (+10.00) (3 rows are not measured yet)" in text
    assert "The paper's 'Without gate' does not hold here: -1.63 mAP in the paper, higher here." in text
    assert "commit abcdef0123" in text
    assert "60 captions, 30 images of 5 people" in text


def test_training_that_failed_is_told_with_its_reason(plan_of: MakePlan, tmp_path: Path) -> None:
    plan = plan_of("table3_losses", seeds=(0, 1))
    plan.save(tmp_path)
    cell = cell_of(plan, "table3_losses", "Without InfoNCE", seed=1)
    (cell.save(tmp_path) / "failure.txt").write_text("NonFiniteLossError: the loss of task 'triplet' is nan\n")
    text = write_report(tmp_path).read_text()
    failed = "table3_losses: Without InfoNCE: **the training of seed 1 failed**: NonFiniteLossError: the loss of task"
    assert failed in text
    assert f"{cell.key} (failed)" in text
    assert text.count("(failed)") == 1


def test_report_of_a_run_without_any_result_says_so(plan_of: MakePlan, tmp_path: Path) -> None:
    plan_of(*NAMES).save(tmp_path)
    text = write_report(tmp_path).read_text()
    for name in NAMES:
        assert f"## {load_experiment(name).title}" in text
    assert "**0 of " in text
    assert "mAP: not measured yet." in text
    assert "No features of this row are there yet." in text


def test_whole_report_has_every_figure_and_the_page_shows_them(
    plan_of: MakePlan, write_result: WriteResult, tmp_path: Path
) -> None:
    plan = plan_of(*NAMES)
    plan.save(tmp_path)
    with_features = {cell_of(plan, "figure4_tsne", row.name).key for row in load_experiment("figure4_tsne").rows}
    for number, cell in enumerate(plan.cells):
        write_result(cell, mAP=0.2 + 0.001 * number, rank1=0.3 + 0.001 * number)
        folder = cell.folder(tmp_path)
        if cell.key in with_features:  # of the others, what needs features is missing
            write_features(folder / "features.npz", number)
        if "examples" in cell.keep:
            (folder / "examples").mkdir()
            for name in ("retrieval", "attention"):
                (folder / "examples" / f"{name}.png").write_bytes(b"")
    text = write_report(tmp_path).read_text()
    assert text.startswith("# BDAM experiments: ")
    assert re.search(r"All \d+ cells \(a cell is one training\) of seed 0;", text)
    assert "(missing)" not in text
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    figures = {"beta", "probes", "noise", "gates", "tsne", "efficiency", "retrieval", "attention"}
    assert {Path(found).stem for found in pictures} == figures
    assert all((tmp_path / found).is_file() for found in pictures)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<table>") == sum(line.startswith("| :--") for line in text.splitlines())
    assert all(f'src="{found}"' in page for found in pictures)
    assert "| IRRA |" in text and "test split (default of its public code)" in text
    assert "β: clothes-changing rank-1 is highest at β = " in text
    assert "At 50 % wrong texts plain training loses" in text
    assert "| fusion_sequence: global | ✓ |" in text and "| fusion_sequence: token |  |" in text
    assert not list(tmp_path.rglob(".*.png"))


def test_second_report_measures_nothing_again(
    plan_of: MakePlan, write_result: WriteResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of("disentanglement", "figure5_efficiency", "beta")
    plan.save(tmp_path)
    cell = cell_of(plan, "disentanglement", "Full model")
    write_result(cell)
    write_features(cell.folder(tmp_path) / "features.npz", 0)
    first = write_report(tmp_path).read_text()
    for name in ("measured-disentanglement.json", "measured-beta.json", "efficiency.json"):
        assert list(tmp_path.rglob(name))
    monkeypatch.setattr("data_pipeline.experiments.results.Features", None)
    monkeypatch.setattr("data_pipeline.experiments.sections_figures.measure_fusion", None)
    again = write_report(tmp_path).read_text()
    assert re.sub("written .* UTC", "", again) == re.sub("written .* UTC", "", first)


def test_robust_option_is_judged_by_how_much_of_the_loss_it_keeps(
    plan_of: MakePlan, write_result: WriteResult, tmp_path: Path
) -> None:
    plan = plan_of("noise")
    plan.save(tmp_path)
    rank1 = {("plain", 0.0): 0.5, ("plain", 0.2): 0.4, ("plain", 0.5): 0.3, ("robust", 0.5): 0.45}
    rank1["robust", 0.2] = 0.48
    rank1["right texts alone", 0.5] = 0.48
    for row in load_experiment("noise").rows:
        if (row.name, row.noise) in rank1:
            write_result(plan.run.cell(row, 0), rank1=rank1[row.name, row.noise])
    text = write_report(tmp_path).read_text()
    loses = "wrong texts plain training loses"
    assert (
        f"At 20 % {loses} 10.00 points of standard rank-1; the robust option keeps 8.00 of them (0.80 of it)." in text
    )
    assert (
        f"At 50 % {loses} 20.00 points of standard rank-1; the robust option keeps 15.00 of them (0.75 of it)." in text
    )
    assert "To know which texts are wrong, and to train without them, keeps 18.00." in text


def test_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no run"):
        write_report(tmp_path)
