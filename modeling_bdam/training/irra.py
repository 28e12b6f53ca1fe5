"""IRRA: similarity distribution matching, identity classification and masked language modeling with image tokens.

Jiang and Ye, "Cross-Modal Implicit Relation Reasoning and Aligning for Text-to-Image Person Retrieval" (CVPR 2023),
with the settings of https://github.com/anosorae/IRRA: τ 0.02, all three losses with weight 1, four layers after the
cross-attention, heads of 64 dimensions. It is trained by Adam with learning rate 1e-5, five times that for the heads,
weight decay 4e-5, 60 epochs over caption pairs in batches of 64, five of them warm-up, then a cosine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import QuickGELUActivation

from ..losses_bdam import SDM_TEMPERATURE, full_precision, sdm_of_rows
from ..modeling_bdam import BDAMModel
from ..outputs_bdam import BDAMOutput
from .dual_encoder import DualEncoder, DualEncoderObjective, Vocabulary
from .objective import PairedOutputs

MASKED_SHARE = 0.15
DEPTH = 4
HEAD_WIDTH = 64


@dataclass
class IRRAOutput(BDAMOutput):
    """Adds the losses that depend on rows of one process only.

    Attributes:
        classification, masked_language: scalars.
    """

    classification: Tensor | None = None
    masked_language: Tensor | None = None


class IRRA(DualEncoder):
    """A dual encoder with IRRA's heads: a classifier of the training people, and a decoder of masked captions."""

    extra_inputs = ("person_ids",)

    def __init__(self, model: BDAMModel, people: Sequence[int] = (), tokenizer: Any = None) -> None:
        super().__init__(model, people, tokenizer)
        width = self.config.projection_dim
        self.vocabulary = Vocabulary.of(tokenizer, self.text_model.config.vocab_size)
        known = torch.tensor(sorted(set(people)), dtype=torch.int64)
        self.people: Tensor
        self.register_buffer("people", known.to(self.logit_scale.device), persistent=False)
        if len(people):
            classifier = nn.Linear(width, len(known))
            nn.init.normal_(classifier.weight, std=0.001)
            nn.init.zeros_(classifier.bias)
            self.heads["classifier"] = classifier
            self.heads["decoder"] = CaptionDecoder(width, self.vocabulary.size)
            self.heads.to(self.logit_scale.device)

    def forward(self, *args: Any, person_ids: Tensor | None = None, **inputs: Any) -> Any:
        """Embeds images and captions; with `person_ids` [B] also computes the losses of the heads."""
        if person_ids is None:
            return super().forward(*args, **inputs)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        images, captions = self.encode_images(inputs["pixel_values"]), self.encode_texts(ids, mask)
        numbers = torch.searchsorted(self.people, person_ids)
        scores = self.heads["classifier"](images.pooled), self.heads["classifier"](captions.pooled)  # [B, people]
        masked, chosen = mask_tokens(ids, mask, self.vocabulary)
        decoded = self.heads["decoder"](self.encode_texts(masked, mask).tokens, mask, images.tokens, chosen)
        return IRRAOutput(
            image_identity_embeds=F.normalize(images.pooled, dim=-1),
            caption_identity_embeds=F.normalize(captions.pooled, dim=-1),
            logit_scale=self.temperature_scale().detach(),
            classification=identity_loss(*scores, numbers),
            masked_language=F.cross_entropy(full_precision(decoded), ids[chosen]),
        )


class CaptionDecoder(nn.Module):
    """Predicts masked tokens of a caption from its other tokens and the tokens of its image.

    Args:
        width: P, of the tokens.
        vocabulary: number of token ids.
    """

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        heads = max(1, width // HEAD_WIDTH)
        self.text_norm, self.image_norm, self.last_norm = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.cross_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation=QuickGELUActivation(), batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, DEPTH, enable_nested_tensor=False)
        self.dense, self.dense_norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.activation = QuickGELUActivation()
        self.vocabulary = nn.Linear(width, vocabulary)
        # Standard deviations of CLIP's own initialization
        inner, outer = width**-0.5, width**-0.5 * (2 * DEPTH) ** -0.5
        stds = {"in_proj_weight": inner, "out_proj.weight": outer, "linear2.weight": outer, "vocabulary.weight": outer}
        stds |= {"linear1.weight": (2 * width) ** -0.5, "dense.weight": (2 * width) ** -0.5}
        for name, parameter in self.named_parameters():
            for end in (end for end in stds if name.endswith(end)):
                nn.init.normal_(parameter, std=stds[end])

    def forward(self, texts: Tensor, mask: Tensor, images: Tensor, chosen: Tensor) -> Tensor:
        """Returns the scores of the vocabulary at the tokens `chosen`, [chosen tokens, vocabulary].

        Args:
            texts, images: tokens, [B, T, P] and [B, L, P].
            mask: [B, T], 1 for a token; IRRA's texts have a fixed length, and it attends to their padding as well.
            chosen: bool, [B, T].
        """
        queries, keys = self.text_norm(texts), self.image_norm(images)
        hidden, _ = self.cross_attention(queries, keys, keys, need_weights=False)  # [B, T, P]
        hidden = self.last_norm(self.layers(hidden, src_key_padding_mask=mask == 0))[chosen]
        return self.vocabulary(self.dense_norm(self.activation(self.dense(hidden))))


def mask_tokens(ids: Tensor, mask: Tensor, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
    """Chooses 15 % of the words of texts [B, T] as BERT does: 80 % are masked, 10 % replaced at random, 10 % kept.

    The first word of a text is masked if none was chosen.

    Returns:
        the changed ids, and which tokens are to be predicted, [B, T] each.
    """
    special = torch.isin(ids, torch.tensor(vocabulary.special, dtype=ids.dtype, device=ids.device))
    words = (mask > 0) & ~special
    chosen = words & (torch.rand(ids.shape, device=ids.device) < MASKED_SHARE)
    first = F.one_hot(words.int().argmax(dim=1), ids.shape[1]).bool()
    forced = words & first & ~chosen.any(dim=1, keepdim=True)
    fate = torch.rand(ids.shape, device=ids.device)
    masked = (chosen & (fate < 0.8)) | forced
    replaced = chosen & (fate >= 0.8) & (fate < 0.9)
    changed = torch.where(replaced, torch.randint_like(ids, vocabulary.size), ids)
    return changed.masked_fill(masked, vocabulary.mask), chosen | forced


def identity_loss(image_scores: Tensor, caption_scores: Tensor, numbers: Tensor) -> Tensor:
    """Averages the cross-entropy of the scores of images and of captions, [B, people] each, over both.

    Args:
        numbers: number of the person of each row, [B].
    """
    losses = [F.cross_entropy(full_precision(scores), numbers) for scores in (image_scores, caption_scores)]
    return (losses[0] + losses[1]) / 2


class IRRAObjective(DualEncoderObjective):
    """SDM at τ 0.02, both directions added, with the losses of the heads."""

    encoder = IRRA

    def losses(self, model: Any, batch: PairedOutputs) -> dict[str, Tensor]:
        positives = batch.labels.same_person
        sdm = [sdm_of_rows(*pair, 1 / SDM_TEMPERATURE, positives).mean() for pair in batch.directions()]
        return {"sdm": sdm[0] + sdm[1], "id": batch.local.classification, "mlm": batch.local.masked_language}


__all__ = ["IRRA", "CaptionDecoder", "IRRAObjective", "identity_loss", "mask_tokens"]
