"""Console output of a training: one progress bar, one table row per evaluation, plain lines in a file."""

import math
import sys
import time
from typing import Any

import datasets
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging as transformers_logging

# Column heading to key of the metric.
COLUMNS = {"rank-1": "eval_rank1", "mAP": "eval_mAP", "clothes-changing mAP": "eval_clothes_changing_mAP"}


class ConsoleCallback(TrainerCallback):
    """Replaces the progress bar of transformers, which prints every log entry as a dictionary.

    In a terminal, one bar shows loss, learning rate and time left. Where stderr is a file, each log entry is one line
    without control characters. Each evaluation during training prints one row of a table: step, training loss,
    metrics of the validation split in per cent, and the best value so far of the metric that selects the checkpoint.
    The loggers of `report_to` still receive every entry.
    """

    def __init__(self) -> None:
        self._bar: Any = None  # tqdm in a terminal
        self._active = False  # between the begin and the end of a training, on the main process
        self._header_is_printed = False
        self._loss = float("nan")
        self._started = 0.0
        self._first_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        self._active, self._header_is_printed = True, False
        self._started, self._first_step = time.monotonic(), state.global_step
        if sys.stderr.isatty():
            self._bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", dynamic_ncols=True)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not self._active or logs is None or "loss" not in logs:
            return
        self._loss = float(logs["loss"])
        shown = {"loss": f"{self._loss:.4g}", "lr": f"{float(logs.get('learning_rate', 0)):.3g}"}
        if self._bar is not None:
            self._bar.set_postfix(shown)
            return
        seconds = (time.monotonic() - self._started) / max(1, state.global_step - self._first_step)
        left = tqdm.format_interval(seconds * (state.max_steps - state.global_step))
        self._print(f"step {state.global_step}/{state.max_steps}  loss {shown['loss']}  lr {shown['lr']}  {left} left")

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not self._active or not metrics or COLUMNS["rank-1"] not in metrics:
            return
        # `state.best_metric` is updated after this event.
        name = f"eval_{str(args.metric_for_best_model or 'mAP').removeprefix('eval_')}"
        values = [value for value in (state.best_metric, metrics.get(name)) if value is not None]
        best = (max if args.greater_is_better else min)(values) if values else None
        cells = {"step": str(state.global_step), "loss": "-" if math.isnan(self._loss) else f"{self._loss:.4g}"}
        columns = {heading: metrics.get(key) for heading, key in COLUMNS.items()}
        columns[f"best {name.removeprefix('eval_')}"] = best
        cells |= {heading: "-" if value is None else f"{100 * value:.2f}" for heading, value in columns.items()}
        if not self._header_is_printed:
            self._print("\nvalidation split, per cent\n" + "  ".join(f"{heading:>6}" for heading in cells))
            self._header_is_printed = True
        self._print("  ".join(f"{value:>{max(6, len(heading))}}" for heading, value in cells.items()))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._active = False
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _print(self, text: str) -> None:
        tqdm.write(text) if self._bar is not None else print(text, flush=True)


def quiet_libraries() -> None:
    """Hides the bars of transformers (loading and writing weights), and those of datasets where stderr is a file."""
    transformers_logging.disable_progress_bar()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()


__all__ = ["ConsoleCallback", "quiet_libraries"]
