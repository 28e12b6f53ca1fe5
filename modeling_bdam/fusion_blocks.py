"""What else may fuse, in the place of the state-space layers: figure 5 of the paper measures them side by side.

Each maps `[B, L, d]` to `[B, L, d]` and is the update of a residual layer, as `MambaBlock` is.
"""

import torch.nn.functional as F
from torch import Tensor, nn

HEAD_WIDTH = 32
FEED_FORWARD_RATIO = 4


class SelfAttentionBlock(nn.Module):
    """One pre-norm self-attention.

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
        """`hidden` [B, L, d]; `padding_mask` [B, L], True for what may be attended to."""
        qkv = self.qkv(self.norm(hidden)).unflatten(-1, (3, self.heads, -1))  # [B, L, 3, heads, d / heads]
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # [B, heads, L, d / heads] each
        mask = None if padding_mask is None else padding_mask[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, mask, dropout)
        return self.projection(mixed.transpose(1, 2).flatten(2))


class FeedForwardBlock(nn.Module):
    """Pre-norm MLP of each token alone: the simple baseline."""

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
        """`hidden` [B, L, d]; each token is its own, so padding does not matter."""
        return self.layers(hidden)


class TransformerBlock(nn.Module):
    """One pre-norm transformer layer: self-attention, then an MLP."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.attention = SelfAttentionBlock(width, dropout)
        self.feed_forward = FeedForwardBlock(width, dropout)

    def forward(self, hidden: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """As `SelfAttentionBlock.forward`."""
        update = self.attention(hidden, padding_mask)
        return update + self.feed_forward(hidden + update)


FUSION_BLOCKS = {"transformer": TransformerBlock, "attention": SelfAttentionBlock, "mlp": FeedForwardBlock}
