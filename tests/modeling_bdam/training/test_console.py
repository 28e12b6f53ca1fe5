"""The console of a training, driven by the events of a run."""

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from modeling_bdam.training.console import ConsoleCallback


def run(tmp_path: Any, best_before: float | None = None) -> None:
    """Trains 4 steps with a log entry each and an evaluation after steps 2 and 4."""
    console, control = ConsoleCallback(), TrainerControl()
    args = TrainingArguments(str(tmp_path), metric_for_best_model="eval_mAP", greater_is_better=True)
    state = TrainerState(max_steps=4, is_world_process_zero=True, best_metric=best_before)
    console.on_train_begin(args, state, control)
    for step in (1, 2, 3, 4):
        state.global_step = step
        console.on_step_end(args, state, control)
        console.on_log(args, state, control, logs={"loss": 8.0 / step, "learning_rate": 1e-3, "loss_info": 1.0})
        if step % 2 == 0:
            metrics = {"eval_rank1": 0.1 * step, "eval_mAP": 0.4 / step}
            console.on_evaluate(args, state, control, metrics=metrics)
            state.best_metric = max(metrics["eval_mAP"], state.best_metric or 0)
    console.on_train_end(args, state, control)
    console.on_log(args, state, control, logs={"loss": 1.0, "eval_rank1": 0.5})
    console.on_evaluate(args, state, control, metrics={"eval_rank1": 0.5})


def test_file_output_has_one_line_per_log_and_row(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path)
    printed = capsys.readouterr()
    assert "\r" not in printed.out + printed.err and "\x1b" not in printed.out + printed.err
    lines = printed.out.splitlines()
    assert [line.split("  ")[:3] for line in lines if line.startswith("step ")] == [
        [f"step {step}/4", f"loss {8 / step:.4g}", "lr 0.001"] for step in (1, 2, 3, 4)
    ]
    rows = lines[lines.index("validation split, per cent") + 1 :]
    assert rows[0].split() == ["step", "loss", "rank-1", "mAP", "clothes-changing", "mAP", "best", "mAP"]
    assert rows[1].split() == ["2", "4", "20.00", "20.00", "-", "20.00"]
    assert rows[-1].split() == ["4", "2", "40.00", "10.00", "-", "20.00"]  # the best value stays
    assert len({len(row) for row in (rows[0], rows[1], rows[-1])}) == 1


def test_best_column_continues_after_resume(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, best_before=0.9)
    assert capsys.readouterr().out.splitlines()[-1].split()[-1] == "90.00"


def test_terminal_shows_one_bar_with_loss(
    tmp_path: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    run(tmp_path)
    printed = capsys.readouterr()
    assert "training: 100%" in printed.err and "loss=2, lr=0.001" in printed.err
    assert "{" not in printed.out + printed.err  # no dictionaries
    assert len([line for line in printed.out.splitlines() if line.startswith("  ")]) == 3  # header and two rows


def test_other_processes_print_nothing(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    console = ConsoleCallback()
    state = TrainerState(max_steps=1, is_world_process_zero=False)
    for event in (console.on_train_begin, console.on_step_end, console.on_train_end):
        event(SimpleNamespace(), state, TrainerControl())  # type: ignore[arg-type]
    console.on_log(SimpleNamespace(), state, TrainerControl(), logs={"loss": 1.0})  # type: ignore[arg-type]
    assert capsys.readouterr() == ("", "")


def test_evaluation_before_the_first_log_has_no_loss(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    console, control = ConsoleCallback(), TrainerControl()
    args, state = TrainingArguments(str(tmp_path)), TrainerState(max_steps=4, is_world_process_zero=True)
    console.on_train_begin(args, state, control)
    console.on_evaluate(args, state, control, metrics={"eval_rank1": 0.5, "eval_mAP": 0.25})
    console.on_train_end(args, state, control)
    assert capsys.readouterr().out.splitlines()[-1].split()[:3] == ["0", "-", "50.00"]
