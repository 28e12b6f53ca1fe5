# ruff: noqa: RUF009  # `flag` returns dataclasses.field
"""Training arguments: those of transformers and the multi-task loss (paper, sections 3.5 and 4.2)."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import TrainingArguments
from transformers.utils import logging

from ..objective_bdam import MATCHING, TASKS

logger = logging.get_logger(__name__)

DUAL_ENCODER_OBJECTIVES = ("irra", "rde", "tbps")
DUAL_ENCODER_FIELDS: dict[str, Any] = {
    "use_bdam": False,
    "use_fusion": False,
    "use_matching": False,
    "fusion_sequence": "global",
    "clothing_weight": 0.0,
}
"""Fields of the config of a dual encoder, which `DUAL_ENCODER_OBJECTIVES` train."""


def flag(default: Any, help: str) -> Any:
    """Declares a dataclass field with the help text of its command-line flag; a list is copied for each instance."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass
class BDAMTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the multi-task loss of the paper.

    The best checkpoint is selected by mAP on the validation split. Identity-balanced batches hold
    `per_device_train_batch_size / images_per_person` people per process.
    """

    output_dir: str = flag("outputs/run", "Folder of the checkpoints, the model and the results.")  # always set here
    remove_unused_columns: bool = flag(False, "The collator reads every column itself.")
    metric_for_best_model: str | None = flag("eval_mAP", "Validation metric that selects the best checkpoint.")
    greater_is_better: bool | None = flag(True, "Whether a larger metric is better.")
    logging_nan_inf_filter: bool = flag(False, "Hide non-finite losses in the logs; here they stop the training.")

    objective: Literal["decoupled", "plain", "sdm", "irra", "rde", "tbps"] = flag(
        "decoupled",
        "'decoupled' trains the tasks of the paper. Baselines on images and captions only: 'plain' uses InfoNCE, 'sdm' "
        "uses similarity distribution matching, its temperature fixed by the config's logit_scale_init_value (IRRA: "
        "log 50 = 3.912); 'irra', 'rde' and 'tbps' train a dual encoder as IRRA, RDE and TBPS-CLIP do.",
    )
    pair_loss: Literal["info_nce", "sdm", "tal"] = flag(
        "info_nce",
        "Contrastive loss of --objective decoupled: InfoNCE at the temperature of the model, or the loss of IRRA (sdm) "
        "or RDE (tal) at the temperature of its paper.",
    )
    new_module_lr_factor: float = flag(
        1.0, "Multiplies the learning rate of all modules outside the towers, which have no pretrained weights."
    )
    tower_lr: float | None = flag(None, "Learning rate of the towers; by default --learning_rate.")
    layer_lr_decay: float = flag(1.0, "Multiplies the learning rate of each layer of a tower below the one above it.")
    train_only: Literal["all", "matching"] = flag(
        "all", "'matching' trains only the matching head of the config's use_matching, on captions and descriptions."
    )
    matching_steps: int = flag(
        0,
        "Steps of a second stage, which trains only the matching head. In the first stage, the head then learns the "
        "similarity of tokens without the layers that mix them; 0 trains the whole head together with the model.",
    )
    adam_l2: bool = flag(False, "Adam with weight decay as part of the gradient (paper), instead of --optim.")
    left_out_tasks: list[str] = flag([], f"Tasks to leave out (table 3), of {', '.join(TASKS)}.")
    images_per_person: int = flag(2, "K of the P x K batches: images of each person in a batch. 1: a plain shuffle.")
    triplet_margin: float = flag(0.3, "Margin m of the triplet loss (paper, eq. 4).")
    gate_regularization_weight: float = flag(0.1, "Fixed weight of the gate regularization; 0 leaves it out (table 3).")
    task_weights: dict | str | None = flag(
        None, "Fixed weights by task as JSON, such as '{\"triplet\": 0.1}'; 1 for other tasks."
    )
    gradnorm: bool = flag(True, "Balance the tasks by GradNorm (paper, eq. 5 and 6) on top of their fixed weights.")
    gradnorm_alpha: float = flag(1.5, "α of eq. 6 of the paper.")
    gradnorm_alpha_on: Literal["rate", "deviation"] = flag(
        "rate", "'rate': α is the exponent of a task's training rate (Chen et al.); 'deviation': a factor, as printed."
    )
    gradnorm_learning_rate: float = flag(0.025, "Learning rate of the task weights.")
    gradnorm_penalty: float = flag(1e-3, "λ of eq. 6 of the paper, on the squared log weights.")
    uncertainty_weighting: bool = flag(False, "Balance the tasks by learned uncertainty instead of GradNorm.")
    robust_pairs: bool = flag(
        False,
        "Find images with probably wrong texts by a mixture over their losses; replace these texts by those of the "
        "same person in the most similar clothes, or leave the images out.",
    )
    robust_pairs_warmup: float = flag(
        0.1, "Fraction of the steps after which --robust_pairs checks all rows at the begin of each epoch."
    )
    robust_pairs_borrowing: float = flag(
        0.35, "Fraction after which images get texts of a look-alike; before, only certain texts are kept."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.task_weights, str):
            self.task_weights = json.loads(self.task_weights)
        for name, tasks in (("left_out_tasks", self.left_out_tasks), ("task_weights", self.task_weights or {})):
            if unknown := sorted(set(tasks) - {*TASKS, MATCHING}):
                raise ValueError(f"{name} names {', '.join(unknown)}; the tasks are {', '.join((*TASKS, MATCHING))}")
        if set(TASKS) == set(self.left_out_tasks):
            raise ValueError("left_out_tasks leaves no task to train on")
        if self.gradnorm and self.uncertainty_weighting:
            raise ValueError("uncertainty_weighting and gradnorm exclude each other: set gradnorm to false")
        if not 0 < self.layer_lr_decay <= 1:
            raise ValueError(f"layer_lr_decay must be above 0 and at most 1, got {self.layer_lr_decay}")
        if self.robust_pairs and self.objective != "decoupled":
            raise ValueError(
                f"robust_pairs needs clothing embeddings, not trained by objective={self.objective}; set it to false"
            )
        # A smaller last batch would hold fewer people than P
        self.dataloader_drop_last = True
        # The trainer freezes the parameters that no loss reaches, so DDP does not need to search for them
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = False
        # DataParallel would divide batches of the losses; `accelerate launch` uses every GPU
        if self.n_gpu > 1:
            logger.warning(f"training on one of {self.n_gpu} GPUs; start with `accelerate launch` to use all of them")
            self._n_gpu = 1


__all__ = ["DUAL_ENCODER_FIELDS", "DUAL_ENCODER_OBJECTIVES", "BDAMTrainingArguments", "flag"]
