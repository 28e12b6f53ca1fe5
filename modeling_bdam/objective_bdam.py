"""What each task of section 5 is trained on: the losses put to work on a batch of model outputs.

Which text a head is trained against decides what it learns. Trained against images, a caption's identity head picks up
the clothes, which captions mostly speak of, and the split is one by name only. So identity is learnt from identity
descriptions alone, by images and captions alike, and clothing from clothing descriptions and captions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .losses_bdam import adversarial, hsic, info_nce, same_label_mask, same_text_mask, triplet
from .outputs_bdam import BDAMOutput

TASKS = ("info", "triplet", "adversarial", "decouple", "match")
# Who somebody is shows in few pixels: beside clothing, images learn it slowest.
IMAGE_IDENTITY_WEIGHT = 3.0
# Captions are what is searched with, and mostly speak of clothes.
CAPTION_CLOTHING_WEIGHT = 2.0
# The outputs that losses read from the rows of all processes.
COLUMN_FIELDS = (
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
Texts = tuple[Tensor, Tensor]  # token ids [N, T] and their mask [N, T]


@dataclass
class PairLabels:
    """Which rows of this process (N) belong with which rows of all processes (M).

    Attributes:
        person_ids, all_person_ids: the person of each row, [N] and [M].
        offset: row i of this process is row `offset + i` of all.
        same_person: [N, M], bool.
        same_identity: the same person, or identity descriptions that read the same, [N, M].
        same_clothing: the row itself, or clothing descriptions that read the same, [N, M].
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
        """Compares persons [N] with [M], and the descriptions of this process's rows with those of all, if given."""
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
        """The same person under another clothing description: other clothes, or the same in other words, [N, M]."""
        return self.same_person & ~self.same_clothing


def task_losses(rows: BDAMOutput, columns: BDAMOutput, labels: PairLabels, margin: float = 0.3) -> dict[str, Tensor]:
    """The loss of each task that the batch allows, unweighted, in the order of `TASKS`.

    Args:
        rows: outputs of this process's N rows.
        columns: outputs of the M rows of all processes; `rows` itself where there is one process.
        labels: which of them belong together.
        margin: m of eq. 4.

    Returns:
        scalars by task. Without descriptions there are captions alone: both their heads are trained against the
        images, and the tasks that need a clothing description are missing.
    """
    losses = {"info": _info(rows, columns, labels)}
    losses["triplet"] = triplet(
        rows.image_identity_embeds,
        columns.image_identity_embeds,
        labels.person_ids,
        labels.all_person_ids,
        margin,
        labels.offset,
    )
    if rows.clothing_text_embeds is not None:
        losses["adversarial"] = adversarial(
            rows.adversarial_embeds, columns.clothing_text_embeds, rows.logit_scale.detach(), labels.same_clothing
        )
    losses["decouple"] = hsic(columns.decoupled_identity, columns.decoupled_clothing)
    if rows.description_clothing_embeds is not None:
        losses["match"] = both_directions(
            rows,
            columns,
            "image_clothing_embeds",
            "description_clothing_embeds",
            labels.same_clothing,
            labels.unknown_clothing,
        )
    return losses


def batch_loss(
    output: BDAMOutput, person_ids: Tensor | None, identity_texts: Texts | None, clothing_texts: Texts | None
) -> Tensor:
    """Sum of the task losses of one batch, each weighing 1.

    Args:
        output: of B rows.
        person_ids: [B]; by default every row is another person.
        identity_texts, clothing_texts: the descriptions' token ids and masks, [B, T] each.

    Returns:
        scalar.
    """
    if person_ids is None:
        person_ids = torch.arange(len(output.image_embeds), device=output.image_embeds.device)
    labels = PairLabels.of_rows(person_ids, person_ids, 0, _twice(identity_texts), _twice(clothing_texts))
    return torch.stack(list(task_losses(output, output, labels).values())).sum()


def _info(rows: BDAMOutput, columns: BDAMOutput, labels: PairLabels) -> Tensor:
    """Task `info`: the sum of its terms, as many as the batch's texts allow."""
    clothing = (labels.same_clothing, labels.unknown_clothing)
    image_clothing = both_directions(rows, columns, "image_clothing_embeds", "caption_clothing_embeds", *clothing)
    terms = [CAPTION_CLOTHING_WEIGHT * image_clothing]
    if rows.description_identity_embeds is None:  # captions are all there is to learn identity from
        terms.append(both_directions(rows, columns, "image_identity_embeds", "caption_identity_embeds", *clothing))
        return torch.stack(terms).sum()
    identity = labels.same_identity
    image_identity = both_directions(rows, columns, "image_identity_embeds", "description_identity_embeds", identity)
    terms.append(IMAGE_IDENTITY_WEIGHT * image_identity)
    terms.append(both_directions(rows, columns, "caption_identity_embeds", "description_identity_embeds", identity))
    terms.append(both_directions(rows, columns, "caption_clothing_embeds", "description_clothing_embeds", *clothing))
    terms.append(one_direction(rows, columns, "fused_identity_embeds", "caption_identity_embeds", identity))
    return torch.stack(terms).sum()


def both_directions(
    rows: BDAMOutput, columns: BDAMOutput, first: str, second: str, positives: Tensor, ignored: Tensor | None = None
) -> Tensor:
    """InfoNCE of two fields of the outputs in both directions, averaged."""
    forth = info_nce(rows[first], columns[second], rows.logit_scale, positives, ignored)
    back = info_nce(rows[second], columns[first], rows.logit_scale, positives, ignored)
    return (forth + back) / 2


def one_direction(rows: BDAMOutput, columns: BDAMOutput, query: str, target: str, positives: Tensor) -> Tensor:
    """InfoNCE towards a field that is a fixed target: no gradient goes into it."""
    return info_nce(rows[query], columns[target].detach(), rows.logit_scale, positives)


def _twice(texts: Texts | None) -> tuple[Texts, Texts] | None:
    return None if texts is None else (texts, texts)
