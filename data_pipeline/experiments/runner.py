"""Runs the training runs of a study, each in its own process, in parallel where there are several GPUs."""

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

from modeling_bdam.files import usable_cores

from .runs import TrainingRun

LOG_FILE = "log.txt"
COMMAND = (sys.executable, "-m", "data_pipeline.experiments.train_run")
_POLL_SECONDS = 0.2


class FailedRunsError(RuntimeError):
    """Some runs failed; the message has one line for each. The others are finished."""


@dataclass
class _Slot:
    """Executes one run at a time on a GPU or on a share of the CPU cores."""

    gpu: int | None
    run: TrainingRun | None = None
    process: subprocess.Popen[bytes] | None = None
    log: IO[bytes] | None = field(default=None, repr=False)


def default_jobs() -> int:
    """One per GPU; two on a CPU, because two runs on half the cores each finish sooner than one after the other."""
    return torch.cuda.device_count() or min(2, usable_cores())


def train_all(
    runs: Sequence[TrainingRun], output_dir: Path, jobs: int | None = None, show_progress: bool = True
) -> None:
    """Trains the runs that are not finished, in order.

    The process can be killed at any time and started again: finished runs are skipped, and interrupted runs resume from
    their last checkpoint.

    Args:
        jobs: number of parallel runs; see `default_jobs`. They share the CPU cores, or the GPUs in turn.
        show_progress: show a progress bar with the keys of the current runs.

    Raises:
        FailedRunsError: a run failed. If no run has finished by then, the remaining runs are not started.
    """
    waiting = deque(run for run in runs if not run.is_finished(output_dir))
    jobs = default_jobs() if jobs is None else jobs
    gpus = torch.cuda.device_count()
    slots = [_Slot(number % gpus if gpus else None) for number in range(jobs)]
    threads = max(1, usable_cores() // jobs)
    failures: list[str] = []
    finished = len(runs) - len(waiting)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not show_progress)
    task = progress.add_task("training", total=len(runs), completed=finished)
    with progress:
        try:
            while waiting or any(slot.process is not None for slot in slots):
                for slot in slots:
                    # Free the slot of a process that has ended.
                    if slot.process is not None and slot.process.poll() is not None:
                        failure = _end(slot, output_dir)
                        if failure is None:
                            finished += 1
                            progress.advance(task)
                        else:
                            failures.append(failure)
                            progress.console.print(failure, style="red", markup=False)
                    # Start the next run, unless all runs so far have failed.
                    if failures and not finished:
                        waiting.clear()
                    if slot.process is None and waiting:
                        _start(slot, waiting.popleft(), output_dir, threads)
                keys = [slot.run.key for slot in slots if slot.run is not None]
                progress.update(task, description=f"training {' '.join(keys)}")
                time.sleep(_POLL_SECONDS)
        finally:
            for slot in slots:
                if slot.process is not None:
                    slot.process.terminate()
                    slot.process.wait()
    if failures:
        raise FailedRunsError("\n".join(failures))


def _start(slot: _Slot, run: TrainingRun, output_dir: Path, threads: int) -> None:
    folder = run.save(output_dir)
    environment = dict(os.environ)
    if slot.gpu is not None:
        visible = environment.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
        environment["CUDA_VISIBLE_DEVICES"] = names[slot.gpu]
    command = [*COMMAND, str(folder.resolve()), f"--threads={threads}"]
    slot.run, slot.log = run, (folder / LOG_FILE).open("ab")
    slot.process = subprocess.Popen(command, env=environment, stdout=slot.log, stderr=subprocess.STDOUT)


def _end(slot: _Slot, output_dir: Path) -> str | None:
    """Frees a slot after its process has ended; returns None, or a line with the error."""
    assert slot.process is not None and slot.run is not None and slot.log is not None
    slot.log.close()
    run, code = slot.run, slot.process.returncode
    slot.run, slot.process, slot.log = None, None, None
    if code == 0 and run.is_finished(output_dir):
        return None
    log = run.folder(output_dir) / LOG_FILE
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"run {run.key} failed ({code}): {lines[-1] if lines else 'no output'}; see {log}"
