"""Objectives of the baselines, on images and captions only: functions of the outputs of a batch.

`plain` (InfoNCE) and `sdm` train one embedding of any model; IRRA, RDE and TBPS-CLIP train a `DualEncoder`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..losses_bdam import sdm_of_rows
from ..objective_bdam import PairLabels, both_directions
from ..outputs_bdam import BDAMOutput
from .dual_encoder import DualEncoder
from .irra import IRRA, irra_losses
from .rde import RDE, rde_losses
from .tbps import tbps_losses

IMAGE, CAPTION = "image_identity_embeds", "caption_identity_embeds"


def sdm_losses(local: BDAMOutput, gathered: BDAMOutput, labels: PairLabels, epoch: float = 0.0) -> dict[str, Tensor]:
    """SDM between images and captions in the identity embeddings, both directions added.

    Args:
        local: outputs of the N local rows. The temperature is that of the config and is not trained, as in IRRA.
        gathered: outputs of the M rows of all processes.
        labels: images and captions of the same person are positives.
        epoch: number of epochs trained.
    """
    scale, positives = local.logit_scale.detach(), labels.same_person
    directions = ((local[IMAGE], gathered[CAPTION]), (local[CAPTION], gathered[IMAGE]))
    return {"info": torch.stack([sdm_of_rows(*pair, scale, positives).mean() for pair in directions]).sum()}


def plain_losses(local: BDAMOutput, gathered: BDAMOutput, labels: PairLabels, epoch: float = 0.0) -> dict[str, Tensor]:
    """InfoNCE between images and captions in the identity embeddings; see `sdm_losses`."""
    # Without descriptions, same_clothing is true for the row itself only
    return {"info": both_directions(local, gathered, IMAGE, CAPTION, labels.same_clothing, labels.unknown_clothing)}


BaselineLosses = Callable[[BDAMOutput, BDAMOutput, PairLabels, float], dict[str, Tensor]]
BASELINES: dict[str, BaselineLosses] = {
    "plain": plain_losses,
    "sdm": sdm_losses,
    "irra": irra_losses,
    "rde": rde_losses,
    "tbps": tbps_losses,
}
DUAL_ENCODERS: dict[str, type[DualEncoder]] = {"irra": IRRA, "rde": RDE, "tbps": DualEncoder}

__all__ = ["BASELINES", "DUAL_ENCODERS", "plain_losses", "sdm_losses"]
