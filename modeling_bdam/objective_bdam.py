"""The training objective: applies the losses of `losses_bdam` to a batch of model outputs, one loss per task.

The text that a head is trained against decides its content. Captions mostly describe clothes, so an identity head
trained on image-caption pairs would encode clothing. Therefore the identity heads of images and captions are trained
against identity descriptions, and clothing heads against clothing descriptions and captions.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .configuration_bdam import BDAMConfig
from .losses_bdam import adversarial, hsic, pair_loss_of_rows, same_label_mask, same_text_mask, triplet
from .outputs_bdam import BDAMOutput

TASKS = ("info", "triplet", "adversarial", "decouple", "match")
MATCHING = "matching"  # one more task of a model with a matching head
INFO_WEIGHTS = {
    "image_identity": 3.0,  # image and identity description: identity cues cover few pixels and converge slowest
    "caption_identity": 1.0,  # caption and identity description
    "caption_image_identity": 2.0,  # caption and image, without a gradient of the image
    "image_caption_clothing": 2.0,  # captions are the queries of a search, and mostly describe clothes
    "caption_clothing": 1.0,  # caption and clothing description
    "fused_identity": 1.0,  # image fused with its identity description, and caption
    "score": 0.0,  # caption and image on the score of a search, both halves as one embedding
}
"""Weights of the contrastive terms of the task `info`; `BDAMConfig.info_weights` overrides them, 0 leaves one out."""
JOINT_SPACE_FIELDS: dict[str, Any] = {
    "decouple_on": "features",  # both embeddings begin as one vector, whose HSIC falls fastest if it becomes constant
    "info_weights": {"score": 5.0},  # the score ranks well from the first step on, so that it can be trained itself
}
"""Fields of `BDAMConfig` for towers with a joint space."""
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
    "image_embeds",
    "text_embeds",
    "matching_tokens",
    "caption_tokens",
    "caption_mask",
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


def task_losses(
    local: BDAMOutput,
    gathered: BDAMOutput,
    labels: PairLabels,
    config: BDAMConfig,
    margin: float = 0.3,
    pair_loss: str = "info_nce",
) -> dict[str, Tensor]:
    """Computes the unweighted loss of each task for which the batch has inputs, in the order of `TASKS`.

    Args:
        local: outputs of this rank's N rows.
        gathered: outputs of the M rows of all ranks; `local` in a single process.
        labels: the positive pairs between them.
        config: of the model; `decouple_gradient`, `decouple_estimator` and `info_weights`.
        margin: m of eq. 4.
        pair_loss: loss of the contrastive terms, see `pair_loss_of_rows`.

    Returns:
        scalars by task. Without descriptions there is nothing to decouple: `info` trains the score of a search on the
        captions, both halves as one embedding, and only `triplet` is added.
    """
    images, all_images = local.image_identity_embeds, gathered.image_identity_embeds
    people = labels.person_ids, labels.all_person_ids
    apart = triplet(images, all_images, *people, margin, labels.offset)
    if local.description_identity_embeds is None:
        return {"info": _joint_info(local, gathered, labels, config.clothing_weight, pair_loss), "triplet": apart}

    terms = _contrasts(local, gathered, labels, pair_loss)
    weights = INFO_WEIGHTS | (config.info_weights or {})
    if weights["score"]:
        terms["score"] = _joint_info(local, gathered, labels, config.clothing_weight, pair_loss)
    clothing = gathered.decoupled_clothing
    clothing = clothing.detach() if config.decouple_gradient == "identity" else clothing
    return {
        "info": torch.stack([weight * terms[name] for name, weight in weights.items() if name in terms]).sum(),
        "triplet": apart,
        "adversarial": adversarial(
            local.adversarial_embeds, gathered.clothing_text_embeds, local.logit_scale.detach(), labels.same_clothing
        ),
        "decouple": hsic(gathered.decoupled_identity, clothing, config.decouple_estimator),
        "match": terms["match"],
    }


def batch_loss(
    output: BDAMOutput, config: BDAMConfig, person_ids: Tensor | None, descriptions: tuple[Texts, Texts] | None
) -> Tensor:
    """Sums the unweighted task losses of one batch of B rows in a single process.

    Args:
        output: of all B rows.
        config: of the model.
        person_ids: [B]; by default each row is another person.
        descriptions: token ids and masks of the identity and of the clothing descriptions, [B, T] each.
    """
    if person_ids is None:
        person_ids = torch.arange(len(output.image_embeds), device=output.image_embeds.device)
    pairs = [] if descriptions is None else [(texts, texts) for texts in descriptions]
    labels = PairLabels.of_rows(person_ids, person_ids, 0, *pairs)
    return torch.stack(list(task_losses(output, output, labels, config).values())).sum()


def _contrasts(local: BDAMOutput, gathered: BDAMOutput, labels: PairLabels, pair_loss: str) -> dict[str, Tensor]:
    """Computes every contrastive term of a described batch, averaged over both directions, in one pass."""
    identity = (labels.same_identity, torch.zeros_like(labels.same_identity))
    clothing = (labels.same_clothing, labels.unknown_clothing)
    pairs = {
        "image_identity": ("image_identity_embeds", "description_identity_embeds", *identity),
        "caption_identity": ("caption_identity_embeds", "description_identity_embeds", *identity),
        "image_caption_clothing": ("image_clothing_embeds", "caption_clothing_embeds", *clothing),
        "caption_clothing": ("caption_clothing_embeds", "description_clothing_embeds", *clothing),
        "match": ("image_clothing_embeds", "description_clothing_embeds", *clothing),
    }
    directed = [(local[x], gathered[y], *masks) for a, b, *masks in pairs.values() for x, y in ((a, b), (b, a))]
    # The image is a fixed target of the caption: captions name clothes, which its identity must not learn
    captions, images = "caption_identity_embeds", "image_identity_embeds"
    directed.append((local[captions], gathered[images].detach(), *identity))
    directed.append((local[images].detach(), gathered[captions], *identity))
    # The caption is a fixed target of the fused image
    directed.append((local.fused_identity_embeds, gathered.caption_identity_embeds.detach(), *identity))
    queries, keys, positives, ignored = (torch.stack(part) for part in zip(*directed, strict=True))  # [T, ...] each
    losses = pair_loss_of_rows(pair_loss, queries, keys, local.logit_scale, positives, ignored).mean(dim=1)  # [T]
    names = (*pairs, "caption_image_identity")
    return dict(zip(names, losses[:-1].view(-1, 2).mean(dim=1), strict=True)) | {"fused_identity": losses[-1]}


def _joint_info(local: BDAMOutput, gathered: BDAMOutput, labels: PairLabels, beta: float, pair_loss: str) -> Tensor:
    """The pair loss between images and captions on their score `s_id + β s_clo`, divided by its maximum 1 + β."""

    def vectors(output: BDAMOutput, kind: str) -> Tensor:
        halves = [output[f"{kind}_identity_embeds"], beta**0.5 * output[f"{kind}_clothing_embeds"]]
        return torch.cat(halves, dim=-1) / (1 + beta) ** 0.5  # [N, 2 * projection_dim], unit length

    kinds = ("image", "caption"), ("caption", "image")
    pairs = (labels.same_clothing, labels.unknown_clothing)
    embeds = ((vectors(local, a), vectors(gathered, b)) for a, b in kinds)
    losses = [pair_loss_of_rows(pair_loss, *sides, local.logit_scale, *pairs) for sides in embeds]  # [N] each
    return torch.stack(losses).mean()
