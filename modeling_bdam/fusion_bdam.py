"""The gated state-space fusion of image and text (section 3.4 of the paper), for any subset of the two."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_bdam import BDAMConfig
from .fusion_blocks import FUSION_BLOCKS
from .mamba_bdam import MambaBlock


class FusionHead(nn.Module):
    """f_final of an image, of a text, or of both: align, weigh, residual state-space layers, project.

    A retrieval query has no image, so a missing modality has the gate weight 0 and the other one 1; all subsets share
    every weight and one space.
    """

    def __init__(self, config: BDAMConfig, text_width: int) -> None:
        super().__init__()
        self.token_sequence = config.fusion_sequence == "token"
        self.image_align = _alignment(config.hidden_size, config)
        self.text_align = _alignment(text_width, config)
        self.gate = nn.Linear(2 * config.fusion_hidden_size, 2) if config.fusion_gate else None
        self.layers = nn.ModuleList(
            _fusion_layer(config) for _ in range(config.num_fusion_layers if config.fusion_mamba else 0)
        )
        self.projection = nn.Linear(config.fusion_hidden_size, config.projection_dim)

    def forward(
        self, image: Tensor | None = None, text: Tensor | None = None, text_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The final representation of what is given.

        Args:
            image: gated identity tokens [B, L, D], or the feature as [B, 1, D] of `fusion_sequence="global"`.
            text: text tokens [B, T, text width], or the feature as [B, 1, text width].
            text_mask: [B, T], 1 for a token, 0 for padding; with `fusion_sequence="token"` alone.

        Returns:
            f_final [B, projection_dim], and the gate's weights [B, 2] where both modalities are there.

        Raises:
            ValueError: neither modality is given.
        """
        if image is None and text is None:
            raise ValueError("FusionHead needs an image, a text, or both")
        image = None if image is None else self.image_align(image)  # [B, L, d]
        text = None if text is None else self.text_align(text)  # [B, T, d]
        weights = None
        if image is not None and text is not None:
            weights = self._modality_weights(image.mean(dim=1), masked_mean(text, text_mask))  # [B, 2]
            image = weights[:, :1, None] * image
            text = weights[:, 1:, None] * text
            sequence = torch.cat([image, text], dim=1) if self.token_sequence else image + text
        else:
            sequence = image if image is not None else text
        readable = None if text_mask is None else _readable(sequence, text_mask)
        for layer in self.layers:
            # A state space reads no later token, so nothing before the padding, which is last, depends on it.
            update = layer(sequence) if isinstance(layer, MambaBlock) else layer(sequence, readable)
            sequence = sequence + update
        return self.projection(_last_state(sequence, text_mask)), weights

    def _modality_weights(self, image: Tensor, text: Tensor) -> Tensor:
        if self.gate is None:
            return image.new_full((len(image), 2), 0.5)
        return self.gate(torch.cat([image, text], dim=-1)).softmax(dim=-1)


class LinearFusion(nn.Module):
    """Table 2's baseline in the fusion head's place: one projection a modality, their mean where both are there."""

    def __init__(self, config: BDAMConfig, text_width: int) -> None:
        super().__init__()
        self.image_projection = nn.Linear(config.hidden_size, config.projection_dim)
        self.text_projection = nn.Linear(text_width, config.projection_dim)

    def forward(
        self, image: Tensor | None = None, text: Tensor | None = None, text_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """As `FusionHead.forward` with `fusion_sequence="global"`; there are no gate weights."""
        if image is None and text is None:
            raise ValueError("LinearFusion needs an image, a text, or both")
        projected = []
        if image is not None:
            projected.append(self.image_projection(image[:, 0]))
        if text is not None:
            projected.append(self.text_projection(text[:, 0]))
        return torch.stack(projected).mean(dim=0), None


def _fusion_layer(config: BDAMConfig) -> nn.Module:
    width = config.fusion_hidden_size
    if config.fusion_block == "mamba":
        return MambaBlock(width, config.mamba_state_size, config.mamba_conv_size, config.mamba_expand)
    return FUSION_BLOCKS[config.fusion_block](width, config.dropout)


def _readable(sequence: Tensor, text_mask: Tensor) -> Tensor:
    """Which tokens of [B, L, d] are no padding, [B, L], bool: the text, whose mask is [B, T], ends the sequence."""
    image_tokens = sequence.shape[1] - text_mask.shape[1]
    return F.pad(text_mask.bool(), (image_tokens, 0), value=True)


def _alignment(width: int, config: BDAMConfig) -> nn.Module:
    if not config.fusion_alignment:
        return nn.Linear(width, config.fusion_hidden_size)
    return nn.Sequential(
        nn.Linear(width, config.fusion_hidden_size),
        nn.GELU(),
        nn.Dropout(config.dropout),
        nn.Linear(config.fusion_hidden_size, config.fusion_hidden_size),
    )


def masked_mean(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """[B, T, d] to [B, d] over the tokens of `mask` [B, T], or over all."""
    if mask is None:
        return tokens.mean(dim=1)
    weights = mask.to(tokens.dtype)[:, :, None]
    return (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def _last_state(sequence: Tensor, text_mask: Tensor | None) -> Tensor:
    """The last state that is not padding, [B, d]: padding follows the text, and the text ends the sequence."""
    if text_mask is None:
        return sequence[:, -1]
    padding = text_mask.shape[1] - text_mask.sum(dim=1)  # [B]
    rows = torch.arange(sequence.shape[0], device=sequence.device)  # len() would fix the batch of an exported model
    return sequence[rows, sequence.shape[1] - 1 - padding]
