"""Similarity distribution matching: the objective of the field's usual baseline, IRRA.

After Jiang and Ye, "Cross-Modal Implicit Relation Reasoning and Aligning for Text-to-Image Person Retrieval" (CVPR
2023), section 3.3: the distribution of a row's similarities over the batch is to match that of its true labels.

A negative's gradient is weighed by its own probability, so where similarities are sharp and wrong there is nothing to
learn from: IRRA's τ of 0.02 is for towers of CLIP, and new towers want a far higher one.
"""

import torch
from torch import Tensor

from ..objective_bdam import PairLabels, both_directions
from ..outputs_bdam import BDAMOutput

EPSILON = 1e-8


def similarity_distribution_matching(
    queries: Tensor, keys: Tensor, logit_scale: Tensor | float, positives: Tensor, epsilon: float = EPSILON
) -> Tensor:
    """`KL(p_i || q_i)` in one direction: p_i the softmax of row i's similarities, q_i its labels, scaled to sum to 1.

    Args:
        queries: [N, d], L2-normalized by the caller.
        keys: [M, d], likewise.
        logit_scale: the multiplier 1/temperature.
        positives: [N, M], bool, at least one a row.
        epsilon: keeps the logarithm of a label 0 finite.

    Returns:
        scalar, the mean over rows.
    """
    with torch.autocast(queries.device.type, enabled=False):
        log_p = (logit_scale * queries.float() @ keys.float().T).log_softmax(dim=1)  # [N, M]
    labels = positives.float() / positives.sum(dim=1, keepdim=True)
    return (log_p.exp() * (log_p - (labels + epsilon).log())).sum(dim=1).mean()


def sdm_losses(rows: BDAMOutput, columns: BDAMOutput, labels: PairLabels) -> dict[str, Tensor]:
    """The baseline's one task: images and captions in the identity embeddings, both directions added.

    Args:
        rows: outputs of this process's N rows.
        columns: outputs of the M rows of all processes. Their 1/τ stays that of the config, untrained, as in IRRA.
        labels: every image and caption of the same person belong together.
    """
    image, caption = "image_identity_embeds", "caption_identity_embeds"
    scale = rows.logit_scale.detach()
    forth = similarity_distribution_matching(rows[image], columns[caption], scale, labels.same_person)
    back = similarity_distribution_matching(rows[caption], columns[image], scale, labels.same_person)
    return {"info": forth + back}


def plain_losses(rows: BDAMOutput, columns: BDAMOutput, labels: PairLabels) -> dict[str, Tensor]:
    """The baseline: InfoNCE between images and captions in the identity embeddings, and nothing else."""
    fields = "image_identity_embeds", "caption_identity_embeds"
    # same_clothing is the row itself: captions alone are read
    return {"info": both_directions(rows, columns, *fields, labels.same_clothing, labels.unknown_clothing)}
