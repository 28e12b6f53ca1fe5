"""Rows whose texts are probably not theirs: found by a mixture over their losses, given others or left out.

Texts that a machine wrote, or the web, are wrong now and then. A network learns what most pairs agree on first, so the
wrong ones keep a high loss, and a mixture of two components over the losses tells them apart (after Li et al.,
"DivideMix", ICLR 2020, and Qin et al., "Noisy-Correspondence Learning", CVPR 2024). Three things are ours. A text is
held against the other texts of the same person as well, which tells much as soon as texts can be read, before any image
can. The component of wrong texts is not fitted but measured, by giving each row a stranger's texts: a mixture fitted
freely finds a third of the rows wrong where none is. And an image need not go with its texts: it is given those of the
person's image in the most similar clothes, where they fit it.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor
from torch.distributions import Normal
from torch.utils.data import DataLoader, Subset

from ..losses_bdam import info_nce_of_rows, masked_logsumexp, same_label_mask
from ..modeling_bdam import BDAMModel
from .sampler import KeyedDataset

MIN_LOSSES = 256  # fewer than this are no ground for a judgement
OTHERS = 512  # how many rows' texts a row is set against
CERTAINTY = 0.9  # that a row's texts are its own, so that no others are looked for
LEAST_ALIKE = 0.25  # the quantile of certain rows' similarity to their look-alikes that others must reach
_FIT_STEPS = 100
# Image against text: what a wrong text makes large.
_PAIRS = (
    ("image_identity_embeds", "description_identity_embeds"),
    ("image_clothing_embeds", "description_clothing_embeds"),
    ("image_clothing_embeds", "caption_clothing_embeds"),
)


def choose_texts(
    model: BDAMModel,
    rows: Any,
    collator: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
    batch_size: int,
    accelerator: Accelerator,
    num_workers: int = 0,
    borrow: bool = True,
) -> Tensor:
    """Whose texts each row is best trained with, judged by the model; see `texts_of_rows`.

    Shared out over all processes; the same whatever their number.

    Args:
        model: in any mode and on its device; it is run in evaluation mode, without gradients.
        rows: training rows of the common schema.
        collator: rows to a training batch; without a seed it augments nothing.
        batch_size: rows of one process at a time.
        accelerator: prepares the loader and gathers what it gives.
        num_workers: loader processes.
        borrow: see `texts_of_rows`.

    Returns:
        indices of rows, -1 for none, [N], on the CPU.
    """
    # The images of a person stay together, beside those of anybody.
    people, numbers = np.unique(rows["person_id"], return_inverse=True)
    permuted = np.random.default_rng(0).permutation(len(people))[numbers]
    order = torch.from_numpy(np.argsort(permuted, kind="stable"))
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
    chosen = texts_of_rows(whole, whole.pop("person_ids"), logit_scale, borrow)
    text_rows = torch.empty_like(order)
    text_rows[order] = torch.where(chosen >= 0, order[chosen], -1)
    return text_rows


def texts_of_rows(embeds: Mapping[str, Tensor], person_ids: Tensor, logit_scale: float, borrow: bool = True) -> Tensor:
    """Whose texts each row is best trained with: its own, a look-alike's, or nobody's.

    Its own, if they are certain. If not, those of the look-alike: of the person's rows with certain texts, the one
    whose clothing embedding is nearest; it must look about as similar as those of certain rows do, and its texts must
    be plausible for the row. Failing that, its own, if they are plausible.

    Args:
        embeds: fields of `BDAMOutput`, [N, projection_dim] each; those of descriptions may be missing.
        person_ids: [N], the rows of a person one after the other.
        logit_scale: the multiplier 1/temperature itself, not its logarithm.
        borrow: whether to look further than certain texts: of use once images tell clothes apart. Early on a few wrong
            texts do more harm than many left out.

    Returns:
        indices of rows, -1 for nobody's texts, [N]; each row's own, if there are too few to judge by.
    """
    chunks = list(_chunks(embeds, person_ids, logit_scale))
    losses = torch.cat([chunk.new(chunk.losses(chunk.own)) for chunk in chunks])
    strangers = torch.cat([chunk.losses_with_strangers() for chunk in chunks])
    if min(len(losses), len(strangers)) < MIN_LOSSES:
        return torch.arange(len(losses))
    mixture = Mixture.fit(losses, strangers)
    certain = mixture.is_plausible(losses, CERTAINTY)
    if not borrow:
        return torch.where(certain, torch.arange(len(losses)), -1)
    plausible = mixture.is_plausible(losses)
    chosen = []
    for chunk in chunks:
        here = slice(chunk.first, chunk.first + len(chunk.own))
        look_alike, similarity = chunk.look_alikes(certain[here])
        has_one = look_alike >= 0
        usual = similarity[certain[here] & has_one]
        alike = has_one & (similarity >= usual.quantile(LEAST_ALIKE)) if len(usual) else torch.zeros_like(has_one)
        fits = alike & mixture.is_plausible(chunk.losses(torch.where(has_one, look_alike, chunk.own)))
        otherwise = torch.where(plausible[here], chunk.own, -1)
        text_rows = torch.where(certain[here], chunk.own, torch.where(fits, look_alike, otherwise))
        chosen.append(chunk.new(torch.where(text_rows >= 0, chunk.first + text_rows, -1)))
    return torch.cat(chosen)


@dataclass
class Chunk:
    """Rows that are set against each other.

    Attributes:
        embeds: see `texts_of_rows`, [n, projection_dim] each.
        person_ids: [n].
        logit_scale: see `texts_of_rows`.
        first: the place of its first row among all.
        known: how many of its first rows the chunk before has as well.
    """

    embeds: dict[str, Tensor]
    person_ids: Tensor
    logit_scale: float
    first: int = 0
    known: int = 0

    def __post_init__(self) -> None:
        self.same_person = same_label_mask(self.person_ids, self.person_ids)  # [n, n]
        self.own = torch.arange(len(self.person_ids), device=self.person_ids.device)

    def new(self, values: Tensor) -> Tensor:
        """What belongs to rows that the chunk before lacks."""
        return values[self.known :]

    def losses(self, text_rows: Tensor) -> Tensor:
        """How badly texts fit rows: InfoNCE of the image and each of them, and of them and the person's other texts.

        Negatives are the texts of other people.

        Args:
            text_rows: the row whose texts each row is given, [n].

        Returns:
            summed, [n].
        """
        embeds, scale = self.embeds, self.logit_scale
        given = same_label_mask(text_rows, self.own)  # [n, n]
        others = self.same_person & ~given
        pairs = [(embeds[image], embeds[text]) for image, text in _PAIRS if text in embeds]
        losses = [info_nce_of_rows(image, text, scale, given, others) for image, text in pairs]
        relatives = others & ~same_label_mask(self.own, self.own)
        for texts in self._texts():
            similarity = scale * texts[text_rows] @ texts.T  # [n, n]
            strangers = masked_logsumexp(similarity, ~(self.same_person | given))
            # Of the person's texts the nearest count most: people change their clothes.
            deficit = strangers - masked_logsumexp(similarity, relatives)
            losses.append(torch.where(relatives.any(dim=1), F.softplus(deficit), 0.0))
        return torch.stack(losses).sum(dim=0)

    def _texts(self) -> list[Tensor]:
        """What is set against the person's other texts."""
        clothing = self.embeds.get("description_clothing_embeds", self.embeds["caption_clothing_embeds"])
        identity = self.embeds.get("description_identity_embeds")
        return [clothing] if identity is None else [clothing, identity]

    def losses_with_strangers(self) -> Tensor:
        """`losses` of rows that are given another person's texts, [at most n]."""
        strangers = self.own.roll(-(len(self.own) // 2))
        return self.losses(strangers)[self.person_ids != self.person_ids[strangers]]

    def look_alikes(self, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """The candidate of the same person, but not the row itself, whose image wears the most similar clothes.

        Args:
            candidates: which rows are, [n], bool.

        Returns:
            its place in the chunk, -1 where there is none, and the cosine similarity of the two, [n] each.
        """
        images = self.embeds["image_clothing_embeds"]
        possible = self.same_person & candidates & ~same_label_mask(self.own, self.own)
        similarity, nearest = (images @ images.T).masked_fill(~possible, -torch.inf).max(dim=1)
        return torch.where(possible.any(dim=1), nearest, -1), similarity


def _chunks(embeds: Mapping[str, Tensor], person_ids: Tensor, logit_scale: float) -> Iterator[Chunk]:
    for start in range(0, len(person_ids), OTHERS):
        # The last chunk is as long as the others: it reaches back into the one before.
        first = max(0, min(start, len(person_ids) - OTHERS))
        chunk = {name: value[first : first + OTHERS] for name, value in embeds.items()}
        yield Chunk(chunk, person_ids[first : first + OTHERS], logit_scale, first, start - first)


@dataclass
class Mixture:
    """Two normal components of losses: those of rows with right texts, and those with wrong ones.

    Attributes:
        right, wrong: the components.
        share: of wrong texts among the rows.
    """

    right: Normal
    wrong: Normal
    share: Tensor

    @classmethod
    def fit(cls, losses: Tensor, strangers: Tensor) -> "Mixture":
        """By expectation and maximization.

        Args:
            losses: of the rows with their own texts, [N].
            strangers: of rows with texts that are surely wrong, [M].
        """
        losses, strangers = losses.double(), strangers.double()
        lower = losses[losses <= losses.median()]
        found = cls(
            Normal(lower.mean(), losses.std()), Normal(strangers.mean(), strangers.std()), losses.new_tensor(0.5)
        )
        for _ in range(_FIT_STEPS):
            belongs = found.log_odds(losses).sigmoid()  # [N]
            mean = (belongs * losses).sum() / belongs.sum()
            deviation = ((belongs * (losses - mean).square()).sum() / belongs.sum()).sqrt().clamp(min=1e-6)
            found.right, found.share = Normal(mean, deviation), (1 - belongs).mean().clamp(1e-6, 1 - 1e-6)
        return found

    def log_odds(self, losses: Tensor) -> Tensor:
        """That such a loss is one of right texts, of the shape of `losses`."""
        odds = self.right.log_prob(losses) - self.wrong.log_prob(losses)
        return odds + (1 - self.share).log() - self.share.log()

    def is_plausible(self, losses: Tensor, certainty: float = 0.5) -> Tensor:
        """Whether such losses are those of right texts with more than that probability, bool."""
        # The wider component has the larger density far below both: such a loss is still a small one.
        return (self.log_odds(losses.double()) > math.log(certainty / (1 - certainty))) | (losses <= self.right.mean)


class TextChoice:
    """The texts that rows are given in the present epoch.

    Attributes:
        epoch: the last one that began, -1 before the first.
        text_rows: see `choose_texts`; None for each row's own.
    """

    def __init__(self) -> None:
        self.epoch = -1
        self.text_rows: Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        """What an exact resume needs."""
        return {"epoch": self.epoch, "text_rows": self.text_rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict`."""
        self.epoch = state["epoch"]
        self.text_rows = None if state["text_rows"] is None else state["text_rows"].cpu()
