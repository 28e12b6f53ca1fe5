"""The Bidirectional Decoupling Alignment Module (paper, section 3.2)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.clip.modeling_clip import eager_attention_forward

from .configuration_bdam import BDAMConfig


class BDAMAttention(nn.Module):
    """Multi-head attention of a branch over its own tokens, or over the tokens of the other branch."""

    def __init__(self, config: BDAMConfig) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_bdam_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        width = config.hidden_size
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, hidden_states: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Attends from `hidden_states` [B, L, D] to `context` [B, L, D], by default `hidden_states` (self-attention).

        Returns [B, L, D], and with eager attention its maps [B, heads, L, L].
        """
        context = hidden_states if context is None else context
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_proj(hidden_states).view(shape).transpose(1, 2)  # [B, heads, L, head_dim]
        key = self.k_proj(context).view(shape).transpose(1, 2)  # [B, heads, L, head_dim]
        value = self.v_proj(context).view(shape).transpose(1, 2)  # [B, heads, L, head_dim]
        kernel = self.config._attn_implementation
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(kernel, eager_attention_forward)
        dropout = self.config.dropout if self.training else 0.0
        output, weights = attention(self, query, key, value, None, dropout=dropout, scaling=self.scaling)
        return self.out_proj(output.reshape(hidden_states.shape)), weights  # [B, L, D]


class BDAMLayer(GradientCheckpointingLayer):
    """Pre-norm residual self-attention, followed by a feed-forward if `mlp_ratio` > 0."""

    def __init__(self, config: BDAMConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.attention = BDAMAttention(config)
        self.dropout = nn.Dropout(config.dropout)
        self.feed_forward: nn.Sequential | None = None
        if config.mlp_ratio > 0:
            width = int(config.mlp_ratio * config.hidden_size)
            self.feed_forward = nn.Sequential(
                nn.LayerNorm(config.hidden_size),
                nn.Linear(config.hidden_size, width),
                nn.GELU(),
                nn.Linear(width, config.hidden_size),
                nn.Dropout(config.dropout),
            )

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Maps [B, L, D] to [B, L, D]."""
        normed = self.norm(hidden_states).to(hidden_states.dtype)  # under autocast, one cast and not three
        hidden_states = hidden_states + self.dropout(self.attention(normed)[0])
        if self.feed_forward is not None:
            hidden_states = hidden_states + self.feed_forward(hidden_states)
        return hidden_states


class KeyProjection(nn.Linear):
    """The key projection W x + b, applied to the queries instead: q · (W x + b) = (Wᵀ q) · x + q · b."""

    def forward(self, queries: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Maps queries [heads, P, head_dim] to Wᵀ q [heads, P, D] and q · b [heads, P, 1]."""
        split = (len(queries), -1)
        return queries @ self.weight.unflatten(0, split), queries @ self.bias.unflatten(0, split)[..., None]


class ValueProjection(nn.Linear):
    """The value projection W x + b, applied to the weighted means of tokens: the weights of a mean add up to 1."""

    def forward(self, means: Tensor) -> Tensor:
        """Maps the means of each head [B, heads, P, D] to [B, P, D]."""
        heads = means.shape[1]
        weight, rows = self.weight.unflatten(0, (heads, -1)), means.transpose(0, 1)  # [heads, head_dim, D]
        values = (rows.flatten(1, 2) @ weight.mT).unflatten(1, rows.shape[1:3])  # [heads, B, P, head_dim]
        return values.permute(1, 2, 0, 3).flatten(2) + self.bias.to(values.dtype)  # [B, P, D]


class PartPooling(nn.Module):
    """Pools the tower's tokens into P part tokens by attention of learned queries.

    Each query begins as a soft horizontal stripe, as the parts of PCB (Sun et al., "Beyond Part Models", ECCV 2018): a
    Gaussian over the raster position of a token with learned center and width, added to the attention logits. There are
    fewer queries than tokens, so that the projections are applied to the queries and to the pooled tokens.
    """

    def __init__(self, config: BDAMConfig) -> None:
        super().__init__()
        width, parts = config.hidden_size, config.num_bdam_parts
        self.heads = config.num_bdam_heads
        self.queries = nn.Embedding(parts, width)
        self.center = nn.Parameter(torch.empty(parts))
        self.log_width = nn.Parameter(torch.empty(parts))
        self.init_weights()
        self.norm = nn.LayerNorm(width)
        self.k_proj, self.v_proj = KeyProjection(width, width), ValueProjection(width, width)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initializes the stripes, for a model's `_init_weights`."""
        parts = len(self.center)
        init.copy_(self.center, (torch.arange(parts, device=self.center.device) + 0.5) / parts)
        init.constant_(self.log_width, -math.log(parts))

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps tokens [B, L, D] in raster order to parts [B, P, D]."""
        length, heads = tokens.shape[1], self.heads
        queries = self.queries.weight.unflatten(-1, (heads, -1)).transpose(0, 1)  # [heads, P, head_dim]
        reader, offset = self.k_proj(queries * queries.shape[-1] ** -0.5)  # [heads, P, D], [heads, P, 1]
        tokens = self.norm(tokens).to(reader.dtype)
        logits = (tokens @ reader.flatten(0, 1).T).mT.unflatten(1, (heads, -1))  # [B, heads, P, L]
        place = (torch.arange(length, device=tokens.device) + 0.5) / length  # [L], from top to bottom
        distance = (place - self.center[:, None]) / self.log_width.exp()[:, None]  # [P, L]
        weights = (logits + (offset - 0.5 * distance.square())).softmax(dim=-1)  # [B, heads, P, L]
        means = weights.to(tokens.dtype).flatten(1, 2) @ tokens  # [B, heads * P, D]
        return self.v_proj(means.unflatten(1, (heads, -1)))  # [B, P, D]


class BDAMBranch(nn.Module):
    """One branch: a linear projection of the tower's tokens, N self-attention layers, then cross-attention.

    With `num_bdam_parts`, the tokens are pooled into parts first, and each part ends with its own linear layer.
    """

    def __init__(self, config: BDAMConfig) -> None:
        super().__init__()
        width, parts = config.hidden_size, config.num_bdam_parts
        self.projection = PartPooling(config) if parts else nn.Linear(width, width)
        self.part_layers = nn.ModuleList(nn.Linear(width, width) for _ in range(parts))
        self.layers = nn.ModuleList(BDAMLayer(config) for _ in range(config.num_bdam_layers))
        self.cross_norm = nn.LayerNorm(config.hidden_size) if config.bdam_cross_attention else None
        self.cross_attention = BDAMAttention(config) if config.bdam_cross_attention else None
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.hidden_size)

    def attend_to_itself(self, tokens: Tensor) -> Tensor:
        """Maps the tower's tokens [B, L, D] to the branch's tokens [B, L, D] by self-attention."""
        hidden_states = self.projection(tokens)
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return hidden_states

    def attend_to_other(self, hidden_states: Tensor, other: Tensor) -> Tensor:
        """Adds cross-attention to the other branch's tokens and normalizes; [B, L, D] each."""
        if self.cross_attention is not None and self.cross_norm is not None:
            normed, context = (self.cross_norm(each).to(each.dtype) for each in (hidden_states, other))
            update, _ = self.cross_attention(normed, context)
            hidden_states = hidden_states + self.dropout(update)
        normed = self.norm(hidden_states)
        if not self.part_layers:
            return normed
        parts = zip(self.part_layers, normed.to(hidden_states.dtype).unbind(1), strict=True)
        return torch.stack([layer(part) for layer, part in parts], dim=1)  # [B, P, D]


@dataclass
class Decoupled:
    """Identity and clothing features of a batch of images.

    Attributes:
        identity, clothing: f_id and f_clo, gated, [B, D].
        pooled_identity, pooled_clothing: their means over tokens before the gate, [B, D].
        identity_tokens, clothing_tokens: gated tokens [B, L, D], or parts [B, P, D]; their means are the features.
        gate: g [B, D]; None for a model without it.
        joint: embedding of the vision tower in the joint space of the towers, normalized, [B, P]; None without one.
    """

    identity: Tensor
    clothing: Tensor
    pooled_identity: Tensor
    pooled_clothing: Tensor
    identity_tokens: Tensor
    clothing_tokens: Tensor
    gate: Tensor | None = None
    joint: Tensor | None = None


class BidirectionalDecoupling(nn.Module):
    """BDAM: splits tokens [B, L, D] into an identity and a clothing feature with complementary gate weights."""

    def __init__(self, config: BDAMConfig) -> None:
        super().__init__()
        self.identity_branch = BDAMBranch(config)
        self.clothing_branch = BDAMBranch(config)
        self.gate = nn.Linear(2 * config.hidden_size, config.hidden_size) if config.bdam_gate else None

    def forward(self, tokens: Tensor) -> Decoupled:
        """Decouples `tokens` [B, L, D] of the vision tower."""
        # Self-attention in each branch
        own_identity = self.identity_branch.attend_to_itself(tokens)  # [B, L, D]
        own_clothing = self.clothing_branch.attend_to_itself(tokens)  # [B, L, D]
        # Cross-attention in both directions
        identity_tokens = self.identity_branch.attend_to_other(own_identity, own_clothing)  # [B, L, D]
        clothing_tokens = self.clothing_branch.attend_to_other(own_clothing, own_identity)  # [B, L, D]
        # Global average pooling
        dtype = self.identity_branch.norm.weight.dtype
        identity, clothing = _pool(identity_tokens, dtype), _pool(clothing_tokens, dtype)  # [B, D]
        if self.gate is None:
            return Decoupled(identity, clothing, identity, clothing, identity_tokens, clothing_tokens)
        # Gate: g weighs the identity feature, 1 - g the clothing feature
        gate = self.gate(torch.cat([identity, clothing], dim=-1)).sigmoid()  # [B, D]
        gated = gate[:, None] * identity_tokens, (1 - gate)[:, None] * clothing_tokens  # [B, L, D] each
        return Decoupled(gate * identity, (1 - gate) * clothing, identity, clothing, *gated, gate)


class LinearDecoupling(nn.Module):
    """Table 1's baseline without BDAM: two linear heads on the mean token."""

    def __init__(self, config: BDAMConfig) -> None:
        super().__init__()
        self.identity = nn.Linear(config.hidden_size, config.hidden_size)
        self.clothing = nn.Linear(config.hidden_size, config.hidden_size)
        self.keeps_tokens = config.use_matching

    def forward(self, tokens: Tensor) -> Decoupled:
        """Decouples `tokens` [B, L, D] of the vision tower."""
        identity_tokens = self.identity(tokens)  # [B, L, D]
        dtype = self.identity.weight.dtype
        identity, clothing = _pool(identity_tokens, dtype), self.clothing(tokens.mean(dim=1)).to(dtype)  # [B, D]
        clothing_tokens = self.clothing(tokens) if self.keeps_tokens else identity_tokens  # [B, L, D]
        return Decoupled(identity, clothing, identity, clothing, identity_tokens, clothing_tokens)


def _pool(tokens: Tensor, dtype: torch.dtype) -> Tensor:
    """Averages [B, L, D] over tokens, in the dtype of the weights.

    GradNorm takes gradients with respect to this tensor. Under autocast, accelerate casts a model's outputs to
    float32; a float32 tensor is passed on unchanged, but a cast copy would not be part of the graph of the losses.
    """
    return tokens.mean(dim=1).to(dtype)
