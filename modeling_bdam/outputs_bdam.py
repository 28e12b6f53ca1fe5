"""Output classes of BDAM, and the weighting of identity against clothing in a retrieval score."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

# Default of a field without input, typed as the tensor that a complete batch gives
_NOT_GIVEN: Any = None


def weigh_clothing(vectors: Tensor, clothing_weight: float) -> Tensor:
    """Scales the clothing half of query vectors by β: their dot product with a gallery vector is `s_id + β s_clo`.

    Args:
        vectors: `pooler_output`, [..., 2 * projection_dim].
        clothing_weight: β; 0 for people who may have changed clothes.
    """
    identity, clothing = vectors.chunk(2, dim=-1)
    return torch.cat([identity, clothing_weight * clothing], dim=-1)


@dataclass
class BDAMFeatures(ModelOutput):
    """Embeddings of images or of texts.

    Attributes:
        pooler_output: `identity_embeds` and `clothing_embeds` concatenated, [B, 2 * projection_dim]: the vector that a
            gallery stores. For a query, see `weigh_clothing`.
        identity_embeds: f_final, L2-normalized, [B, projection_dim].
        clothing_embeds: embedding of the clothes, L2-normalized, [B, projection_dim].
        last_hidden_state: the tower's tokens at width D, [B, L, D].
        matching_tokens: gated identity and clothing tokens of images, [B, 2L, D], for `BDAMModel.match`; None of texts,
            whose tokens are `last_hidden_state`, and of a model without a matching head.
        fusion_gate: w, the weights of image and text, [B, 2], where a description was fused into an image.
        hidden_states, attentions: of the tower's layers, with `output_hidden_states` and `output_attentions`.
    """

    pooler_output: Tensor = _NOT_GIVEN
    identity_embeds: Tensor = _NOT_GIVEN
    clothing_embeds: Tensor = _NOT_GIVEN
    last_hidden_state: Tensor = _NOT_GIVEN
    matching_tokens: Tensor | None = None
    fusion_gate: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class BDAMOutput(ModelOutput):
    """All tensors that the losses need; fields of inputs that were not given are None. All embeddings are normalized.

    Attributes:
        loss: unweighted sum of the task losses of this batch, with `return_loss=True`.
        logits_per_image, logits_per_text: scaled scores `s_id + β s_clo`, [images, texts] and its transpose.
        image_embeds, text_embeds: `pooler_output` of the images and of the captions, [B, 2 * projection_dim].
        image_identity_embeds, image_clothing_embeds: of the images without text, [B, projection_dim].
        caption_identity_embeds, caption_clothing_embeds: of the captions (`input_ids`), [B, projection_dim].
        description_identity_embeds, description_clothing_embeds: each of its description, [B, projection_dim].
        fused_identity_embeds: of each image fused with its identity description, [B, projection_dim].
        identity_features, clothing_features: f_id and f_clo, gated, [B, D].
        decoupled_identity, decoupled_clothing: the pair that eq. 2 decorrelates (`BDAMConfig.decouple_on`): these
            features, or the images' embeddings times the root of their width, [B, D] or [B, projection_dim].
        pooled_identity, pooled_clothing: means over tokens before the gate, [B, D]: the shared representation on which
            GradNorm measures gradients.
        adversarial_embeds: the feature of eq. 1, projected to the text width and normalized, [B, text width].
        clothing_text_embeds: f_clo^t, the mean-pooled clothing description, detached, [B, text width].
        gate, fusion_gate: g of BDAM, [B, D], and w of the fusion of image and identity description, [B, 2].
        matching_tokens: see `BDAMFeatures`, [B, 2L, D].
        caption_tokens, caption_mask: of a model with a matching head, [B, T, D] and [B, T].
        logit_scale: 1/τ, a scalar.
        hidden_states: with `output_hidden_states`, the input of BDAM's first layer, then the outputs of the identity
            branch's and of the clothing branch's layers, [B, L, D] each.
        attentions: with `output_attentions` and eager attention, BDAM's cross-attention maps, identity to clothing and
            clothing to identity, [B, heads, L, L] each.
    """

    loss: Tensor = _NOT_GIVEN
    logits_per_image: Tensor = _NOT_GIVEN
    logits_per_text: Tensor = _NOT_GIVEN
    image_embeds: Tensor = _NOT_GIVEN
    text_embeds: Tensor = _NOT_GIVEN
    image_identity_embeds: Tensor = _NOT_GIVEN
    image_clothing_embeds: Tensor = _NOT_GIVEN
    caption_identity_embeds: Tensor = _NOT_GIVEN
    caption_clothing_embeds: Tensor = _NOT_GIVEN
    description_identity_embeds: Tensor = _NOT_GIVEN
    description_clothing_embeds: Tensor = _NOT_GIVEN
    fused_identity_embeds: Tensor = _NOT_GIVEN
    identity_features: Tensor = _NOT_GIVEN
    clothing_features: Tensor = _NOT_GIVEN
    decoupled_identity: Tensor = _NOT_GIVEN
    decoupled_clothing: Tensor = _NOT_GIVEN
    pooled_identity: Tensor = _NOT_GIVEN
    pooled_clothing: Tensor = _NOT_GIVEN
    adversarial_embeds: Tensor = _NOT_GIVEN
    clothing_text_embeds: Tensor = _NOT_GIVEN
    gate: Tensor | None = None
    fusion_gate: Tensor | None = None
    matching_tokens: Tensor = _NOT_GIVEN
    caption_tokens: Tensor = _NOT_GIVEN
    caption_mask: Tensor = _NOT_GIVEN
    logit_scale: Tensor = _NOT_GIVEN
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
