"""What BDAM returns: embeddings of one side, and everything the losses need."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.utils import ModelOutput

# None, where an input was missing; typed as what a whole batch gives. What an ablation may leave out says so itself.
_NOT_GIVEN: Any = None


@dataclass
class BDAMFeatures(ModelOutput):
    """Embeddings of one side, images or texts.

    Attributes:
        pooler_output: `identity_embeds` and `clothing_embeds` side by side, [B, 2 * projection_dim]: the vector that a
            gallery stores. A query scales its clothing half by β.
        identity_embeds: f_final, L2-normalized, [B, projection_dim].
        clothing_embeds: what the person wears, L2-normalized, [B, projection_dim].
        last_hidden_state: the tower's tokens at width D, [B, L, D].
        fusion_gate: w of image and text [B, 2], where a description was fused into an image.
        hidden_states, attentions: of the tower's layers, with `output_hidden_states` and `output_attentions`.
    """

    pooler_output: Tensor = _NOT_GIVEN
    identity_embeds: Tensor = _NOT_GIVEN
    clothing_embeds: Tensor = _NOT_GIVEN
    last_hidden_state: Tensor = _NOT_GIVEN
    fusion_gate: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class BDAMOutput(ModelOutput):
    """Everything that the losses of section 5 need; what was not given as input stays None. All embeddings normalized.

    Attributes:
        loss: sum of the task losses over this batch, each weighing 1, with `return_loss=True`.
        logits_per_image, logits_per_text: scaled scores `s_id + β s_clo`, [images, texts] and its transpose.
        image_embeds, text_embeds: `pooler_output` of the images and of the captions, [B, 2 * projection_dim].
        image_identity_embeds, image_clothing_embeds: of the images alone, [B, projection_dim].
        caption_identity_embeds, caption_clothing_embeds: of the captions (`input_ids`), [B, projection_dim].
        description_identity_embeds: of the identity descriptions, [B, projection_dim].
        description_clothing_embeds: of the clothing descriptions, [B, projection_dim].
        fused_identity_embeds: of each image with its identity description, [B, projection_dim].
        identity_features, clothing_features: f_id and f_clo, gated, [B, D].
        decoupled_identity, decoupled_clothing: the pair that eq. 2 holds apart, see `BDAMConfig.decouple_on`: these
            features, or the images' embeddings times the root of their width, [B, D] or [B, projection_dim].
        pooled_identity, pooled_clothing: their means over tokens before the gate, [B, D]: the shared representation
            on which GradNorm measures gradients.
        adversarial_embeds: the feature that eq. 1 watches, projected to the text width and normalized, [B, text width].
        clothing_text_embeds: f_clo^t, the pooled clothing description, normalized, no gradient, [B, text width].
        gate: g of BDAM, [B, D].
        fusion_gate: w of the fusion of image and identity description, [B, 2].
        logit_scale: 1/τ, a scalar.
        hidden_states: with `output_hidden_states`, the input of BDAM's first layer, then the outputs of the identity
            branch's and of the clothing branch's layers, [B, L, D] each.
        attentions: with `output_attentions`, the maps of BDAM's cross-attention, identity to clothing and clothing to
            identity, [B, heads, L, L] each; eager attention alone has maps to give.
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
    logit_scale: Tensor = _NOT_GIVEN
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
