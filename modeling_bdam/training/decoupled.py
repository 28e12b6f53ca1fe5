"""The objective of the paper: several tasks on images, captions and descriptions, and robust pairs."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..modeling_bdam import BDAMModel
from ..objective_bdam import MATCHING, task_losses
from ..outputs_bdam import BDAMOutput
from .matching import matching_loss
from .objective import Objective, PairedOutputs
from .robust_pairs import RowEncoder, choose_texts
from .sampler import IdentityBalancedSampler
from .training_args import BDAMTrainingArguments


class Decoupled(Objective):
    """The tasks of `task_losses` and, of a model with a matching head, the task `matching`."""

    is_decoupled = True

    def __init__(self, args: BDAMTrainingArguments) -> None:
        super().__init__(args)
        self.chooses_texts = args.robust_pairs

    def inputs(self, model: BDAMModel, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: batch[name] for name in batch if name != "person_ids"}

    def losses(self, model: BDAMModel, batch: PairedOutputs) -> dict[str, Tensor]:
        args, config = self.args, model.config
        outputs = batch.local, batch.gathered, batch.labels
        losses = task_losses(*outputs, config, args.triplet_margin, args.pair_loss)
        if model.matching is not None:
            hard_pairs = args.matching_steps == 0  # otherwise they are trained in the second stage
            losses[MATCHING] = matching_loss(model.matching, *outputs, config.clothing_weight, hard_pairs)
        return {task: loss for task, loss in losses.items() if task not in args.left_out_tasks}

    def choose_texts(
        self, encoder: RowEncoder, rows: Any, sampler: IdentityBalancedSampler, trained: float
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Chooses texts by robust pairs, separately for the rows with and without descriptions."""
        if not self.args.robust_pairs or trained < self.args.robust_pairs_warmup:
            return None, {}
        own = torch.arange(len(rows))
        text_rows = own.clone()
        for rows_of_person, _ in sampler.kinds:
            numbers = torch.from_numpy(np.sort(np.concatenate(rows_of_person)))
            part = rows if len(numbers) == len(rows) else rows.select(numbers.numpy())
            chosen = choose_texts(encoder, part, borrow=trained >= self.args.robust_pairs_borrowing)
            text_rows[numbers] = torch.where(chosen >= 0, numbers[chosen], -1)
        is_own = text_rows == own
        return text_rows, {"plausible_rows": is_own, "borrowed_rows": (text_rows >= 0) & ~is_own}


class MatchingStage(Decoupled):
    """The second stage of `matching_steps`: trains only the matching head, on fixed outputs of the rest."""

    def losses(self, model: BDAMModel, batch: PairedOutputs) -> dict[str, Tensor]:
        fields = ("image_embeds", "text_embeds", "matching_tokens", "caption_tokens", "caption_mask")
        own, every = (
            BDAMOutput(**{name: part[name].detach() for name in fields}) for part in (batch.local, batch.gathered)
        )
        assert model.matching is not None
        return {MATCHING: matching_loss(model.matching, own, every, batch.labels, model.config.clothing_weight)}

    def gate_loss(self, gathered: BDAMOutput) -> float:
        return 0.0


__all__ = ["Decoupled", "MatchingStage"]
