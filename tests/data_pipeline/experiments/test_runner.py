"""Running cells: each once, side by side, whatever is killed. A stand-in trains; test_train_cell.py trains really."""

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline.experiments import runner
from data_pipeline.experiments.cells import Cell
from data_pipeline.experiments.runner import CellError, run_cells

# Notes that it began, "trains" for a while, writes the result.
STAND_IN = """
import json, os, sys, time
from pathlib import Path
from filelock import FileLock
folder = Path(sys.argv[1])
cell = json.loads((folder / "cell.json").read_text())
kind = cell["settings"]["training"]
with FileLock(folder / ".lock"):
    if not (folder / "result.json").exists():
        with (folder / "begun").open("a") as file:
            file.write(f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES')} {sys.argv[2:]} {time.time()}\\n")
        if kind.get("fails"):
            sys.exit("this cell cannot be trained")
        time.sleep(kind.get("sleeps", 0.0))
        (folder / "part").write_text(json.dumps({"pid": os.getpid(), "end": time.time()}))
        os.replace(folder / "part", folder / "result.json")
"""
RUN = """
import sys
from pathlib import Path
from data_pipeline.experiments import runner
from data_pipeline.experiments.cells import Cell
runner.COMMAND = (sys.executable, sys.argv[2])
cells = [Cell({"training": {"sleeps": 0.4, "number": number}}, 0, (), 0) for number in range(4)]
runner.run_cells(cells, Path(sys.argv[1]), jobs=int(sys.argv[3]), show_progress=False)
"""


def cells_of(*trainings: dict[str, float]) -> list[Cell]:
    return [Cell({"training": {"number": number, **kind}}, 0, (), 0) for number, kind in enumerate(trainings)]


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "stand_in.py"
    path.write_text(STAND_IN)
    monkeypatch.setattr(runner, "COMMAND", (sys.executable, str(path)))
    return path


def begun(cell: Cell, output_dir: Path) -> int:
    """How often its training began."""
    file = cell.folder(output_dir) / "begun"
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_every_cell_is_run_once_and_finished_ones_never_again(stand_in: Path, tmp_path: Path) -> None:
    cells = cells_of({}, {}, {})
    run_cells(cells[:2], tmp_path, show_progress=False)
    before = [(cell.folder(tmp_path) / "result.json").stat().st_mtime_ns for cell in cells[:2]]
    run_cells(cells, tmp_path, show_progress=False)
    assert [begun(cell, tmp_path) for cell in cells] == [1, 1, 1]
    assert [(cell.folder(tmp_path) / "result.json").stat().st_mtime_ns for cell in cells[:2]] == before


def test_cells_run_side_by_side_each_on_a_gpu_of_its_own(
    stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    cells = cells_of({"sleeps": 0.8}, {"sleeps": 0.8})
    assert runner.default_jobs() == 2
    run_cells(cells, tmp_path, show_progress=False)
    notes = [(cell.folder(tmp_path) / "begun").read_text().split() for cell in cells]
    assert {note[1] for note in notes} == {"3", "5"}
    ends = [json.loads((cell.folder(tmp_path) / "result.json").read_text())["end"] for cell in cells]
    assert max(float(note[-1]) for note in notes) < min(ends)  # the last began before the first ended


def test_two_cells_share_the_cores_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(runner, "_cores", lambda: 16)
    assert runner.default_jobs() == 2
    monkeypatch.setattr(runner, "_cores", lambda: 1)
    assert runner.default_jobs() == 1


def test_failed_cell_is_named_with_its_last_line_and_the_others_are_finished(stand_in: Path, tmp_path: Path) -> None:
    cells = cells_of({}, {"fails": 1}, {})
    with pytest.raises(
        CellError, match=rf"cell {cells[1].key} failed \(1\): this cell cannot be trained; see .*log.txt"
    ):
        run_cells(cells, tmp_path, show_progress=False)
    assert [cell.is_finished(tmp_path) for cell in cells] == [True, False, True]


def test_where_the_first_cell_fails_the_others_are_not_tried(stand_in: Path, tmp_path: Path) -> None:
    cells = cells_of({"fails": 1}, {}, {})
    with pytest.raises(CellError):
        run_cells(cells, tmp_path, jobs=1, show_progress=False)
    assert [begun(cell, tmp_path) for cell in cells] == [1, 0, 0]


def test_what_failed_before_does_not_keep_a_run_from_going_on(stand_in: Path, tmp_path: Path) -> None:
    cells = cells_of({"fails": 1}, {}, {})
    run_cells(cells[1:2], tmp_path, show_progress=False)
    with pytest.raises(CellError):
        run_cells(cells, tmp_path, jobs=1, show_progress=False)
    assert [cell.is_finished(tmp_path) for cell in cells] == [False, True, True]


def start(stand_in: Path, output_dir: Path, jobs: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(output_dir), str(stand_in), str(jobs)], start_new_session=True
    )


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "it did not come to pass"
        time.sleep(0.01)


@pytest.mark.parametrize("everything", [True, False], ids=["with_its_cells", "alone"])
def test_run_killed_at_any_moment_loses_at_most_the_cells_under_way(
    everything: bool, stand_in: Path, tmp_path: Path
) -> None:
    """Four kills, each at a random moment after a cell began; killed alone, the cells under way end by themselves."""
    rng = random.Random(0)
    cells = [Cell({"training": {"sleeps": 0.4, "number": number}}, 0, (), 0) for number in range(4)]
    finished: dict[str, int] = {}
    for _ in range(4):
        before = sum(begun(cell, tmp_path) for cell in cells)
        process = start(stand_in, tmp_path, jobs=1)
        wait_for(functools.partial(has_gone_on, cells, tmp_path, before))
        time.sleep(rng.uniform(0.0, 0.6))
        if everything:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        for cell in cells:
            result = cell.folder(tmp_path) / "result.json"
            if result.exists():
                json.loads(result.read_text())  # whole, whenever the kill came
                finished.setdefault(cell.key, result.stat().st_mtime_ns)
                assert result.stat().st_mtime_ns == finished[cell.key]
    process = start(stand_in, tmp_path, jobs=2)
    assert process.wait(timeout=120) == 0
    assert done(cells, tmp_path)
    for cell in cells:
        if cell.key in finished:
            assert (cell.folder(tmp_path) / "result.json").stat().st_mtime_ns == finished[cell.key]
    # Each kill loses one training; killed alone, a run loses none, as its cell goes on and the next run waits for it.
    assert sum(begun(cell, tmp_path) for cell in cells) <= len(cells) + (4 if everything else 0)


def has_gone_on(cells: list[Cell], output_dir: Path, before: int) -> bool:
    """Whether another training began, or there is nothing left to train."""
    return sum(begun(cell, output_dir) for cell in cells) > before or done(cells, output_dir)


def done(cells: list[Cell], output_dir: Path) -> bool:
    return all(cell.is_finished(output_dir) for cell in cells)
