"""Gated state-space fusion of image and text, or of only one of them (paper, section 3.4)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_bdam import BDAMConfig
from .fusion_blocks import FUSION_BLOCKS
from .mamba_bdam import MambaBlock

Vectors = list[tuple[Tensor | None, Tensor | None]]  # images and/or texts


class FusionHead(nn.Module):
    """Computes f_final of an image, a text, or both: align, weigh, residual state-space layers, project.

    A retrieval query has no image. A missing modality gets gate weight 0 and the other one 1, so that images, texts and
    pairs share all weights and one embedding space.
    """

    def __init__(self, config: BDAMConfig, text_width: int) -> None:
        super().__init__()
        self.token_sequence = config.fusion_sequence == "token"
        self.image_align = _alignment(config.hidden_size, config)
        self.text_align = _alignment(text_width, config)
        self.gate = nn.Linear(2 * config.fusion_hidden_size, 2) if config.fusion_gate else None
        layers = config.num_fusion_layers if config.fusion_mamba else 0
        self.layers = nn.ModuleList(_fusion_layer(config) for _ in range(layers))
        normed = config.fusion_norm and config.fusion_block == "mamba"  # the other blocks have their own norm
        self.norms = nn.ModuleList(
            FullPrecisionRMSNorm(config.fusion_hidden_size) for _ in range(layers if normed else 0)
        )
        self.projection = nn.Linear(config.fusion_hidden_size, config.projection_dim)

    def forward(
        self, image: Tensor | None = None, text: Tensor | None = None, text_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Fuses an image with a text, or processes only one of them.

        Args:
            image: gated identity tokens [B, L, D]; with `fusion_sequence="global"` the feature as [B, 1, D].
            text: text tokens [B, T, text width]; with `fusion_sequence="global"` the feature as [B, 1, text width].
            text_mask: [B, T], 1 for a token, 0 for padding on the right; only with `fusion_sequence="token"`.

        Returns:
            f_final [B, projection_dim], and the gate weights [B, 2] if both modalities are given.

        Raises:
            ValueError: neither modality is given.
        """
        sequence, weights = self.align(image, text, text_mask)
        return self.mix(sequence, text_mask), weights

    def forward_sets(self, sets: Vectors) -> list[tuple[Tensor, Tensor | None]]:
        """Computes `forward` of several sets of images and/or texts, vectors [B, 1, width], in one pass."""
        if len(sets) < 2:  # the lengths below would fix the batch size in ONNX export
            return [self(image, text) for image, text in sets]
        aligned = [self.align(image, text) for image, text in sets]
        finals = self.mix(torch.cat([sequence for sequence, _ in aligned]))
        parts = finals.split([len(sequence) for sequence, _ in aligned])
        return [(final, weights) for final, (_, weights) in zip(parts, aligned, strict=True)]

    def output_layers(self) -> list[nn.Linear]:
        """Returns the layers that compute f_final."""
        return [self.projection]

    def align(
        self, image: Tensor | None, text: Tensor | None, text_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Aligns and weighs; returns the sequence that `mix` takes, [B, L + T or 1, d], and the gate weights [B, 2]."""
        if image is None and text is None:
            raise ValueError("FusionHead needs an image, a text, or both")
        # Alignment to the common width d
        image = None if image is None else self.image_align(image)  # [B, L, d]
        text = None if text is None else self.text_align(text)  # [B, T, d]
        # Gate: softmax weights of the two modalities
        weights = None
        if image is not None and text is not None:
            weights = self._modality_weights(image.mean(dim=1), masked_mean(text, text_mask))  # [B, 2]
            image = weights[:, :1, None] * image  # [B, L, d]
            text = weights[:, 1:, None] * text  # [B, T, d]
            sequence = torch.cat([image, text], dim=1) if self.token_sequence else image + text  # [B, L + T or 1, d]
        else:
            sequence = image if image is not None else text
        return sequence, weights

    def mix(self, sequence: Tensor, text_mask: Tensor | None = None) -> Tensor:
        """Applies the residual layers to [B, L + T or 1, d] and projects the last token, [B, projection_dim]."""
        # The scan is causal and padding is on the right, so padding cannot affect real tokens;
        # attention layers need the mask.
        is_token = None if text_mask is None else _token_mask(sequence, text_mask)  # [B, L + T]
        for number, layer in enumerate(self.layers):
            normed = self.norms[number](sequence) if self.norms else sequence
            update = layer(normed) if isinstance(layer, MambaBlock) else layer(normed, is_token)
            sequence = sequence + update
        return self.projection(_last_token(sequence, text_mask))  # [B, projection_dim]

    def _modality_weights(self, image: Tensor, text: Tensor) -> Tensor:
        if self.gate is None:
            return image.new_full((len(image), 2), 0.5)
        return self.gate(torch.cat([image, text], dim=-1)).softmax(dim=-1)


class LinearFusion(nn.Module):
    """Table 2's baseline without fusion head: one linear projection per modality, averaged if both are given."""

    def __init__(self, config: BDAMConfig, text_width: int) -> None:
        super().__init__()
        self.image_projection = nn.Linear(config.hidden_size, config.projection_dim)
        self.text_projection = nn.Linear(text_width, config.projection_dim)

    def forward(
        self, image: Tensor | None = None, text: Tensor | None = None, text_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Same as `FusionHead.forward` with `fusion_sequence="global"`, without gate weights."""
        pairs = (self.image_projection, image), (self.text_projection, text)
        projected = [projection(feature[:, 0]) for projection, feature in pairs if feature is not None]
        if not projected:
            raise ValueError("LinearFusion needs an image, a text, or both")
        return torch.stack(projected).mean(dim=0), None  # [B, projection_dim]

    def output_layers(self) -> list[nn.Linear]:
        """Returns the layers that compute f_final."""
        return [self.image_projection, self.text_projection]

    def forward_sets(self, sets: Vectors) -> list[tuple[Tensor, Tensor | None]]:
        """Computes `forward` of several sets of vectors."""
        return [self(image, text) for image, text in sets]


class FullPrecisionRMSNorm(nn.RMSNorm):
    """An RMSNorm that computes in float32, also under autocast, and returns the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalizes [..., d]."""
        weight = self.weight.float()
        return F.rms_norm(x.float(), self.normalized_shape, weight, self.eps).to(x.dtype)


def _fusion_layer(config: BDAMConfig) -> nn.Module:
    width = config.fusion_hidden_size
    if config.fusion_block == "mamba":
        return MambaBlock(width, config.mamba_state_size, config.mamba_conv_size, config.mamba_expand)
    return FUSION_BLOCKS[config.fusion_block](width, config.dropout)


def _token_mask(sequence: Tensor, text_mask: Tensor) -> Tensor:
    """Extends `text_mask` [B, T] to the image tokens before the text: [B, L + T], bool, False for padding."""
    image_tokens = sequence.shape[1] - text_mask.shape[1]
    return F.pad(text_mask.bool(), (image_tokens, 0), value=True)


def _alignment(width: int, config: BDAMConfig) -> nn.Module:
    linear = nn.Linear(width, config.fusion_hidden_size)
    if not config.fusion_alignment:
        return linear
    second = nn.Linear(config.fusion_hidden_size, config.fusion_hidden_size)
    return nn.Sequential(linear, nn.GELU(), nn.Dropout(config.dropout), second)


def masked_mean(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Averages tokens [B, T, d] over T, or over the tokens where `mask` [B, T] is 1; returns [B, d]."""
    if mask is None:
        return tokens.mean(dim=1)
    weights = mask.to(tokens.dtype)[:, :, None]  # [B, T, 1]
    return (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def _last_token(sequence: Tensor, text_mask: Tensor | None) -> Tensor:
    """Selects the last token of [B, L, d] that is not padding, [B, d]."""
    if text_mask is None:
        return sequence[:, -1]
    padding = text_mask.shape[1] - text_mask.sum(dim=1)  # [B]
    rows = torch.arange(sequence.shape[0], device=sequence.device)  # len() would fix the batch size in ONNX export
    return sequence[rows, sequence.shape[1] - 1 - padding]
