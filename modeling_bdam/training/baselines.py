"""The baselines `plain` (InfoNCE) and `sdm`, which train one embedding of any model, and the table of objectives."""

from typing import Any

import torch
from torch import Tensor

from ..losses_bdam import info_nce, sdm_of_rows
from ..objective_bdam import MATCHING
from .decoupled import Decoupled, MatchingStage
from .irra import IRRAObjective
from .objective import Objective, PairedOutputs
from .rde import RDEObjective
from .tbps import TBPSObjective
from .training_args import BDAMTrainingArguments


class Plain(Objective):
    """InfoNCE between images and captions in the identity embeddings."""

    def losses(self, model: Any, batch: PairedOutputs) -> dict[str, Tensor]:
        # Without descriptions, same_clothing is true for the row itself only
        masks = batch.labels.same_clothing, batch.labels.unknown_clothing
        forward, backward = (info_nce(*pair, batch.local.logit_scale, *masks) for pair in batch.directions())
        return {"info": (forward + backward) / 2}


class SDM(Objective):
    """SDM between images and captions of the same person in the identity embeddings, both directions added.

    The temperature is that of the config and is not trained, as in IRRA.
    """

    def losses(self, model: Any, batch: PairedOutputs) -> dict[str, Tensor]:
        scale, positives = batch.local.logit_scale.detach(), batch.labels.same_person
        losses = [sdm_of_rows(*pair, scale, positives).mean() for pair in batch.directions()]
        return {"info": torch.stack(losses).sum()}


OBJECTIVES: dict[str, type[Objective]] = {
    "decoupled": Decoupled,
    "plain": Plain,
    "sdm": SDM,
    "irra": IRRAObjective,
    "rde": RDEObjective,
    "tbps": TBPSObjective,
}


def new_objective(args: BDAMTrainingArguments) -> Objective:
    """Returns the objective of a run: that of `args.objective`, or its second stage with `train_only=matching`."""
    is_second_stage = args.objective == "decoupled" and args.train_only == MATCHING
    return MatchingStage(args) if is_second_stage else OBJECTIVES[args.objective](args)


__all__ = ["OBJECTIVES", "SDM", "Plain", "new_objective"]
