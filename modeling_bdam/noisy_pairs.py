"""Rows whose texts are probably not theirs: found by a mixture over their losses, left out of the training.

Texts that a machine wrote, or the web, are wrong now and then. A network learns what most pairs agree on first, so the
wrong ones keep a high loss, and a mixture of two components over the losses tells them apart (after Li et al.,
"DivideMix", ICLR 2020, and Qin et al., "Noisy-Correspondence Learning", CVPR 2024). Two things are ours. A text is held
against the other texts of the same person as well, which tells much as soon as texts can be read, before any image can.
And the component of wrong texts is not fitted but measured, by giving each row a stranger's texts: a mixture fitted
freely finds a third of the rows wrong where none is.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor
from torch.distributions import Normal
from torch.utils.data import DataLoader, Subset

from .losses import info_nce_of_rows, masked_logsumexp, same_label_mask
from .modeling_bdam import BDAMModel
from .sampler import KeyedDataset

MIN_LOSSES = 256  # fewer than this are no ground for a judgement
OTHERS = 512  # how many rows' texts a row is set against
_FIT_STEPS = 100
# Image against text: what a wrong text makes large.
_PAIRS = (
    ("image_identity_embeds", "description_identity_embeds"),
    ("image_clothing_embeds", "description_clothing_embeds"),
    ("image_clothing_embeds", "caption_clothing_embeds"),
)


def row_losses(
    model: BDAMModel,
    rows: Any,
    collator: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
    batch_size: int,
    accelerator: Accelerator,
    num_workers: int = 0,
) -> tuple[Tensor, Tensor]:
    """How badly each row's texts fit it, and how badly a stranger's would.

    Shared out over all processes; the same whatever their number.

    Args:
        model: in any mode and on its device; it is run in evaluation mode, without gradients.
        rows: training rows of the common schema.
        collator: rows to a training batch; without a seed it augments nothing.
        batch_size: rows of one process at a time.
        accelerator: prepares the loader and gathers what it gives.
        num_workers: loader processes.

    Returns:
        as `text_losses`, on the CPU.
    """
    # The images of a person stay together, beside those of anybody.
    people, numbers = np.unique(rows["person_id"], return_inverse=True)
    order = np.argsort(np.random.default_rng(0).permutation(len(people))[numbers], kind="stable")
    shuffled = Subset(KeyedDataset(rows), order.tolist())
    loader = accelerator.prepare(DataLoader(shuffled, batch_size, collate_fn=collator, num_workers=num_workers))
    names = {name for pair in _PAIRS for name in pair}
    parts: dict[str, list[Tensor]] = {}
    was_training = model.training
    model.eval()
    for batch in loader:
        found = {"person_ids": batch.pop("person_ids")}
        with torch.no_grad(), accelerator.autocast():
            output = model(**batch)
            logit_scale = float(output.logit_scale.squeeze())
        found |= {name: output[name].float() for name in names if output.get(name) is not None}
        for name, value in accelerator.gather_for_metrics(found).items():
            parts.setdefault(name, []).append(value.cpu())
    model.train(was_training)
    whole = {name: torch.cat(values) for name, values in parts.items()}
    found_losses, strangers = text_losses(whole, whole["person_ids"], logit_scale)
    losses = torch.empty(len(rows))
    losses[torch.from_numpy(order)] = found_losses
    return losses, strangers


def text_losses(embeds: Mapping[str, Tensor], person_ids: Tensor, logit_scale: float) -> tuple[Tensor, Tensor]:
    """How badly texts fit a row: InfoNCE of its image and each of them, and of them and the person's other texts.

    Negatives are the texts of other people, out of `OTHERS` rows.

    Args:
        embeds: fields of `BDAMOutput`, [N, projection_dim] each; those of descriptions may be missing.
        person_ids: [N], the rows of a person one after the other.
        logit_scale: the multiplier 1/temperature itself, not its logarithm.

    Returns:
        summed: for the row's own texts, [N], and for those of a row further on, where that shows another person,
        [at most N].
    """
    own_losses, strangers = [], []
    for start in range(0, len(person_ids), OTHERS):
        # The last chunk is as long as the others: it reaches back into the one before.
        first = max(0, min(start, len(person_ids) - OTHERS))
        chunk = {name: value[first : first + OTHERS] for name, value in embeds.items()}
        people = person_ids[first : first + OTHERS]
        own = torch.eye(len(people), dtype=torch.bool, device=people.device)
        relatives = same_label_mask(people, people) & ~own
        further = len(people) // 2
        taken = own.roll(further, dims=1)  # whose texts each row is given
        own_losses.append(_losses_with(chunk, logit_scale, own, relatives, 0)[start - first :])
        given = _losses_with(chunk, logit_scale, taken, relatives | own, further)
        strangers.append(given[~(taken & relatives).any(dim=1)])
    return torch.cat(own_losses), torch.cat(strangers)


def _losses_with(
    embeds: Mapping[str, Tensor], logit_scale: float, taken: Tensor, ignored: Tensor, further: int
) -> Tensor:
    """`text_losses` of rows that take the texts of those `further` on, which are `taken` [N, N]; [N]."""
    pairs = [(embeds[image], embeds[text]) for image, text in _PAIRS if text in embeds]
    losses = [info_nce_of_rows(image, text, logit_scale, taken, ignored) for image, text in pairs]
    texts = embeds.get("description_clothing_embeds", embeds["caption_clothing_embeds"])
    similarity = logit_scale * texts.roll(-further, dims=0) @ texts.T  # [N, N]
    relatives = ignored & ~torch.eye(len(texts), dtype=torch.bool, device=texts.device)
    # Of the person's texts the nearest count most: people change their clothes.
    deficit = masked_logsumexp(similarity, ~(ignored | taken)) - masked_logsumexp(similarity, relatives)
    losses.append(torch.where(relatives.any(dim=1), F.softplus(deficit), 0.0))
    return torch.stack(losses).sum(dim=0)


def plausible(losses: Tensor, strangers: Tensor) -> Tensor:
    """Which rows' texts are probably their own, [N], bool; all rows, if they are few.

    Args:
        losses: of the rows with their own texts, [N].
        strangers: of rows with texts that are surely wrong, [M].
    """
    if min(len(losses), len(strangers)) < MIN_LOSSES:
        return torch.ones_like(losses, dtype=torch.bool)
    losses, strangers = losses.double(), strangers.double()
    log_wrong = Normal(strangers.mean(), strangers.std()).log_prob(losses)
    share = torch.tensor(0.5, dtype=torch.float64)  # of wrong texts
    lower = losses[losses <= losses.median()]
    mean, deviation = lower.mean(), losses.std()
    for _ in range(_FIT_STEPS):  # expectation and maximisation
        log_right = Normal(mean, deviation).log_prob(losses)
        right = torch.sigmoid(log_right - log_wrong + (1 - share).log() - share.log())  # [N]
        share = (1 - right).mean().clamp(1e-6, 1 - 1e-6)
        mean = (right * losses).sum() / right.sum()
        deviation = ((right * (losses - mean).square()).sum() / right.sum()).sqrt().clamp(min=1e-6)
    # The wider component has the larger density far below both: such a loss is still a small one.
    return (right > 0.5) | (losses <= mean)


class PairFilter:
    """The rows that the present epoch trains on.

    Attributes:
        epoch: the last one that began, -1 before the first.
        plausible: what it was given, [N], bool; None for all rows.
    """

    def __init__(self) -> None:
        self.epoch = -1
        self.plausible: Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        """What an exact resume needs."""
        return {"epoch": self.epoch, "plausible": self.plausible}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict`."""
        self.epoch = state["epoch"]
        self.plausible = None if state["plausible"] is None else state["plausible"].cpu()
