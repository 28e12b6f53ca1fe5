"""Occlusion maps: the image regions that the similarity with the identity and the clothing of a caption depends on."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from modeling_bdam import BDAMModel, BDAMProcessor

from .figure_style import figure_style, no_grid, save_figure
from .retrieval_sheet import spread
from .sheet_text import font_families_for, wrap_text

MAP_IMAGES = 6
MAP_GRID = (16, 8)  # masked patches: rows, columns
COVER_GRID = (4, 2)  # mean colors that replace a patch
MAP_BATCH = 64  # masked images per forward pass


def occlusion_maps(model: BDAMModel, pixel_values: Tensor, query: Tensor) -> tuple[NDArray, NDArray]:
    """Computes the drop in similarity when a patch is masked, for the identity and the clothing of a caption.

    Each patch in turn is covered with the mean color around it. Gradients at the tokens of the tower are cheaper but
    not informative here, because self-attention has mixed all tokens.

    Args:
        pixel_values: [1, 3, H, W].
        query: the caption's `pooler_output`, [1, 2 * projection_dim].

    Returns:
        two maps [16, 8], for identity and clothing, each with its largest entry 1, or all 0.
    """
    # One copy of the image per masked patch
    (lines, columns), (height, width) = MAP_GRID, pixel_values.shape[-2:]
    colors = nn.functional.adaptive_avg_pool2d(pixel_values, COVER_GRID)  # [1, 3, 4, 2]
    cover = nn.functional.interpolate(colors, size=(height, width), mode="bilinear")[0]  # [3, H, W]
    images = [pixel_values[0]]
    for line in range(lines):
        for column in range(columns):
            # The patch and half of its neighbors
            rows = slice(max(0, (2 * line - 1) * height // (2 * lines)), (2 * line + 3) * height // (2 * lines))
            across = slice(max(0, (2 * column - 1) * width // (2 * columns)), (2 * column + 3) * width // (2 * columns))
            image = pixel_values[0].clone()
            image[:, rows, across] = cover[:, rows, across]
            images.append(image)

    # Similarity lost by each mask
    with torch.no_grad():
        parts = [model.get_image_features(batch).pooler_output for batch in torch.stack(images).split(MAP_BATCH)]
    maps = []
    for text, images_half in zip(query.chunk(2, dim=-1), torch.cat(parts).chunk(2, dim=-1), strict=True):
        similarity = (images_half @ text[0]).float().cpu().numpy()  # [1 + 16 * 8], the unmasked image first
        lost = np.maximum(similarity[0] - similarity[1:], 0).reshape(MAP_GRID)
        maps.append(lost / lost.max() if lost.max() > 0 else lost)
    return maps[0], maps[1]


def draw_attention(model: BDAMModel, processor: BDAMProcessor, rows: Any, path: Path) -> Path:
    """Draws six evenly spaced images above their occlusion maps of identity and clothing for their first caption."""
    numbers = [number for number, captions in enumerate(rows["captions"]) if captions]
    chosen = [numbers[place] for place in spread(MAP_IMAGES, len(numbers))]
    device = next(model.parameters()).device
    model.eval()
    with figure_style():
        figure = Figure(figsize=(1.45 * len(chosen) + 0.3, 6.6))
        grid = figure.subplots(3, len(chosen), squeeze=False)
        for column, number in enumerate(chosen):
            image, caption = rows[number]["image"].convert("RGB"), rows[number]["captions"][0]
            inputs = processor(images=[image], text=[caption], return_tensors="pt").to(device)
            with torch.no_grad():
                query = model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output
            maps = occlusion_maps(model, inputs["pixel_values"], query)
            _show(grid[0, column], image, None)
            title = "\n".join(wrap_text(caption, 24, max_lines=5))
            style: dict[str, Any] = {"fontfamily": font_families_for(title), "parse_math": False}
            grid[0, column].set_title(title, fontsize=6.5, fontweight="normal", **style)
            for row, values in enumerate(maps, start=1):
                _show(grid[row, column], image, values)
        for axes, label in zip(grid[:, 0], ("image", "identity", "clothing"), strict=True):
            axes.set_ylabel(label, fontweight="bold")
        return save_figure(figure, path)


def _show(axes: Any, image: Image.Image, values: NDArray | None) -> None:
    """Draws an image, or the image in grey below a colored map."""
    no_grid(axes)
    axes.set_anchor("W")  # leaves the width of the column to the title
    for side in axes.spines.values():
        side.set_visible(False)
    extent = (0, image.width, image.height, 0)
    if values is None:
        axes.imshow(image, extent=extent)
        return
    axes.imshow(image.convert("L"), extent=extent, cmap="gray")
    smooth = Image.fromarray(values.astype(np.float32)).resize(image.size, Image.Resampling.BICUBIC)
    axes.imshow(np.clip(np.asarray(smooth), 0, 1), extent=extent, cmap="inferno", alpha=0.6, vmin=0, vmax=1)
