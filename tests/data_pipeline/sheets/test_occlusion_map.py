"""Occlusion maps of a model with known sensitive regions."""

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn
from transformers import BatchFeature

from data_pipeline.sheets import occlusion_map, sheet_text
from data_pipeline.sheets.occlusion_map import MAP_GRID, occlusion_maps
from data_pipeline.sheets.retrieval_sheet import spread


class Model(nn.Linear):
    """Identity is the mean brightness of the upper left quarter, clothing that of the lower half."""

    def __init__(self) -> None:
        super().__init__(1, 1)

    def get_text_features(self, *inputs: Tensor) -> Any:
        return SimpleNamespace(pooler_output=torch.ones(1, 2))

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


def test_draw_attention_shows_whole_titles_in_any_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def save_figure(figure: Figure, path: Path) -> Path:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        boxes = [axes._left_title.get_window_extent(canvas.get_renderer()) for axes in figure.axes[:6]]  # type: ignore
        assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height for box in boxes)
        assert figure.axes[0].get_title("left").count("\n") == 4
        return path

    monkeypatch.setattr(occlusion_map, "save_figure", save_figure)
    monkeypatch.setattr(sheet_text, "_missing_reported", False)
    monkeypatch.setattr(sheet_text, "_installed_fonts", tuple)
    inputs = BatchFeature({name: torch.rand(1, 3, 64, 32) for name in ("pixel_values", "input_ids", "attention_mask")})
    image = Image.new("RGB", (64, 192))
    for caption in ("a tall woman with dark brown hair and a red $5 coat " * 5, "高个子女人穿着红色外套" * 9):
        rows = Dataset.from_list([{"image": image, "captions": [caption]}] * 6).cast_column("image", ImageFeature())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message="Glyph .* missing from")  # as at the import of sheet_text
            occlusion_map.draw_attention(Model(), lambda **_: inputs, rows, tmp_path / "a.png")  # type: ignore[arg-type]
    (message,) = caplog.messages
    assert message.startswith("no installed font has the letters ") and message.endswith("such as Noto Sans CJK")
