"""The matching head: fuses the tokens of a query with those of a candidate image, and scores whether they match.

It re-ranks the first candidates of a search. Unlike in the dual-encoder search, both modalities are present there, so
that the gated state-space fusion of the paper's section 3.4 has a sequence of tokens to act on.
"""

import math
from functools import partial

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_bdam import BDAMConfig
from .fusion_bdam import FullPrecisionRMSNorm, masked_mean
from .fusion_blocks import FUSION_BLOCKS
from .mamba_bdam import MambaBlock

SHARPNESS = 8.0  # of the attention from a text token to the image tokens, which acts on cosines
INITIAL_SCALE = 30.0
normalize = partial(nn.functional.normalize, dim=-1)


class MatchingHead(nn.Module):
    """Scores pairs of an image and a text: align, compare, weigh, mix by layers over the token sequence, pool.

    Each text token carries its product with the image tokens that are most similar to it. Without this comparison, a
    state-space layer would have to learn the product of tokens that are far apart.
    """

    def __init__(self, config: BDAMConfig) -> None:
        super().__init__()
        width, size = config.hidden_size, config.matching_hidden_size
        self.kinds = nn.Embedding(2, width)  # added to the identity and to the clothing tokens of an image
        self.image_norm, self.text_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.image_align, self.text_align = nn.Linear(width, size), nn.Linear(width, size)
        self.importance = nn.Linear(width, 1)  # of a text token
        self.product = nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.Linear(size, size))
        self.gate = nn.Linear(2 * size, 2) if config.fusion_gate else None
        self.layers = nn.ModuleList(_layer(config) for _ in range(config.num_matching_layers))
        self.norm = nn.LayerNorm(size)
        self.pool = nn.Sequential(nn.Linear(3 * size, size), nn.GELU(), nn.Linear(size, 1))
        self.log_scale = nn.Parameter(torch.empty(1))  # of the similarity in the logit
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initializes the scale, for a model's `_init_weights`."""
        init.constant_(self.log_scale, math.log(INITIAL_SCALE))

    def similarities(self, image: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """Computes the scaled similarity of all pairs of Q texts and G images, a part of the logit, [Q, G].

        Args:
            image: [G, 2P, D], else as in `forward`.
            text, text_mask: see `forward`.
        """
        image, words, importance = self._align(image, text, text_mask)
        cosines = torch.einsum("qtd,gpd->qgtp", normalize(words), normalize(image))
        similarity = torch.einsum(
            "qgt,qt->qg", (cosines * (SHARPNESS * cosines).softmax(dim=-1)).sum(dim=-1), importance
        )
        return self.log_scale.exp() * similarity

    def _align(self, image: Tensor, text: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps tokens [..., 2P, D] and [Q, T, D] to the width d, and weighs the text tokens, [Q, T], of sum 1."""
        kinds = self.kinds.weight.repeat_interleave(image.shape[-2] // 2, dim=0)  # [2P, D]
        words = self.text_norm(text)  # [Q, T, D]
        importance = self.importance(words).squeeze(-1).masked_fill(text_mask == 0, -torch.inf).softmax(dim=-1)
        return self.image_align(self.image_norm(image + kinds)), self.text_align(words), importance

    def forward(self, image: Tensor, text: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Scores K candidate images of each of Q texts.

        A logit depends neither on the other pairs of the batch nor on padding.

        Args:
            image: tokens of the candidates, the gated identity tokens before as many clothing tokens, [Q, K, 2P, D].
            text: text tokens, [Q, T, D].
            text_mask: [Q, T], 1 for a token, 0 for padding on the right.

        Returns:
            match logits [Q, K], and the gate weights of image and text [Q, K, 2].
        """
        (queries, candidates, seen), length = image.shape[:3], text.shape[1]
        # Alignment to the common width d; comparison of each text token with the image tokens most similar to it
        image, words, importance = self._align(image, text, text_mask)  # [Q, K, 2P, d], [Q, T, d], [Q, T]
        image_unit, words_unit = normalize(image), normalize(words)[:, None]  # [Q, 1, T, d]
        cosines = words_unit @ image_unit.mT  # [Q, K, T, 2P]
        attention = (SHARPNESS * cosines).softmax(dim=-1)  # [Q, K, T, 2P]
        similarity = ((attention * cosines).sum(dim=-1) * importance[:, None]).sum(dim=-1)  # [Q, K]
        products = words_unit * (attention @ image_unit) * image.shape[-1]  # [Q, K, T, d]
        words = words[:, None] + self.product(products)  # [Q, K, T, d]
        # Gate: softmax weights of the two modalities
        image, words = image.flatten(0, 1), words.flatten(0, 1)  # [Q * K, 2P, d], [Q * K, T, d]
        mask = text_mask[:, None].expand(-1, candidates, -1).flatten(0, 1)  # [Q * K, T]
        weights = image.new_full((image.shape[0], 2), 0.5)  # len() would fix the batch size in ONNX export
        if self.gate is not None:
            weights = self.gate(torch.cat([image.mean(dim=1), masked_mean(words, mask)], dim=-1)).softmax(dim=-1)
        sequence = torch.cat([2 * weights[:, :1, None] * image, 2 * weights[:, 1:, None] * words], dim=1)
        # Residual layers over the 2P + T tokens
        is_token = nn.functional.pad(mask.bool(), (seen, 0), value=True)  # [Q * K, 2P + T]
        for layer in self.layers:
            sequence = sequence + layer(sequence, is_token)
        # Pooling
        image, words = self.norm(sequence).split([seen, length], dim=1)
        image_mean, words_mean = image.mean(dim=1), masked_mean(words, mask)  # [Q * K, d] each
        correction = self.pool(torch.cat([image_mean, words_mean, image_mean * words_mean], dim=-1))
        logits = self.log_scale.exp() * similarity + correction.view(queries, candidates)
        return logits, weights.view(queries, candidates, 2)


class ScanBlock(nn.Module):
    """A normed state-space layer over real tokens; with two directions, the sum of a scan from each end."""

    def __init__(self, config: BDAMConfig) -> None:
        super().__init__()
        self.norm = FullPrecisionRMSNorm(config.matching_hidden_size)
        sizes = config.mamba_state_size, config.mamba_conv_size, config.mamba_expand
        directions = 2 if config.matching_bidirectional else 1
        self.scans = nn.ModuleList(MambaBlock(config.matching_hidden_size, *sizes) for _ in range(directions))

    def forward(self, hidden: Tensor, is_token: Tensor) -> Tensor:
        """Mixes `hidden` [B, L, d], in which `is_token` [B, L] is False for padding on the right."""
        hidden = self.norm(hidden)
        mixed = self.scans[0](hidden)
        if len(self.scans) == 1:
            return mixed
        # The reversed order of the real tokens; padding stays on the right, where a causal scan does not see it
        places = torch.arange(hidden.shape[1], device=hidden.device)  # [L]
        last = is_token.sum(dim=1, keepdim=True) - 1  # [B, 1]
        order = torch.where(places <= last, last - places, places)[..., None].expand_as(hidden)  # [B, L, d]
        return mixed + self.scans[1](hidden.gather(1, order)).gather(1, order)


def _layer(config: BDAMConfig) -> nn.Module:
    if config.matching_block == "mamba":
        return ScanBlock(config)
    return FUSION_BLOCKS[config.matching_block](config.matching_hidden_size, config.dropout)
