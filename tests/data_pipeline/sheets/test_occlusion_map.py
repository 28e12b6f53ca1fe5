"""Occlusion maps of a model with known sensitive regions."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from data_pipeline.sheets.occlusion_map import MAP_GRID, occlusion_maps
from data_pipeline.sheets.retrieval_sheet import spread


class Model:
    """Identity is the mean brightness of the upper left quarter, clothing that of the lower half."""

    def get_image_features(self, pixel_values: Tensor) -> Any:
        height, width = pixel_values.shape[-2:]
        upper = pixel_values[:, :, : height // 2, : width // 2].mean(dim=(1, 2, 3))
        lower = pixel_values[:, :, height // 2 :].mean(dim=(1, 2, 3))
        return SimpleNamespace(pooler_output=torch.stack([upper, lower], dim=1))


def test_occlusion_maps_are_bright_at_sensitive_patches() -> None:
    torch.manual_seed(0)
    pixels = torch.rand(1, 3, 64, 32)
    pixels[:, :, 10:14, 4:8] += 5  # identity
    pixels[:, :, 50:54, 20:24] += 5  # clothing
    identity, clothing = occlusion_maps(Model(), pixels, torch.ones(1, 2))  # type: ignore[arg-type]
    assert identity.shape == clothing.shape == MAP_GRID
    assert identity.max() == clothing.max() == 1
    rows, columns = MAP_GRID
    for found, (y, x) in ((identity, (12, 6)), (clothing, (52, 22))):
        row, column = divmod(int(found.argmax()), columns)
        assert abs(row - y * rows / 64) <= 1
        assert abs(column - x * columns / 32) <= 1
    assert not identity[rows // 2 + 1 :].any()
    assert not clothing[: rows // 2 - 1].any()


def test_occlusion_maps_of_a_black_image_are_zero() -> None:
    maps = occlusion_maps(Model(), torch.zeros(1, 3, 64, 32), torch.ones(1, 2))  # type: ignore[arg-type]
    assert not maps[0].any() and not maps[1].any()


def test_spread_includes_both_ends() -> None:
    assert spread(3, 11) == [0, 5, 10]
    assert spread(8, 2) == [0, 1]
