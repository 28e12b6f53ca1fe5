"""Rows whose texts are probably not theirs: found by a mixture over their losses, passed over as positive pairs.

Texts that a machine wrote, or the web, are wrong now and then. A network learns what most pairs agree on first, so
for a while the wrong pairs keep a high loss: two Gaussians over the losses tell them apart (after Li et al.,
"DivideMix", ICLR 2020, and Qin et al., "Noisy-Correspondence Learning", CVPR 2024).
"""

from typing import Any

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from .losses import info_nce_of_rows
from .objective_bdam import PairLabels
from .outputs_bdam import BDAMOutput

# Ashman's D above which a mixture of two Gaussians counts as two groups, not as one that was cut in half.
SEPARATION = 2.0
MIN_LOSSES = 256  # fewer than this are no ground for a judgement
# Image against text: what a wrong text makes large.
_PAIRS = (
    ("image_identity_embeds", "description_identity_embeds"),
    ("image_clothing_embeds", "description_clothing_embeds"),
    ("image_clothing_embeds", "caption_clothing_embeds"),
)


def row_losses(rows: BDAMOutput, columns: BDAMOutput, labels: PairLabels) -> Tensor:
    """How badly each row's image fits its own texts: InfoNCE against the texts of other people, summed over texts.

    Args:
        rows: outputs of this process's N rows.
        columns: outputs of the M rows of all processes.
        labels: pairs that belong together without being the row itself are passed over.

    Returns:
        [N], no gradient.
    """
    own = torch.zeros_like(labels.same_person)
    own[torch.arange(len(own)), labels.offset + torch.arange(len(own))] = True
    others = (labels.same_identity | labels.same_clothing) & ~own
    losses = [
        info_nce_of_rows(rows[image].detach(), columns[text].detach(), rows.logit_scale.detach(), own, others)
        for image, text in _PAIRS
        if rows.get(text) is not None
    ]
    return torch.stack(losses).sum(dim=0)


class PairFilter:
    """Judges rows by their losses, against those of the last batches.

    Args:
        window: how many losses of the past are kept.
    """

    def __init__(self, window: int = 1024) -> None:
        self.window = window
        self._recent = torch.zeros(0)

    def remember(self, losses: Tensor) -> None:
        """Keeps the losses [M] of a batch."""
        self._recent = torch.cat([self._recent, losses.detach().float().cpu()])[-self.window :]

    def plausible(self, losses: Tensor) -> Tensor:
        """Which of the losses [M] belong to the mixture's lower component, [M], bool.

        All of them, as long as the two components do not stand apart or too little was seen.
        """
        everything = torch.ones_like(losses, dtype=torch.bool)
        if len(self._recent) < MIN_LOSSES:
            return everything
        mixture = GaussianMixture(2, random_state=0).fit(self._recent[:, None].double().numpy())
        means, variances = mixture.means_[:, 0], mixture.covariances_[:, 0, 0]
        low, high = np.argsort(means)
        if means[high] - means[low] < SEPARATION * np.sqrt(variances.mean()):
            return everything
        probability = mixture.predict_proba(losses.detach().double().cpu().numpy()[:, None])[:, low]
        # The wider component has the larger density far below both: such a loss is still a small one.
        certain = torch.from_numpy(probability > 0.5).to(losses.device)
        return certain | (losses <= float(means[low]))

    def state_dict(self) -> dict[str, Any]:
        """What an exact resume needs."""
        return {"recent": self._recent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict`."""
        self._recent = state["recent"].cpu()
