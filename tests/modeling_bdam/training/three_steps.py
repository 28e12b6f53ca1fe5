"""Trains runs of three steps, in one or more processes, and writes their losses to a file.

`python three_steps.py FOLDER RUN ...` writes the losses, task weights and gradient norms of each step to `losses.json`.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

import torch
from transformers import set_seed

from data_pipeline.experiments.definitions import load_experiment
from modeling_bdam import BDAMModel
from modeling_bdam.training.build import choose_trained_weights
from modeling_bdam.training.collation import DESCRIPTIONS
from modeling_bdam.training.gathering import end_process_group
from modeling_bdam.training.run_arguments import ModelArguments
from modeling_bdam.training.trainer import BDAMTrainer
from modeling_bdam.training.training_args import DUAL_ENCODER_FIELDS, BDAMTrainingArguments
from tests.modeling_bdam.conftest import _batch, _config
from tests.modeling_bdam.tensor_rows import TensorRows, collate

FIXED: dict[str, Any] = {"gradnorm": False}
# Differences from the default settings by section
SETTINGS: dict[str, dict[str, Any]] = {
    "GradNorm": {},
    "fixed weights": {"training": FIXED},
    "uncertainty": {"training": {**FIXED, "uncertainty_weighting": True}},
    "plain": {"training": {"objective": "plain"}},
    "sdm": {"training": {"objective": "sdm"}},
    "tbps": {"training": {"objective": "tbps"}, "model": DUAL_ENCODER_FIELDS},
    "tal": {"training": {"pair_loss": "tal"}},
    "accumulation": {"training": {"gradient_accumulation_steps": 2}},
    "checkpointing": {"training": {"gradient_checkpointing": True}},
    "K = 1": {"training": {"images_per_person": 1}},
    "two left out": {"training": {"left_out_tasks": ["triplet", "adversarial"]}},
    "robust pairs": {"training": {"robust_pairs": True, "robust_pairs_borrowing": 1.0}},
    "LoRA": {"weights": {"lora_rank": 2}},
    "frozen vision": {"weights": {"frozen_vision_layers": -1}},
    "frozen text": {"weights": {"frozen_text_layers": -1}},
    "frozen towers": {"weights": {"frozen_vision_layers": -1, "frozen_text_layers": -1}},
    "frozen layers": {"weights": {"frozen_vision_layers": 1, "frozen_text_layers": 1}},
    "frozen and LoRA": {"weights": {"frozen_vision_layers": -1, "lora_rank": 2}},
    "matching": {"model": {"use_matching": True}, "training": FIXED},
    "matching and GradNorm": {"model": {"use_matching": True}},
    "matching only": {"model": {"use_matching": True}, "training": {"train_only": "matching"}},
    "all tokens": {"model": {"fusion_sequence": "token"}},
    "batch norm": {"towers": "resnet"},
    "frozen batch norm": {"towers": "resnet", "weights": {"frozen_vision_layers": -1}},
}
for table in ("table1_bdam", "table2_fusion", "table3_losses", "figure5_efficiency"):
    SETTINGS |= {f"{table}, {row.name}": row.overrides for row in load_experiment(table).rows if row.overrides}
RUNS = [f"{texts}: {name}" for name in SETTINGS for texts in ("captions", "descriptions", "mixed")]


class Rows(TensorRows):
    """Sixteen rows of eight people; in `mixed`, those of the last four people have no descriptions."""

    column_names = DESCRIPTIONS

    def __init__(self, texts: str, batch: dict[str, torch.Tensor] | None = None) -> None:
        super().__init__(_batch(16) if batch is None else batch)
        self.texts = texts
        self.described = {"captions": 0, "descriptions": 8, "mixed": 4}[texts]  # people

    def select(self, numbers: Any) -> "Rows":
        return Rows(self.texts, {name: value[torch.as_tensor(numbers)] for name, value in self.batch.items()})

    def __getitem__(self, key: Any) -> Any:
        if key in DESCRIPTIONS:
            return ["text" if person < self.described else "" for person in self["person_id"]]
        return super().__getitem__(key)

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Collates rows, without tokens of descriptions where they have none."""
        batch = collate(rows)
        if int(batch["person_ids"].max()) < self.described:
            return batch
        return {name: value for name, value in batch.items() if not name.startswith(("identity_", "clothing_"))}


def train(output_dir: str, run: str) -> list[dict[str, float]]:
    """Trains one of `RUNS` and returns the losses, weights and gradient norms of each step."""
    texts, _, name = run.partition(": ")
    settings = SETTINGS[name]
    set_seed(0)
    args = BDAMTrainingArguments(
        output_dir=output_dir,
        per_device_train_batch_size=8 // int(os.environ.get("WORLD_SIZE", 1)),
        max_steps=3,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        learning_rate=1e-4,
        adam_epsilon=1e-4,  # a smaller one would turn rounding errors of zero gradients into full steps
        **settings.get("training", {}),
    )
    fields = {"dropout": 0.0, "initializer_range": 0.2, **settings.get("model", {})}
    model = BDAMModel(_config(settings.get("towers", "clip"), **fields))
    choose_trained_weights(model, ModelArguments(**settings.get("weights", {})))
    rows = Rows(texts)
    trainer = BDAMTrainer(model, args, rows.collate, rows, retrieval_collator=rows.collate)
    trainer.train()
    kept = ("loss", "weight", "gradient_norm", "grad_norm")
    logs = (entry for entry in trainer.state.log_history if "loss" in entry)
    return [{name: value for name, value in entry.items() if name.startswith(kept)} for entry in logs]


if __name__ == "__main__":
    result = {run: train(sys.argv[1], run) for run in sys.argv[2:]}
    if os.environ.get("RANK", "0") == "0":
        Path(sys.argv[1], "losses.json").write_text(json.dumps(result))
    end_process_group()
    if sys.platform == "linux":
        threads = {task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")}
        assert not any("gloo" in thread for thread in threads), threads
