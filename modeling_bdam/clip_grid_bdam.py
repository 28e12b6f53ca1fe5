"""CLIP's vision tower on a grid of patches that is no square, such as 24 x 8 for images of 384 x 128."""

from typing import cast

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.models.clip.modeling_clip import CLIPVisionEmbeddings


class GridEmbeddings(CLIPVisionEmbeddings):
    """Patch and position embeddings with a position of its own for every patch of `config.image_size` (height, width).

    transformers' own are those of a square. Parameter names are the same.
    """

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__(square(config))
        self.config = config
        height, width = cast(tuple[int, int], config.image_size)  # a pair, or this class is not needed
        self.grid = self._grid(height, width)
        self.num_patches = self.grid[0] * self.grid[1]
        self.num_positions = self.num_patches + 1
        self.position_embedding = nn.Embedding(self.num_positions, self.embed_dim)
        self.position_ids = nn.Buffer(torch.arange(self.num_positions)[None], persistent=False)

    def interpolate_pos_encoding(self, embeddings: Tensor, height: int, width: int) -> Tensor:
        """Positions [1, 1 + patches, width] for images of this height and width, in pixels."""
        grid = self._grid(height, width)
        positions = self.position_embedding.weight[None]
        if grid == self.grid:
            return positions
        patches = positions[:, 1:].transpose(1, 2).unflatten(2, self.grid)  # [1, width, rows, columns]
        patches = nn.functional.interpolate(patches, size=grid, mode="bicubic", align_corners=False)
        return torch.cat([positions[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)

    def forward(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        """[B, 3, H, W] to [B, 1 + patches, width]; which sizes are welcome is checked by the model."""
        return super().forward(pixel_values, interpolate_pos_encoding=True)

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        patch = cast(int, self.patch_size)
        return height // patch, width // patch


class GridVisionModel(CLIPVisionModel):
    """CLIP's vision tower with `GridEmbeddings`, for a config whose `image_size` is a pair."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__(square(config))
        self.config = config
        self.embeddings = GridEmbeddings(config)
        self.post_init()


def square(config: CLIPVisionConfig) -> CLIPVisionConfig:
    """The same tower for images of one patch, which transformers can build."""
    return CLIPVisionConfig(**config.to_dict() | {"image_size": config.patch_size})


__all__ = ["GridEmbeddings", "GridVisionModel"]
