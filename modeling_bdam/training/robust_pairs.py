"""Noisy correspondence: finds rows with probably wrong texts and replaces the texts, or leaves the rows out.

Networks fit the majority of correct pairs first, so wrong pairs keep a high loss, and a two-component mixture over the
losses separates the two (Li et al., "DivideMix", ICLR 2020; Qin et al., "Noisy-Correspondence Learning", CVPR 2024).
Three parts differ from these papers:

1. The loss also compares a text with the other texts of the same person: text features are useful earlier than images.
2. The component of wrong texts is measured on rows that are given texts of another person. A mixture that fits both
   components freely finds a third of the rows wrong on a data set without wrong texts.
3. An image is not dropped with its texts: it gets the texts of the image of the same person in the most similar clothes
   (its look-alike), where they fit.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
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
from .collation import Collator
from .sampler import KeyedDataset

MIN_LOSSES = 256  # with fewer losses each row keeps its own texts
OTHERS = 512  # number of rows that a row is compared with
CERTAINTY = 0.9  # probability of correct texts above which a row keeps them
LEAST_ALIKE = 0.25  # quantile of the similarities between certain rows and their look-alikes, as a lower bound
_FIT_STEPS = 100
# Field pairs: their InfoNCE is large where the text is wrong.
_PAIRS = (
    ("image_identity_embeds", "description_identity_embeds"),
    ("image_clothing_embeds", "description_clothing_embeds"),
    ("image_clothing_embeds", "caption_clothing_embeds"),
)


@dataclass
class RowEncoder:
    """Computes outputs of a model for all training rows, divided over all processes and gathered.

    Attributes:
        model, batch_size, accelerator, num_workers: see `encode_split`.
        collator: rows to a training batch, without augmentation where a row has no seed.
    """

    model: BDAMModel
    collator: Collator
    batch_size: int
    accelerator: Accelerator
    num_workers: int = 0

    def __call__(self, rows: Any, order: np.ndarray, fields: Sequence[str]) -> tuple[dict[str, Tensor], Tensor, float]:
        """Encodes rows of the common schema.

        Args:
            order: of the rows, [N].
            fields: of `BDAMOutput`; those that the model does not return are left out.

        Returns:
            the fields and the person ids in this order, [N, ...] each, on the CPU, and 1/τ.
        """
        shuffled = Subset(KeyedDataset(rows), order.tolist())
        loader = DataLoader(shuffled, self.batch_size, collate_fn=self.collator, num_workers=self.num_workers)
        parts: dict[str, list[Tensor]] = {}
        was_training = self.model.training
        self.model.eval()
        for batch in self.accelerator.prepare(loader):
            found = {"person_ids": batch.pop("person_ids")}
            with torch.no_grad(), self.accelerator.autocast():
                output = self.model(**batch)
                logit_scale = float(output.logit_scale.squeeze())
            found |= {name: output[name].float() for name in fields if output.get(name) is not None}
            for name, value in self.accelerator.gather_for_metrics(found).items():
                parts.setdefault(name, []).append(value.cpu())
        self.model.train(was_training)
        whole = {name: torch.cat(values) for name, values in parts.items()}
        return whole, whole.pop("person_ids"), logit_scale


def choose_texts(encoder: RowEncoder, rows: Any, borrow: bool = True) -> Tensor:
    """Chooses the texts of each training row by the losses of the model: an index of the row that they belong to.

    Args:
        encoder: of the model; the result does not depend on the number of its processes.
        rows: training rows of the common schema, all with or all without descriptions.
        borrow: see `texts_of_rows`, also for the result, which is on the CPU.
    """
    # Order: people shuffled, the images of a person adjacent, so that a chunk holds whole people
    people, numbers = np.unique(rows["person_id"], return_inverse=True)
    order = np.argsort(np.random.default_rng(0).permutation(len(people))[numbers], kind="stable")
    encoded = encoder(rows, order, sorted({name for pair in _PAIRS for name in pair}))

    # Choice in the shuffled order, mapped back to the order of the rows
    chosen = texts_of_rows(*encoded, borrow)
    own = torch.from_numpy(order)
    text_rows = torch.empty_like(own)
    text_rows[own] = torch.where(chosen >= 0, own[chosen], -1)
    return text_rows


def texts_of_rows(embeds: Mapping[str, Tensor], person_ids: Tensor, logit_scale: float, borrow: bool = True) -> Tensor:
    """Chooses for each row its own texts, those of its look-alike, or none.

    1. Its own texts, if they are certain (probability above `CERTAINTY`).
    2. Otherwise the texts of its look-alike, if they are plausible for the row (probability above 1/2). The look-alike
       is the row of the same person with certain texts and the nearest clothing embedding; its similarity must reach
       the `LEAST_ALIKE` quantile of that of certain rows.
    3. Otherwise its own texts, if they are plausible.
    4. Otherwise none.

    Args:
        embeds: fields of `BDAMOutput`, [N, projection_dim] each; fields of descriptions may be missing.
        person_ids: [N], sorted so that the rows of a person are adjacent.
        logit_scale: the multiplier 1/temperature, not its logarithm.
        borrow: False keeps certain texts only (step 1), for the early training in which image features do not separate
            clothes yet and a few wrong texts do more harm than many left out.

    Returns:
        row indices, [N]; -1 for none; each row's own index if there are fewer than `MIN_LOSSES` losses.
    """
    # Losses of the rows with their own texts, and with texts of another person
    chunks = list(_chunks(embeds, person_ids, logit_scale))
    losses = torch.cat([chunk.new(chunk.losses(chunk.own)) for chunk in chunks])
    strangers = torch.cat([chunk.losses_with_strangers() for chunk in chunks])
    if min(len(losses), len(strangers)) < MIN_LOSSES:
        return torch.arange(len(losses))

    # Probability of correct texts
    mixture = Mixture.fit(losses, strangers)
    certain = mixture.is_plausible(losses, CERTAINTY)
    if not borrow:
        return torch.where(certain, torch.arange(len(losses)), -1)
    plausible = mixture.is_plausible(losses)

    # Texts of look-alikes for rows that are not certain
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
    """A block of rows that are compared with each other.

    Attributes:
        embeds, person_ids, logit_scale: see `texts_of_rows`; n rows.
        first: index of its first row among all rows.
        known: number of its first rows that the previous chunk contains as well.
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
        """Returns the values of the rows that the previous chunk does not contain."""
        return values[self.known :]

    def losses(self, text_rows: Tensor) -> Tensor:
        """Computes the loss of each row with the texts of another row, [n].

        The loss is the sum of InfoNCE between image and texts, and between the texts and the other texts of the same
        person. Negatives are the texts of other people.

        Args:
            text_rows: index of the row that supplies the texts of each row, [n].
        """
        embeds, scale = self.embeds, self.logit_scale
        given = same_label_mask(text_rows, self.own)  # [n, n]
        others = self.same_person & ~given
        # Image against texts
        pairs = [(embeds[image], embeds[text]) for image, text in _PAIRS if text in embeds]
        losses = [info_nce_of_rows(image, text, scale, given, others) for image, text in pairs]  # [n] each

        # Texts against the other texts of the person
        relatives = others & ~same_label_mask(self.own, self.own)  # [n, n]
        for texts in self._texts():
            similarity = scale * texts[text_rows] @ texts.T  # [n, n]
            strangers = masked_logsumexp(similarity, ~(self.same_person | given))  # [n]
            # logsumexp, dominated by the nearest text of the person, since people change clothes
            deficit = strangers - masked_logsumexp(similarity, relatives)
            losses.append(torch.where(relatives.any(dim=1), F.softplus(deficit), 0.0))
        return torch.stack(losses).sum(dim=0)

    def _texts(self) -> list[Tensor]:
        """Text embeddings that are compared with the other texts of the person, [n, projection_dim] each."""
        clothing = self.embeds.get("description_clothing_embeds", self.embeds["caption_clothing_embeds"])
        identity = self.embeds.get("description_identity_embeds")
        return [clothing] if identity is None else [clothing, identity]

    def losses_with_strangers(self) -> Tensor:
        """Computes `losses` of rows that are given the texts of another person, [at most n]."""
        strangers = self.own.roll(-(len(self.own) // 2))
        return self.losses(strangers)[self.person_ids != self.person_ids[strangers]]

    def look_alikes(self, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Finds for each row the other candidate of the same person with the nearest image clothing embedding.

        Args:
            candidates: bool, [n].

        Returns:
            its index in the chunk, -1 where there is none, and the cosine similarity of the two images, [n] each.
        """
        images = self.embeds["image_clothing_embeds"]  # [n, projection_dim]
        possible = self.same_person & candidates & ~same_label_mask(self.own, self.own)
        similarity, nearest = (images @ images.T).masked_fill(~possible, -torch.inf).max(dim=1)
        return torch.where(possible.any(dim=1), nearest, -1), similarity


def _chunks(embeds: Mapping[str, Tensor], person_ids: Tensor, logit_scale: float) -> Iterator[Chunk]:
    for start in range(0, len(person_ids), OTHERS):
        # The last chunk overlaps the previous one, so that all chunks have the same length
        first = max(0, min(start, len(person_ids) - OTHERS))
        chunk = {name: value[first : first + OTHERS] for name, value in embeds.items()}
        yield Chunk(chunk, person_ids[first : first + OTHERS], logit_scale, first, start - first)


@dataclass
class Mixture:
    """Mixture of two normal distributions of losses: rows with correct texts and rows with wrong texts.

    Attributes:
        right, wrong: the components.
        share: share of rows with wrong texts.
    """

    right: Normal
    wrong: Normal
    share: Tensor

    @classmethod
    def fit(cls, losses: Tensor, strangers: Tensor) -> "Mixture":
        """Fits the component of correct texts and the share by expectation-maximization.

        Args:
            losses: losses of the rows with their own texts, [N].
            strangers: losses of rows with texts of another person, [M]; they define the other component.
        """
        losses, strangers = losses.double(), strangers.double()
        lower = losses[losses <= losses.median()]
        right, wrong = Normal(lower.mean(), losses.std()), Normal(strangers.mean(), strangers.std())
        found = cls(right, wrong, share=losses.new_tensor(0.5))
        for _ in range(_FIT_STEPS):
            belongs = found.log_odds(losses).sigmoid()  # [N]
            mean = (belongs * losses).sum() / belongs.sum()
            deviation = ((belongs * (losses - mean).square()).sum() / belongs.sum()).sqrt().clamp(min=1e-6)
            found.right, found.share = Normal(mean, deviation), (1 - belongs).mean().clamp(1e-6, 1 - 1e-6)
        return found

    def log_odds(self, losses: Tensor) -> Tensor:
        """Log odds that a loss belongs to correct texts; same shape as `losses`."""
        odds = self.right.log_prob(losses) - self.wrong.log_prob(losses)
        return odds + (1 - self.share).log() - self.share.log()

    def is_plausible(self, losses: Tensor, certainty: float = 0.5) -> Tensor:
        """Returns whether losses belong to correct texts with more than that probability, bool."""
        # Far below both means the wider component has the larger density, although the loss is small
        return (self.log_odds(losses.double()) > math.log(certainty / (1 - certainty))) | (losses <= self.right.mean)
