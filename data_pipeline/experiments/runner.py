"""Runs cells, each in a process of its own, side by side where there are several GPUs."""

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .cells import Cell

LOG_FILE = "log.txt"
COMMAND = (sys.executable, "-m", "data_pipeline.experiments.train_cell")
_POLL_SECONDS = 0.2


class CellError(RuntimeError):
    """Some cells failed; the others are finished. Its text says which and why."""


@dataclass
class _Slot:
    """A place for one cell at a time: a GPU, or a share of the CPU."""

    gpu: int | None
    cell: Cell | None = None
    process: subprocess.Popen[bytes] | None = None
    log: IO[bytes] | None = field(default=None, repr=False)


def default_jobs() -> int:
    """One for each GPU; two on a CPU: with half the cores each, two trainings get through more than one with all."""
    return torch.cuda.device_count() or min(2, _cores())


def _cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_cells(cells: Sequence[Cell], output_dir: Path, jobs: int | None = None, show_progress: bool = True) -> None:
    """Runs the cells that are not finished, in order.

    Ended at any moment, by whatever signal, it can be started again: finished cells are not run again, others go on
    from their last checkpoint.

    Args:
        jobs: cells side by side; see `default_jobs`. Several on a CPU share its cores, several on one GPU share it.
        show_progress: a progress bar with the names of the cells.

    Raises:
        CellError: a cell failed. Where none is finished yet, the others are not tried.
    """
    waiting = deque(cell for cell in cells if not cell.is_finished(output_dir))
    jobs = default_jobs() if jobs is None else jobs
    gpus = torch.cuda.device_count()
    slots = [_Slot(number % gpus if gpus else None) for number in range(jobs)]
    threads = max(1, _cores() // jobs)
    failures: list[str] = []
    finished = len(cells) - len(waiting)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not show_progress)
    task = progress.add_task("training", total=len(cells), completed=finished)
    with progress:
        try:
            while waiting or any(slot.process is not None for slot in slots):
                for slot in slots:
                    if slot.process is not None and slot.process.poll() is not None:
                        failure = _end(slot, output_dir)
                        if failure is None:
                            finished += 1
                            progress.advance(task)
                        else:
                            failures.append(failure)
                            progress.console.print(failure, style="red", markup=False)
                    if slot.process is None and waiting and not (failures and not finished):
                        _start(slot, waiting.popleft(), output_dir, threads)
                if failures and not finished:
                    waiting.clear()
                keys = [slot.cell.key for slot in slots if slot.cell is not None]
                progress.update(task, description=f"training {' '.join(keys)}")
                time.sleep(_POLL_SECONDS)
        finally:
            for slot in slots:
                if slot.process is not None:
                    slot.process.terminate()
                    slot.process.wait()
    if failures:
        raise CellError("\n".join(failures))


def _start(slot: _Slot, cell: Cell, output_dir: Path, threads: int) -> None:
    folder = cell.save(output_dir)
    environment = dict(os.environ)
    if slot.gpu is not None:
        visible = environment.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
        environment["CUDA_VISIBLE_DEVICES"] = names[slot.gpu]
    command = [*COMMAND, str(folder.resolve()), f"--threads={threads}"]
    slot.cell, slot.log = cell, (folder / LOG_FILE).open("ab")
    slot.process = subprocess.Popen(command, env=environment, stdout=slot.log, stderr=subprocess.STDOUT)


def _end(slot: _Slot, output_dir: Path) -> str | None:
    """Frees a slot whose process has ended; None, or what went wrong, in one line."""
    assert slot.process is not None and slot.cell is not None and slot.log is not None
    slot.log.close()
    cell, code = slot.cell, slot.process.returncode
    slot.cell, slot.process, slot.log = None, None, None
    if code == 0 and cell.is_finished(output_dir):
        return None
    log = cell.folder(output_dir) / LOG_FILE
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"cell {cell.key} failed ({code}): {lines[-1] if lines else 'no output'}; see {log}"
