"""Objectives of the baselines: plain InfoNCE and similarity distribution matching (SDM).

SDM is the objective of IRRA: Jiang and Ye, "Cross-Modal Implicit Relation Reasoning and Aligning for Text-to-Image
Person Retrieval" (CVPR 2023), section 3.3. The softmax of the similarities of a query over the batch is matched to the
distribution of its labels. The gradient of a negative is weighted by its own probability, so sharp but wrong
similarities give no gradient: the temperature 0.02 of IRRA is for CLIP towers, new towers need a much higher one.
"""

import torch
from torch import Tensor

from ..objective_bdam import PairLabels, both_directions
from ..outputs_bdam import BDAMOutput

EPSILON = 1e-8


def similarity_distribution_matching(
    queries: Tensor, keys: Tensor, logit_scale: Tensor | float, positives: Tensor, epsilon: float = EPSILON
) -> Tensor:
    """Computes `KL(p_i || q_i)` in one direction: p_i is the softmax of the similarities of row i, q_i its labels.

    Args:
        queries: [N, d], L2-normalized by the caller.
        keys: [M, d], L2-normalized by the caller.
        logit_scale: the multiplier 1/temperature.
        positives: [N, M], bool, at least one per row.
        epsilon: keeps the logarithm of a zero label finite.

    Returns:
        scalar, the mean over rows.
    """
    with torch.autocast(queries.device.type, enabled=False):
        log_p = (logit_scale * queries.float() @ keys.float().T).log_softmax(dim=1)  # [N, M]
    labels = positives.float() / positives.sum(dim=1, keepdim=True)
    return (log_p.exp() * (log_p - (labels + epsilon).log())).sum(dim=1).mean()


def sdm_losses(local: BDAMOutput, gathered: BDAMOutput, labels: PairLabels) -> dict[str, Tensor]:
    """SDM between images and captions in the identity embeddings, both directions added.

    Args:
        local: outputs of the N local rows. The temperature is that of the config and is not trained, as in IRRA.
        gathered: outputs of the M rows of all processes.
        labels: images and captions of the same person are positives.
    """
    image, caption = "image_identity_embeds", "caption_identity_embeds"
    scale = local.logit_scale.detach()
    forth = similarity_distribution_matching(local[image], gathered[caption], scale, labels.same_person)
    back = similarity_distribution_matching(local[caption], gathered[image], scale, labels.same_person)
    return {"info": forth + back}


def plain_losses(local: BDAMOutput, gathered: BDAMOutput, labels: PairLabels) -> dict[str, Tensor]:
    """InfoNCE between images and captions in the identity embeddings; see `sdm_losses`."""
    fields = "image_identity_embeds", "caption_identity_embeds"
    # Without descriptions, same_clothing is true for the row itself only
    return {"info": both_directions(local, gathered, *fields, labels.same_clothing, labels.unknown_clothing)}
