"""The training objective: applies the losses of `losses_bdam` to a batch of model outputs, one loss per task.

The text that a head is trained against decides its content. Captions mostly describe clothes, so an identity head
trained on image-caption pairs would encode clothing. Therefore the identity heads of images and captions are trained
against identity descriptions, and clothing heads against clothing descriptions and captions.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .losses_bdam import adversarial, hsic, info_nce, same_label_mask, same_text_mask, triplet
from .outputs_bdam import BDAMOutput

TASKS = ("info", "triplet", "adversarial", "decouple", "match")
IMAGE_IDENTITY_WEIGHT = 3.0  # identity cues cover few pixels and converge slowest
CAPTION_CLOTHING_WEIGHT = 2.0  # captions are the queries of a search, and mostly describe clothes
# The outputs that the losses read from the all-gathered batch
GATHERED_FIELDS = (
    "image_identity_embeds",
    "image_clothing_embeds",
    "caption_identity_embeds",
    "caption_clothing_embeds",
    "description_identity_embeds",
    "description_clothing_embeds",
    "fused_identity_embeds",
    "decoupled_identity",
    "decoupled_clothing",
    "clothing_text_embeds",
    "gate",
    "fusion_gate",
)
Texts = tuple[Tensor, Tensor]  # token ids [N, T] and attention mask [N, T]


@dataclass
class PairLabels:
    """Positive pairs between the local batch (N rows) and the all-gathered batch (M rows).

    Attributes:
        person_ids, all_person_ids: person of each row, [N] and [M].
        offset: local row i is gathered row `offset + i`.
        same_person: [N, M], bool.
        same_identity: the same person, or equal identity descriptions, [N, M].
        same_clothing: the row itself, or equal clothing descriptions, [N, M].
    """

    person_ids: Tensor
    all_person_ids: Tensor
    offset: int
    same_person: Tensor
    same_identity: Tensor
    same_clothing: Tensor

    @classmethod
    def of_rows(
        cls,
        person_ids: Tensor,
        all_person_ids: Tensor,
        offset: int = 0,
        identity_texts: tuple[Texts, Texts] | None = None,
        clothing_texts: tuple[Texts, Texts] | None = None,
    ) -> "PairLabels":
        """Compares persons [N] with [M], and the local with the gathered descriptions if given."""
        same_person = same_label_mask(person_ids, all_person_ids)
        rows = torch.arange(offset, offset + len(person_ids), device=person_ids.device)
        itself = same_label_mask(rows, torch.arange(len(all_person_ids), device=person_ids.device))
        same_identity, same_clothing = same_person, itself
        if identity_texts is not None:
            same_identity = same_person | same_text_mask(*identity_texts[0], *identity_texts[1])
        if clothing_texts is not None:
            same_clothing = itself | same_text_mask(*clothing_texts[0], *clothing_texts[1])
        return cls(person_ids, all_person_ids, offset, same_person, same_identity, same_clothing)

    @property
    def unknown_clothing(self) -> Tensor:
        """The same person with another clothing description: other clothes, or a paraphrase; ignored pairs, [N, M]."""
        return self.same_person & ~self.same_clothing


def task_losses(local: BDAMOutput, gathered: BDAMOutput, labels: PairLabels, margin: float = 0.3) -> dict[str, Tensor]:
    """Computes the unweighted loss of each task for which the batch has inputs, in the order of `TASKS`.

    Args:
        local: outputs of this rank's N rows.
        gathered: outputs of the M rows of all ranks; `local` in a single process.
        labels: the positive pairs between them.
        margin: m of eq. 4.

    Returns:
        scalars by task. Without descriptions, both heads of the captions are trained against the images, and the tasks
        that need a clothing description are missing.
    """
    losses = {"info": _info(local, gathered, labels)}
    images, all_images = local.image_identity_embeds, gathered.image_identity_embeds
    losses["triplet"] = triplet(images, all_images, labels.person_ids, labels.all_person_ids, margin, labels.offset)
    if local.clothing_text_embeds is not None:
        losses["adversarial"] = adversarial(
            local.adversarial_embeds, gathered.clothing_text_embeds, local.logit_scale.detach(), labels.same_clothing
        )
    losses["decouple"] = hsic(gathered.decoupled_identity, gathered.decoupled_clothing)
    if local.description_clothing_embeds is not None:
        fields = "image_clothing_embeds", "description_clothing_embeds"
        losses["match"] = both_directions(local, gathered, *fields, labels.same_clothing, labels.unknown_clothing)
    return losses


def batch_loss(
    output: BDAMOutput, person_ids: Tensor | None, identity_texts: Texts | None, clothing_texts: Texts | None
) -> Tensor:
    """Sums the unweighted task losses of one batch of B rows in a single process.

    Args:
        output: of all B rows.
        person_ids: [B]; by default each row is another person.
        identity_texts, clothing_texts: token ids and masks of the descriptions, [B, T] each.
    """
    if person_ids is None:
        person_ids = torch.arange(len(output.image_embeds), device=output.image_embeds.device)
    pairs = [None if texts is None else (texts, texts) for texts in (identity_texts, clothing_texts)]
    labels = PairLabels.of_rows(person_ids, person_ids, 0, *pairs)
    return torch.stack(list(task_losses(output, output, labels).values())).sum()


def _info(local: BDAMOutput, gathered: BDAMOutput, labels: PairLabels) -> Tensor:
    """Sums the contrastive terms of task `info` for which the batch has texts."""
    contrast = partial(both_directions, local, gathered)
    identity = labels.same_identity
    clothing = (labels.same_clothing, labels.unknown_clothing)
    terms = [CAPTION_CLOTHING_WEIGHT * contrast("image_clothing_embeds", "caption_clothing_embeds", *clothing)]
    if local.description_identity_embeds is None:  # captions are the only texts to learn identity from
        terms.append(contrast("image_identity_embeds", "caption_identity_embeds", *clothing))
        return torch.stack(terms).sum()
    image_identity = contrast("image_identity_embeds", "description_identity_embeds", identity)
    # The caption is a fixed target of the fused image: no gradient flows into it.
    captions = gathered.caption_identity_embeds.detach()
    terms += [
        IMAGE_IDENTITY_WEIGHT * image_identity,
        contrast("caption_identity_embeds", "description_identity_embeds", identity),
        contrast("caption_clothing_embeds", "description_clothing_embeds", *clothing),
        info_nce(local.fused_identity_embeds, captions, local.logit_scale, identity),
    ]
    return torch.stack(terms).sum()


def both_directions(
    local: BDAMOutput, gathered: BDAMOutput, first: str, second: str, positives: Tensor, ignored: Tensor | None = None
) -> Tensor:
    """Averages InfoNCE between two fields of the outputs over both directions."""
    forward = info_nce(local[first], gathered[second], local.logit_scale, positives, ignored)
    backward = info_nce(local[second], gathered[first], local.logit_scale, positives, ignored)
    return (forward + backward) / 2
