"""TBPS-CLIP: a contrastive loss over all pairs of the same person with soft labels, and its reversed form.

Cao, Bai, Zeng, Ye and Zhang, "An Empirical Study of CLIP for Text-Based Person Search" (AAAI 2024), the simplified
model of https://github.com/Flame-Chasers/TBPS-CLIP: N-ITC with soft labels of share 0.5, R-ITC with ε = 1e-2, weight 1
each, and a learned temperature that begins at 0.07. It is trained by AdamW (β2 0.98) with learning rate 1e-4, weight
decay 0.02, 5 epochs over caption pairs in batches of 80, one of them warm-up, then a cosine.
"""

from typing import Any

import torch
from torch import Tensor

from ..losses_bdam import full_precision, sdm_of_rows
from .dual_encoder import DualEncoderObjective
from .objective import PairedOutputs

SOFT_SHARE = 0.5  # reached after the first epoch
REVERSED_EPSILON = 1e-2


def soft_label_contrast(
    queries: Tensor, keys: Tensor, logit_scale: Tensor | float, positives: Tensor, share: float
) -> Tensor:
    """Computes N-ITC of each row in one direction: the cross-entropy of the softmax of its similarities, [N].

    The label is `share * softmax(s) + (1 - share) * y`: y is uniform over the positives of the row, and the soft part
    is the prediction itself, without gradient.

    Args:
        queries, keys, logit_scale, positives: see `info_nce`; at least one positive per row.
        share: of the soft part, from 0 to 1.
    """
    with torch.autocast(queries.device.type, enabled=False):
        log_p = (logit_scale * full_precision(queries) @ full_precision(keys).T).log_softmax(dim=1)  # [N, M]
    hard = positives.to(log_p.dtype) / positives.sum(dim=1, keepdim=True)
    labels = share * log_p.detach().exp() + (1 - share) * hard
    return -(labels * log_p).sum(dim=1)


class TBPSObjective(DualEncoderObjective):
    """N-ITC and R-ITC between images and captions, each averaged over both directions.

    R-ITC is the divergence `KL(p || y + ε)` of the predictions p from the hard labels: SDM with another ε.
    """

    def losses(self, model: Any, batch: PairedOutputs) -> dict[str, Tensor]:
        pairs, scale, positives = batch.directions(), batch.local.logit_scale, batch.labels.same_person
        share = SOFT_SHARE * min(1.0, batch.epoch)
        normalized = [soft_label_contrast(*pair, scale, positives, share).mean() for pair in pairs]
        reverse = [sdm_of_rows(*pair, scale, positives, epsilon=REVERSED_EPSILON).mean() for pair in pairs]
        return {"nitc": torch.stack(normalized).mean(), "ritc": torch.stack(reverse).mean()}


__all__ = ["TBPSObjective", "soft_label_contrast"]
