"""Training arguments of BDAM: those of transformers, and what sections 3.5 and 4.2 of the paper add."""

import json
from dataclasses import dataclass, field
from typing import Literal

from transformers import TrainingArguments

from ..objective_bdam import TASKS


@dataclass
class BDAMTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the multi-task loss of the paper.

    The best checkpoint is picked by mAP on the validation split. Identity-balanced batches hold
    `per_device_train_batch_size / images_per_person` people a process.
    """

    output_dir: str = field(  # type: ignore[assignment]  # always set here
        default="outputs/run", metadata={"help": "Folder of the checkpoints, the model and the results."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "The collator reads every column itself."})
    metric_for_best_model: str | None = field(
        default="eval_mAP", metadata={"help": "Which validation figure picks the best checkpoint."}
    )
    greater_is_better: bool | None = field(default=True, metadata={"help": "Whether the best figure is the largest."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Hide losses that are not finite; here they stop the training instead."}
    )

    objective: Literal["decoupled", "plain", "sdm"] = field(
        default="decoupled",
        metadata={
            "help": "'decoupled' trains the tasks of the paper. Baselines, on images and captions alone: 'plain' by "
            "InfoNCE, 'sdm' by similarity distribution matching, its temperature fixed by the config's "
            "logit_scale_init_value (IRRA: log 50 = 3.912)."
        },
    )
    adam_l2: bool = field(
        default=False,
        metadata={"help": "Adam whose weight decay is part of the gradient (the paper's), instead of --optim."},
    )
    left_out_tasks: list[str] = field(
        default_factory=list, metadata={"help": f"Tasks to leave out (table 3), of {', '.join(TASKS)}."}
    )
    images_per_person: int = field(
        default=2, metadata={"help": "K of the P x K batches: images of each person in a batch. 1 shuffles plainly."}
    )
    triplet_margin: float = field(default=0.3, metadata={"help": "Margin m of the triplet loss (eq. 4)."})
    gate_regularization_weight: float = field(
        default=0.1, metadata={"help": "Fixed weight of the gate regularization; 0 leaves it out (table 3)."}
    )
    task_weights: dict | str | None = field(
        default=None,
        metadata={"help": "Fixed weights by task as JSON, such as '{\"triplet\": 0.1}'; 1 where none is given."},
    )
    gradnorm: bool = field(
        default=True, metadata={"help": "Balance the tasks by GradNorm (eq. 5, 6) on top of their fixed weights."}
    )
    uncertainty_weighting: bool = field(
        default=False, metadata={"help": "Balance them by learned uncertainty instead of GradNorm."}
    )
    robust_pairs: bool = field(
        default=False,
        metadata={
            "help": "Find images whose texts are probably not theirs, by a mixture over their losses; give them those "
            "of the person's image in the most similar clothes where these fit, and leave them out where not."
        },
    )
    robust_pairs_warmup: float = field(
        default=0.1,
        metadata={"help": "Share of the training after which --robust_pairs judges all rows, as each epoch begins."},
    )
    robust_pairs_borrowing: float = field(
        default=0.35,
        metadata={"help": "Share after which it gives images a look-alike's texts; before, it keeps what is certain."},
    )
    gradnorm_alpha: float = field(default=1.5, metadata={"help": "α of eq. 6."})
    gradnorm_learning_rate: float = field(default=0.025, metadata={"help": "Learning rate of the task weights."})
    gradnorm_penalty: float = field(default=1e-3, metadata={"help": "λ of eq. 6, on the squared log weights."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.task_weights, str):
            self.task_weights = json.loads(self.task_weights)
        for name, tasks in (("left_out_tasks", self.left_out_tasks), ("task_weights", self.task_weights or {})):
            if unknown := sorted(set(tasks) - set(TASKS)):
                raise ValueError(f"{name} names {', '.join(unknown)}; the tasks are {', '.join(TASKS)}")
        if set(TASKS) == set(self.left_out_tasks):
            raise ValueError("left_out_tasks leaves no task to train on")
        if self.gradnorm and self.uncertainty_weighting:
            raise ValueError("uncertainty_weighting takes the place of gradnorm: set gradnorm to false")
        if self.robust_pairs and self.objective != "decoupled":
            raise ValueError(
                f"robust_pairs judges by clothing embeddings, which objective={self.objective} does not train"
            )
        # Identity-balanced batches are whole: a smaller last one would hold fewer people than the losses expect.
        self.dataloader_drop_last = True
        # Some parameters serve no loss when tasks are left out; DDP then has to look for them.
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = self.objective != "decoupled" or bool(self.left_out_tasks)


__all__ = ["BDAMTrainingArguments"]
