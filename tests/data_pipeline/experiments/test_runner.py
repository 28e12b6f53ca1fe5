"""Training all runs of a study in subprocesses that train nothing; test_train_run.py trains."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_pipeline.experiments import runner
from data_pipeline.experiments.runner import FailedRunsError, train_all
from data_pipeline.experiments.runs import TrainingRun

# Appends to the file `begun`, sleeps, and writes the result.
FAKE_TRAINING = """
import json, os, sys, time
from pathlib import Path
from filelock import FileLock
folder = Path(sys.argv[1])
kind = json.loads((folder / "run.json").read_text())["settings"]["training"]
with FileLock(folder / ".lock"):
    if not (folder / "result.json").exists():
        with (folder / "begun").open("a") as file:
            file.write(f"{os.environ.get('CUDA_VISIBLE_DEVICES')} {time.time()}\\n")
        if kind.get("fails"):
            sys.exit("this run cannot be trained")
        time.sleep(kind.get("sleeps", 0.0))
        (folder / "part").write_text(json.dumps({"end": time.time()}))
        os.replace(folder / "part", folder / "result.json")
"""
STUDY = """
import sys
from pathlib import Path
from data_pipeline.experiments import runner
from data_pipeline.experiments.runs import TrainingRun
runner.COMMAND = (sys.executable, sys.argv[2])
runs = [TrainingRun({"training": {"number": number, "sleeps": 0.4}}, 0, (), 0) for number in range(4)]
runner.train_all(runs, Path(sys.argv[1]), jobs=int(sys.argv[3]), show_progress=False)
"""


def runs_of(*trainings: dict[str, float]) -> list[TrainingRun]:
    return [TrainingRun({"training": {"number": number, **kind}}, 0, (), 0) for number, kind in enumerate(trainings)]


@pytest.fixture
def fake_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "fake_training.py"
    path.write_text(FAKE_TRAINING)
    monkeypatch.setattr(runner, "COMMAND", (sys.executable, str(path)))
    return path


def begun(runs: list[TrainingRun], output_dir: Path) -> list[int]:
    """The number of times that the training of each run began."""
    files = [run.folder(output_dir) / "begun" for run in runs]
    return [len(file.read_text().splitlines()) if file.exists() else 0 for file in files]


def written(runs: list[TrainingRun], output_dir: Path) -> dict[str, int]:
    """The time of each result; also checks that each file is complete."""
    files = {run.key: run.folder(output_dir) / "result.json" for run in runs}
    return {
        key: file.stat().st_mtime_ns for key, file in files.items() if file.exists() and json.loads(file.read_text())
    }


def test_train_all_skips_finished_runs(fake_training: Path, tmp_path: Path) -> None:
    runs = runs_of({}, {}, {})
    train_all(runs[:2], tmp_path, show_progress=False)
    before = written(runs, tmp_path)
    train_all(runs, tmp_path, show_progress=False)
    assert begun(runs, tmp_path) == [1, 1, 1]
    assert before.items() < written(runs, tmp_path).items()


def test_train_all_uses_all_gpus_in_parallel(
    fake_training: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    runs = runs_of({"sleeps": 0.8}, {"sleeps": 0.8})
    assert runner.default_jobs() == 2
    train_all(runs, tmp_path, show_progress=False)
    notes = [(run.folder(tmp_path) / "begun").read_text().split() for run in runs]
    assert {note[0] for note in notes} == {"3", "5"}
    ends = [json.loads((run.folder(tmp_path) / "result.json").read_text())["end"] for run in runs]
    assert max(float(note[-1]) for note in notes) < min(ends)  # the last began before the first ended


@pytest.mark.parametrize(("cores", "jobs"), [(16, 2), (1, 1)])
def test_default_jobs_on_a_cpu(cores: int, jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(runner, "usable_cores", lambda: cores)
    assert runner.default_jobs() == jobs


def test_train_all_reports_failures_and_finishes_the_rest(fake_training: Path, tmp_path: Path) -> None:
    runs = runs_of({}, {"fails": 1}, {})
    message = rf"run {runs[1].key} failed \(1\): this run cannot be trained; see .*log.txt"
    with pytest.raises(FailedRunsError, match=message):
        train_all(runs, tmp_path, show_progress=False)
    assert [run.is_finished(tmp_path) for run in runs] == [True, False, True]


@pytest.mark.parametrize("some_finished", [True, False])
def test_train_all_stops_only_if_all_runs_failed(some_finished: bool, fake_training: Path, tmp_path: Path) -> None:
    runs = runs_of({"fails": 1}, {}, {})
    if some_finished:
        train_all(runs[1:2], tmp_path, show_progress=False)
    with pytest.raises(FailedRunsError):
        train_all(runs, tmp_path, jobs=1, show_progress=False)
    assert [run.is_finished(tmp_path) for run in runs] == [False, some_finished, some_finished]
    assert begun(runs, tmp_path) == [1, some_finished, some_finished]


@pytest.mark.parametrize(
    ("kill_runs", "kills"),
    [pytest.param(True, 2, id="with_its_runs", marks=pytest.mark.slow), pytest.param(False, 1, id="only_the_parent")],
)
def test_study_resumes_after_sigkill(kill_runs: bool, kills: int, fake_training: Path, tmp_path: Path) -> None:
    """Kills the study at random times; if only the parent is killed, the current run finishes by itself."""

    def start(jobs: int) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", STUDY, str(tmp_path), str(fake_training), str(jobs)]
        return subprocess.Popen(command, start_new_session=True)

    rng = random.Random(0)
    runs = runs_of(*[{"sleeps": 0.4}] * 4)
    finished: dict[str, int] = {}
    for _ in range(kills):
        before, end = begun(runs, tmp_path), time.time() + 60
        process = start(jobs=1)
        while begun(runs, tmp_path) == before and len(written(runs, tmp_path)) < 4:
            assert time.time() < end, "no run began"
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.6))
        if kill_runs:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        assert finished.items() <= written(runs, tmp_path).items()
        finished = written(runs, tmp_path)
    assert start(jobs=2).wait(timeout=120) == 0
    assert len(written(runs, tmp_path)) == 4
    assert finished.items() <= written(runs, tmp_path).items()
    # Each kill loses at most one run; none if only the parent is killed, because the next study waits for its lock.
    assert sum(begun(runs, tmp_path)) <= 4 + (kills if kill_runs else 0)
