"""CLIP's vision tower for a patch grid that is not square, such as 24 x 8 for images of 384 x 128."""

from typing import cast

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.models.clip.modeling_clip import CLIPVisionEmbeddings


class GridEmbeddings(CLIPVisionEmbeddings):
    """Patch embeddings with one position embedding per patch of `config.image_size`, a pair (height, width).

    transformers' class supports only square images. Parameter names are the same.
    """

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__(_one_patch(config))
        self.config = config
        height, width = cast(tuple[int, int], config.image_size)
        self.grid = self._grid(height, width)
        self.num_patches = self.grid[0] * self.grid[1]
        self.num_positions = self.num_patches + 1
        self.position_embedding = nn.Embedding(self.num_positions, self.embed_dim)
        self.position_ids = nn.Buffer(torch.arange(self.num_positions)[None], persistent=False)

    def interpolate_pos_encoding(self, embeddings: Tensor, height: int, width: int) -> Tensor:
        """Returns position embeddings [1, 1 + patches, width] for images of this height and width in pixels."""
        grid = self._grid(height, width)
        positions = self.position_embedding.weight[None]  # [1, 1 + patches, width]
        if grid == self.grid:
            return positions
        patches = positions[:, 1:].transpose(1, 2).unflatten(2, self.grid)  # [1, width, rows, columns]
        patches = nn.functional.interpolate(patches, size=grid, mode="bicubic", align_corners=False)
        return torch.cat([positions[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)

    def forward(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        """Embeds images [B, 3, H, W] as [B, 1 + patches, width]; `BDAMModel` checks the image size."""
        return super().forward(pixel_values, interpolate_pos_encoding=True)

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        patch = cast(int, self.patch_size)
        return height // patch, width // patch


class GridVisionModel(CLIPVisionModel):
    """CLIP's vision tower with `GridEmbeddings`, for a config with a pair as `image_size`."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__(_one_patch(config))
        self.config = config
        self.embeddings = GridEmbeddings(config)
        self.post_init()

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        """Initializes like CLIP: for custom code, transformers would skip the `_init_weights` of its layers."""
        super()._initialize_weights(module)


def _one_patch(config: CLIPVisionConfig) -> CLIPVisionConfig:
    """Copies a config with images of one patch, a square that transformers' constructors accept."""
    return CLIPVisionConfig(**config.to_dict() | {"image_size": config.patch_size})


__all__ = ["GridEmbeddings", "GridVisionModel"]
