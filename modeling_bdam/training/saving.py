"""Saves a run: checkpoints of a plain `BDAMModel` that an exact resume continues, and the model card."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME

from ..files import write_json
from ..modeling_bdam import BDAMModel
from .dual_encoder import DualEncoder, without_heads
from .model_card import CardData, RunFacts, SplitSize, write_model_card
from .objective import Objective
from .sampler import CaptionPairs, KeyedDataset
from .task_balance import TaskBalance
from .tower_training import lora_weights, merged_weights, unmerged_weights
from .training_args import BDAMTrainingArguments

TASK_WEIGHTING_FILE = "task_weighting.pt"
TEXT_CHOICE_FILE = "text_choice.pt"
LORA_FILE = "lora.safetensors"
ARGUMENTS_FILE = "training_args.json"


@dataclass
class TextChoice:
    """State of the choice of texts in a run.

    Attributes:
        epoch: the last epoch that has begun, -1 before the first.
        text_rows: see `Objective.choose_texts`; None if each row has its own texts.
    """

    epoch: int = -1
    text_rows: Tensor | None = None


class SavingTrainer(Trainer):
    """`Trainer` that saves plain models, its arguments without pickle, and the state of the objective.

    Attributes:
        card_data: names of the data sets, for the model card.
    """

    args: BDAMTrainingArguments
    objective: Objective
    balance: TaskBalance
    text_choice: TextChoice
    card_data: CardData
    scored: dict[str, SplitSize]  # by prefix of the figures
    untrained: set[str]  # names of the parameters that no loss of this run reaches

    @property
    def unwrapped(self) -> BDAMModel:
        """The model without the wrappers of DDP and torch.compile."""
        return self.accelerator.unwrap_model(self.model)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """Loads weights by `from_pretrained`: `Trainer` ignores the older names that `save_pretrained` writes for a ViT
        (transformers 5.23)."""
        own = self.unwrapped
        weights = BDAMModel.from_pretrained(resume_from_checkpoint).state_dict()
        if isinstance(own, DualEncoder):
            own.load_heads(Path(resume_from_checkpoint))
            weights |= {f"heads.{name}": value for name, value in own.heads.state_dict().items()}
        if lora_weights(own):
            weights = unmerged_weights(own, weights, load_file(Path(resume_from_checkpoint, LORA_FILE)))
        if self.is_fsdp_enabled:
            weights["logit_scale"] = weights["logit_scale"].reshape(1)
            set_model_state_dict(own, weights, options=StateDictOptions(full_state_dict=True))
        else:
            own.load_state_dict(weights)

    def _load_best_model(self) -> None:
        assert self.state.best_model_checkpoint is not None
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Saves the plain model: LoRA is merged into the weights, and class and shapes are those without FSDP."""
        own = self.unwrapped
        if lora_weights(own):
            state_dict = merged_weights(own, own.state_dict() if state_dict is None else state_dict)
        if isinstance(own, DualEncoder):
            state_dict = without_heads(own.state_dict() if state_dict is None else state_dict)
        if self.is_fsdp_enabled and state_dict:  # empty on all processes but the first
            state_dict["logit_scale"] = state_dict["logit_scale"].reshape(())
        # Under FSDP the class of the model is defined in torch, and `save_pretrained` would copy the code of torch, or
        # that of a baseline
        sharded, own.__class__ = own.__class__, BDAMModel
        super()._save(output_dir, state_dict)
        own.__class__ = sharded
        # The arguments as JSON: `Trainer` pickles them, and reading a pickle can run arbitrary code
        folder = Path(output_dir or self.args.output_dir)
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
        if self.args.should_save:
            if isinstance(own, DualEncoder):
                own.save_heads(folder)
            write_json(folder / ARGUMENTS_FILE, self.args.to_dict() | {"world_size": self.args.world_size})

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        lora = lora_weights(self.unwrapped)
        if not self.args.should_save:
            return
        if lora:
            save_file(lora, Path(output_dir, LORA_FILE))
        if self.balance.weighting is not None:
            torch.save(self.balance.weighting.state_dict(), Path(output_dir, TASK_WEIGHTING_FILE))
        if self.objective.chooses_texts:
            torch.save(vars(self.text_choice), Path(output_dir, TEXT_CHOICE_FILE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return

        def saved(name: str) -> dict[str, Any] | None:
            path = Path(checkpoint, name)
            return torch.load(path, map_location=self.args.device, weights_only=True) if path.is_file() else None

        if (state := saved(TASK_WEIGHTING_FILE)) is not None:
            self.balance.load(state)
        if (state := saved(TEXT_CHOICE_FILE)) is not None:
            self.text_choice = TextChoice(state["epoch"], None if (rows := state["text_rows"]) is None else rows.cpu())

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """Writes `README.md` from the results of this run, see `write_model_card`.

        Args:
            license: Hub identifier; by default derived from the training data.
            tags: in addition to the tags of every card.
            model_name: by default the last part of the repository's name.
            language, finetuned_from, tasks, dataset_tags, dataset, dataset_args: unused, part of the signature of
                `Trainer`; `card_data` holds the names of the data sets.
        """
        if not self.is_world_process_zero():
            return
        model = self.unwrapped
        rows = self.train_dataset.rows if isinstance(self.train_dataset, KeyedDataset) else None
        rows = rows.rows if isinstance(rows, CaptionPairs) else rows
        facts = RunFacts(
            args=self.args,
            state=self.state,
            data=self.card_data,
            config=model.config,
            parameters=sum(value.numel() for name, value in model.named_parameters() if ".lora_" not in name),
            trained_parameters=sum(
                value.numel()
                for name, value in model.named_parameters()
                if value.requires_grad and name not in self.untrained
            ),
            train_size=SplitSize.of_rows(rows) if rows is not None else None,
            test_sizes=self.scored,
        )
        write_model_card(facts, model_name, license, [tags] if isinstance(tags, str) else tags)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Pushes a checkpoint as `Trainer` does, together with the code for `trust_remote_code` and a card."""
        if self.is_world_process_zero():
            for path in Path(checkpoint_folder).glob("*.py"):
                shutil.copy(path, self.args.output_dir)
        self.create_model_card()
        # `Trainer` pickles the arguments into the folder that it pushes, without files that begin with an underscore
        pickled = f"_{TRAINING_ARGS_NAME}"
        with patch("transformers.trainer.TRAINING_ARGS_NAME", pickled):
            super()._push_from_checkpoint(checkpoint_folder)
        Path(self.args.output_dir, pickled).unlink(missing_ok=True)


__all__ = ["ARGUMENTS_FILE", "SavingTrainer", "TextChoice"]
