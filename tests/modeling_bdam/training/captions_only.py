"""Trains three steps on captions only, in one or more processes; prints the losses of each objective as JSON."""

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

import torch
from transformers import set_seed

from modeling_bdam import BDAMModel
from modeling_bdam.training.trainer import BDAMTrainer
from modeling_bdam.training.training_args import BDAMTrainingArguments
from tests.modeling_bdam.conftest import _batch, _config
from tests.modeling_bdam.tensor_rows import TensorRows, collate

RUNS: dict[str, dict[str, Any]] = {
    "GradNorm": {},
    "fixed weights": {"gradnorm": False},
    "uncertainty": {"gradnorm": False, "uncertainty_weighting": True},
    "left out": {"left_out_tasks": ["triplet"]},
    "plain": {"objective": "plain"},
    "sdm": {"objective": "sdm"},
    "accumulation": {"gradient_accumulation_steps": 2},
    "K = 1": {"images_per_person": 1},
}


def captions(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Collates rows without their descriptions."""
    batch = collate(rows)
    return {name: value for name, value in batch.items() if not name.startswith(("identity_", "clothing_"))}


def losses(output_dir: str, **arguments: Any) -> list[float]:
    """Trains one run and returns the loss of each step."""
    set_seed(0)
    size = 8 // int(os.environ.get("WORLD_SIZE", 1))
    args = BDAMTrainingArguments(
        output_dir=output_dir,
        per_device_train_batch_size=size,
        max_steps=3,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        learning_rate=1e-4,
        **arguments,
    )
    model = BDAMModel(_config("clip", dropout=0.0, initializer_range=0.2))
    trainer = BDAMTrainer(model, args, captions, TensorRows(_batch(16)), retrieval_collator=captions)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    result = {name: losses(sys.argv[1], **arguments) for name, arguments in RUNS.items()}
    if os.environ.get("RANK", "0") == "0":
        Path(sys.argv[1], "losses.json").write_text(json.dumps(result))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # gloo's threads must not outlive the interpreter
