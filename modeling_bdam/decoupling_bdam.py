"""The Bidirectional Decoupling Alignment Module (section 3.2 of the paper)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_bdam import BDAMConfig


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[Tensor, Tensor]:
    """Plain attention, `[B, heads, L, head_dim]` each; also returns its maps [B, heads, L, L]."""
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class BDAMAttention(nn.Module):
    """Multi-head attention of one branch over its own tokens, or over the other branch's."""

    def __init__(self, config: BDAMConfig) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_bdam_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """`hidden_states` [B, L, D] attend to `context` [B, L, D], by default to themselves."""
        context = hidden_states if context is None else context
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_proj(hidden_states).view(shape).transpose(1, 2)  # [B, heads, L, head_dim]
        key = self.k_proj(context).view(shape).transpose(1, 2)
        value = self.v_proj(context).view(shape).transpose(1, 2)
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.config.dropout if self.training else 0.0
        output, weights = attention(self, query, key, value, None, dropout=dropout, scaling=self.scaling)
        return self.out_proj(output.reshape(hidden_states.shape)), weights


class BDAMLayer(GradientCheckpointingLayer):
    """Pre-norm residual self-attention; with `mlp_ratio` > 0 a feed-forward after it."""

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
        """[B, L, D] to [B, L, D]."""
        hidden_states = hidden_states + self.dropout(self.attention(self.norm(hidden_states))[0])
        if self.feed_forward is not None:
            hidden_states = hidden_states + self.feed_forward(hidden_states)
        return hidden_states


class BDAMBranch(nn.Module):
    """One subspace: a linear projection of the tower's tokens, N self-attention layers, then the cross-attention."""

    def __init__(self, config: BDAMConfig) -> None:
        super().__init__()
        self.projection = nn.Linear(config.hidden_size, config.hidden_size)
        self.layers = nn.ModuleList(BDAMLayer(config) for _ in range(config.num_bdam_layers))
        self.cross_norm = nn.LayerNorm(config.hidden_size) if config.bdam_cross_attention else None
        self.cross_attention = BDAMAttention(config) if config.bdam_cross_attention else None
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.hidden_size)

    def attend_to_itself(self, tokens: Tensor) -> Tensor:
        """[B, L, D] of the tower to [B, L, D] of the branch."""
        hidden_states = self.projection(tokens)
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return hidden_states

    def attend_to_other(self, hidden_states: Tensor, other: Tensor) -> Tensor:
        """This branch's tokens query the other's, both [B, L, D]; the result is normalized, [B, L, D]."""
        if self.cross_attention is not None and self.cross_norm is not None:
            update, _ = self.cross_attention(self.cross_norm(hidden_states), self.cross_norm(other))
            hidden_states = hidden_states + self.dropout(update)
        return self.norm(hidden_states)


@dataclass
class Decoupled:
    """What BDAM makes of a batch of images.

    Attributes:
        identity, clothing: f_id and f_clo, gated, [B, D].
        pooled_identity, pooled_clothing: the means over tokens before the gate, [B, D].
        identity_tokens: the gated identity tokens, [B, L, D], whose mean is `identity`.
        gate: g [B, D], or None without it.
    """

    identity: Tensor
    clothing: Tensor
    pooled_identity: Tensor
    pooled_clothing: Tensor
    identity_tokens: Tensor
    gate: Tensor | None


class BidirectionalDecoupling(nn.Module):
    """BDAM: tokens [B, L, D] into an identity and a clothing feature that a gate holds complementary."""

    def __init__(self, config: BDAMConfig) -> None:
        super().__init__()
        self.identity_branch = BDAMBranch(config)
        self.clothing_branch = BDAMBranch(config)
        self.gate = nn.Linear(2 * config.hidden_size, config.hidden_size) if config.bdam_gate else None

    def forward(self, tokens: Tensor) -> Decoupled:
        """`tokens` [B, L, D] of the vision tower."""
        identity_tokens = self.identity_branch.attend_to_itself(tokens)
        clothing_tokens = self.clothing_branch.attend_to_itself(tokens)
        identity_tokens, clothing_tokens = (
            self.identity_branch.attend_to_other(identity_tokens, clothing_tokens),
            self.clothing_branch.attend_to_other(clothing_tokens, identity_tokens),
        )
        dtype = self.identity_branch.norm.weight.dtype
        pooled_identity, pooled_clothing = _pool(identity_tokens, dtype), _pool(clothing_tokens, dtype)  # [B, D]
        if self.gate is None:
            return Decoupled(pooled_identity, pooled_clothing, pooled_identity, pooled_clothing, identity_tokens, None)
        gate = self.gate(torch.cat([pooled_identity, pooled_clothing], dim=-1)).sigmoid()  # [B, D]
        return Decoupled(
            identity=gate * pooled_identity,
            clothing=(1 - gate) * pooled_clothing,
            pooled_identity=pooled_identity,
            pooled_clothing=pooled_clothing,
            identity_tokens=gate[:, None] * identity_tokens,
            gate=gate,
        )


class LinearDecoupling(nn.Module):
    """Table 1's baseline in BDAM's place: the mean token through two linear heads."""

    def __init__(self, config: BDAMConfig) -> None:
        super().__init__()
        self.identity = nn.Linear(config.hidden_size, config.hidden_size)
        self.clothing = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, tokens: Tensor) -> Decoupled:
        """`tokens` [B, L, D] of the vision tower."""
        identity_tokens = self.identity(tokens)
        dtype = self.identity.weight.dtype
        identity, clothing = _pool(identity_tokens, dtype), self.clothing(tokens.mean(dim=1)).to(dtype)
        return Decoupled(identity, clothing, identity, clothing, identity_tokens, None)


def _pool(tokens: Tensor, dtype: torch.dtype) -> Tensor:
    """Mean of [B, L, D] over tokens, in the weights' own precision.

    Under autocast that is float32, so that accelerate, which converts a model's outputs to float32, hands on this very
    tensor: GradNorm takes gradients with respect to it, and a copy would have none.
    """
    return tokens.mean(dim=1).to(dtype)
