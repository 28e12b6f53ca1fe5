"""Training runs of a few steps on a few people."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from data_pipeline.experiments.definitions import Row
from data_pipeline.experiments.features import Features
from data_pipeline.experiments.plan import Plan, Study
from data_pipeline.experiments.probes import BRANCHES, disentanglement
from data_pipeline.experiments.ranks import person_sums
from data_pipeline.experiments.runner import train_all
from data_pipeline.experiments.runs import Settings, TrainingRun, merged
from data_pipeline.experiments.train_run import train_run
from modeling_bdam.evaluation.protocols import protocol_metrics
from modeling_bdam.training.trainer import NonFiniteLossError


def test_train_run_writes_result_and_outputs_to_keep(toy_study: Study, tmp_path: Path) -> None:
    run = toy_study.training_run(Row("Full model"), 3, keep=("examples", "features", "model"))
    folder = run.save(tmp_path)
    (folder / "failure.txt").write_text("of an earlier attempt")
    train_run(folder, threads=1)
    assert run.is_finished(tmp_path)
    assert not (folder / "trainer").exists() and not (folder / "failure.txt").exists()
    result = json.loads((folder / "result.json").read_text())
    assert (result["run"], result["seed"], result["steps"], result["threads"]) == (run.key, 3, 4, 1)
    assert (result["people"], result["gallery"], result["queries"]) == (5, 30, 60)
    assert result["best_step"] in (2, 4)
    assert result["seconds"] > result["train_seconds"] > 0
    assert result["commit"] and result["versions"]["torch"] == torch.__version__ and result["settings"] == run.settings
    assert 0 < result["test"]["described_image_weight"] < 1
    for prefix in ("", "clothes_changing_"):
        sums, counts = person_sums(result["ranks"], prefix, "mAP")
        assert sums.sum() / counts.sum() == pytest.approx(result["test"][f"{prefix}mAP"], abs=1e-4)
        assert result["bounds"]["chance"][f"{prefix}mAP"] < result["bounds"]["ceiling"][f"{prefix}mAP"]
    for protocol in ("", "described_", "clothes_changing_"):
        for split in ("test", "validation"):
            assert 0 <= result[split][f"{protocol}mAP"] <= 1

    features = Features(folder / "features.npz")
    metrics = protocol_metrics(features.split("test"), features.clothing_weight)
    assert {name: result["test"][name] for name in metrics} == pytest.approx(metrics)
    assert features.split("validation").changes_clothes
    measured = disentanglement(features)
    assert set(measured["probes"]["accuracy"]) == set(BRANCHES)
    # The splits have 12 + 3 + 5 people.
    assert sorted(set(features.branches("probe").person_ids.tolist())) == list(range(20, 26))
    for name in ("retrieval.png", "attention.png"):
        assert (folder / "examples" / name).stat().st_size > 1000
    model = AutoModel.from_pretrained(folder / "model")
    assert sum(parameter.numel() for parameter in model.parameters()) == result["parameters"]

    before = (folder / "result.json").stat().st_mtime_ns
    train_run(folder, threads=1)
    assert (folder / "result.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "overrides",
    [
        {"texts": {"noise": 0.5}, "training": {"robust_pairs": True, "robust_pairs_warmup": 0.5}},
        {"texts": {"style_clustering": "kmeans"}},
        {
            "model": {"use_bdam": False, "use_fusion": False, "clothing_weight": 0.0},
            "training": {"objective": "sdm", "images_per_person": 1},
        },
        {"training": {"uncertainty_weighting": True}},
        {"training": {"lr_scheduler_type": "constant", "max_steps": 60}, "schedule": {"patience": 1}},
        {"model": {"use_matching": True}, "training": {"matching_steps": 2}},
    ],
    ids=["robust", "styles", "sdm", "uncertainty", "patience", "matching"],
)
def test_train_run_supports_every_kind_of_row(overrides: Settings, toy_study: Study, tmp_path: Path) -> None:
    run = toy_study.training_run(Row("row", overrides), 0)
    train_run(run.save(tmp_path), threads=1)
    result = json.loads((run.folder(tmp_path) / "result.json").read_text())
    assert 0 < result["test"]["mAP"] < 1
    assert ("described_mAP" in result["test"]) == (overrides.get("training", {}).get("objective") != "sdm")
    assert (
        ("reranked_mAP" in result["test"])
        == ("reranked_" in result["ranks"])
        == ("model" in overrides and "use_matching" in overrides["model"])
    )
    assert "schedule" not in overrides or result["best_step"] < result["steps"] < 60


def test_train_run_gets_the_time_of_another_run(
    plan_of: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_pipeline.experiments.train_run.TIMED_STEPS", 4)
    plan = plan_of("table5_baselines")
    first = next(run for run in plan.runs if run.timed_as is None and plan.rows_of(run) == ["table5_baselines: BDAM"])
    timed = next(run for run in plan.runs if run.timed_as is not None)
    assert timed.timed_as == first.key
    first.save(tmp_path)
    train_run(timed.save(tmp_path), threads=1)  # trains the first run as well
    assert first.is_finished(tmp_path) and timed.is_finished(tmp_path)
    ratio = json.loads((timed.folder(tmp_path) / "equal_time.json").read_text())["ratio"]
    steps = json.loads((timed.folder(tmp_path) / "result.json").read_text())["steps"]
    assert steps == 2 * max(1, round(4 * ratio / 2))  # two evaluations in four steps


def test_train_run_writes_the_reason_of_a_failure(toy_study: Study, tmp_path: Path) -> None:
    run = toy_study.training_run(Row("row", {"training": {"learning_rate": 1e30, "warmup_steps": 0}}), 0)
    folder = run.save(tmp_path)
    with pytest.raises(NonFiniteLossError) as raised:
        train_run(folder, threads=1)
    reason = str(raised.value).replace(str(folder), f"runs/{run.key}")
    assert (folder / "failure.txt").read_text() == f"NonFiniteLossError: {reason}\n"
    assert str(tmp_path) not in reason
    assert not run.is_finished(tmp_path)


def test_train_run_resumes_to_equal_results(toy_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    run = toy_study.training_run(Row("Full model"), 0)
    results = []
    for number in range(2):
        folder = run.save(tmp_path / str(number))
        if number == 1:
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr("data_pipeline.experiments.train_run.without_prefix", stop)
                train_run(folder, threads=1)
            assert (folder / "trainer" / "checkpoint-4").is_dir()
        train_run(folder, threads=1)
        results.append(json.loads((folder / "result.json").read_text()))
    unbroken, resumed = results
    assert (unbroken["resumed"], resumed["resumed"]) == (False, True)
    assert resumed["train_seconds"] is None
    assert resumed["best_step"] == unbroken["best_step"]
    assert resumed["test"] == pytest.approx(unbroken["test"])


@pytest.mark.slow
def test_killed_run_resumes_from_its_checkpoint(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    first, second = plan_of("figure4_tsne").runs
    longer = TrainingRun(merged(second.settings, {"training": {"max_steps": 400}}), 0, (), second.probe_people)
    train_all([first], tmp_path, show_progress=False)
    before = (first.folder(tmp_path) / "result.json").stat().st_mtime_ns
    folder = longer.save(tmp_path)
    command = [sys.executable, "-m", "data_pipeline.experiments.train_run", str(folder), "--threads=1"]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, env=dict(os.environ), stdout=log, stderr=subprocess.STDOUT)
        while not (folder / "trainer" / "checkpoint-4" / "trainer_state.json").exists():
            assert process.poll() is None, (folder / "log.txt").read_text()
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not longer.is_finished(tmp_path)
    train_all([first, longer], tmp_path, show_progress=False)
    result = json.loads((folder / "result.json").read_text())
    assert result["resumed"] and result["steps"] == 400
    assert (first.folder(tmp_path) / "result.json").stat().st_mtime_ns == before
