"""Alternatives to the state-space layers of the fusion head, for the comparison of the paper's figure 5.

Each maps `[B, L, d]` to `[B, L, d]` and is the update of a residual layer, like `MambaBlock`.
"""

import torch.nn.functional as F
from torch import Tensor, nn

HEAD_WIDTH = 32
FEED_FORWARD_RATIO = 4


class SelfAttentionBlock(nn.Module):
    """Pre-norm multi-head self-attention.

    Args:
        width: d, of input and output.
        dropout: on the attention maps.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.heads = max(1, width // HEAD_WIDTH)
        self.dropout = dropout
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

    def forward(self, hidden: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Mixes the tokens of `hidden` [B, L, d]; `padding_mask` [B, L] is False for padding."""
        qkv = self.qkv(self.norm(hidden)).unflatten(-1, (3, self.heads, -1))  # [B, L, 3, heads, d / heads]
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # [B, heads, L, d / heads] each
        mask = None if padding_mask is None else padding_mask[:, None, None, :]  # [B, 1, 1, L]
        mixed = F.scaled_dot_product_attention(query, key, value, mask, self.dropout if self.training else 0.0)
        return self.projection(mixed.transpose(1, 2).flatten(2))  # [B, L, d]


class FeedForwardBlock(nn.Module):
    """Pre-norm MLP on each token separately: the simple baseline."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, FEED_FORWARD_RATIO * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(FEED_FORWARD_RATIO * width, width),
        )

    def forward(self, hidden: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Maps `hidden` [B, L, d] token by token; padding has no effect on other tokens."""
        return self.layers(hidden)


class TransformerBlock(nn.Module):
    """Pre-norm transformer layer: self-attention, then an MLP."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.attention = SelfAttentionBlock(width, dropout)
        self.feed_forward = FeedForwardBlock(width, dropout)

    def forward(self, hidden: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """See `SelfAttentionBlock.forward`."""
        update = self.attention(hidden, padding_mask)
        return update + self.feed_forward(hidden + update)


FUSION_BLOCKS = {"transformer": TransformerBlock, "attention": SelfAttentionBlock, "mlp": FeedForwardBlock}
