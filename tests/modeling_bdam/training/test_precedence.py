"""Flags win over contradicting settings of a preset; flags that contradict each other are refused."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from modeling_bdam.training.run_arguments import parse_arguments


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--num_train_epochs 1", {"max_steps": -1, "num_train_epochs": 1}),
        ("--num-train-epochs=3.0", {"max_steps": -1, "num_train_epochs": 3}),  # the default of transformers
        ("--num_tr 0", {"max_steps": -1, "num_train_epochs": 0}),  # abbreviated
        ("--num_train_epochs 1 --max_steps -1", {"max_steps": -1, "num_train_epochs": 1}),
        ("--config paper --max_steps 9", {"max_steps": 9}),
        ("--per_device_train_batch_size 8", {"per_device_train_batch_size": 8}),
        ("--learning_rate 5e-5", {"learning_rate": 5e-5}),
        # Evaluation and checkpoints
        ("--eval_strategy no", {"eval_strategy": "no", "save_strategy": "steps", "load_best_model_at_end": False}),
        ("--save_strategy no", {"eval_strategy": "steps", "save_strategy": "no", "load_best_model_at_end": False}),
        ("--eval_strategy epoch", {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}),
        ("--save_strategy epoch", {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}),
        ("--save_strategy best", {"eval_strategy": "steps", "save_strategy": "best", "load_best_model_at_end": True}),
        ("--eval_strategy no --save_strategy epoch", {"eval_strategy": "no", "save_strategy": "epoch"}),
        ("--save_strategy epoch --load_best_model_at_end no", {"eval_strategy": "steps", "save_strategy": "epoch"}),
        ("--eval_steps 110", {"eval_steps": 110, "save_steps": 110}),
        ("--eval_steps 75", {"eval_steps": 75, "save_steps": 300}),
        ("--save_steps 0.5", {"eval_steps": 0.5, "save_steps": 0.5}),
        ("--eval_steps 0", {"eval_steps": 25, "save_steps": 300}),  # 0: logging_steps
        ("--config paper --eval_steps 9", {"eval_strategy": "steps", "eval_steps": 9, "save_strategy": "steps"}),
        ("--config paper --save_steps 9", {"save_strategy": "steps", "save_steps": 9, "eval_steps": 9}),
        # Others
        ("--lr_scheduler_type constant", {"warmup_steps": 0}),
        ("--warmup_steps 7", {"warmup_steps": 7, "lr_scheduler_type": "cosine"}),
        ("--config paper --optim sgd", {"optim": "sgd", "adam_l2": False}),
        ("--fp16", {"fp16": True, "bf16": False}),
        ("--config paper --uncertainty_weighting", {"uncertainty_weighting": True, "gradnorm": False}),
    ],
)
def test_typed_flag_wins_over_preset(flags: str, expected: dict[str, Any]) -> None:
    _, _, training, _ = parse_arguments(flags.split())
    assert {name: getattr(training, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("section", "flags", "expected"),
    [
        ({"lr_scheduler_type": "constant"}, ["--warmup_steps=7"], {"lr_scheduler_type": "constant_with_warmup"}),
        ({"robust_pairs": True}, ["--objective=plain"], {"robust_pairs": False}),
        ({"pair_loss": "tal"}, ["--objective=irra"], {"objective": "irra"}),
        ({"uncertainty_weighting": True, "gradnorm": False}, ["--gradnorm"], {"uncertainty_weighting": False}),
        ({"optim": "sgd"}, ["--adam_l2"], {"adam_l2": True, "optim": "adamw_torch_fused"}),
        ({"do_train": True}, [], {"do_train": True, "do_eval": False}),
        ({"do_train": True}, ["--do_train=false", "--do_ev"], {"do_train": False, "do_eval": True}),
    ],
)
def test_typed_flag_wins_over_file(
    section: dict[str, Any], flags: list[str], expected: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "mine.json").write_text(json.dumps({"training": section}))
    _, _, training, _ = parse_arguments([f"--config={tmp_path / 'mine.json'}", *flags])
    assert {name: getattr(training, name) for name in expected} == expected


@pytest.mark.parametrize(
    "flags",
    [
        "--num_train_epochs 1 --max_steps 5",
        "--eval_steps 5 --eval_strategy epoch",
        "--save_steps 5 --save_strategy no",
        "--eval_strategy no --load_best_model_at_end",
        "--save_strategy no --load_best_model_at_end true",
        "--lr_scheduler_type constant --warmup_steps 5",
        "--optim sgd --adam_l2",
        "--fp16 --bf16",
        "--gradnorm --uncertainty_weighting",
    ],
)
def test_contradicting_flags_are_refused(flags: str) -> None:
    with pytest.raises(ValueError, match=r"command line: --.* and --.* contradict each other: leave out one of them"):
        parse_arguments(flags.split())


@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        ("--gradnorm_alpha 2", True),
        ("--gradnorm_alpha 2 --gradnorm", False),
        ("--robust_pairs_warmup 0.5", True),
        ("--pair_loss tal --objective rde", True),
        ("--pair_loss tal", False),
    ],
)
def test_flag_without_effect_is_refused(flags: str, refused: bool) -> None:
    with pytest.raises(ValueError, match="has no effect, add --") if refused else contextlib.nullcontext():
        parse_arguments(flags.split())
