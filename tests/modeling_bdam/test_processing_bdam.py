"""Tests of the processor: images of any mode, truncation of texts, saving."""

import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_bdam import processing_bdam
from modeling_bdam.processing_bdam import BDAMProcessor, default_image_processor, to_rgb

TOO_LONG = "red coat " * 6


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch, word_tokenizer: Any) -> BDAMProcessor:
    monkeypatch.setattr(processing_bdam, "_truncation_warned", False)
    return BDAMProcessor(default_image_processor(32, 16), word_tokenizer(8))


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, logger=processing_bdam.__name__)
    return caplog


def test_images_and_texts_become_model_inputs(processor: BDAMProcessor, photo: Any) -> None:
    batch = processor(images=[photo(), photo(20, 50)], text=["a man", "a woman in red"], return_tensors="pt")
    assert list(batch) == ["input_ids", "attention_mask", "pixel_values"]
    assert set(batch) == set(processor.model_input_names)
    assert batch["pixel_values"].shape == (2, 3, 32, 16)
    assert batch["input_ids"].tolist() == [[3, 6, 0, 0], [3, 7, 8, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_pixels_are_resized_and_scaled_to_minus_one_and_one(processor: BDAMProcessor, photo: Any) -> None:
    pixels = processor(images=photo(), return_tensors="pt")["pixel_values"][0]
    resized = np.asarray(photo().resize((16, 32), Image.Resampling.BILINEAR), dtype=np.float64)
    np.testing.assert_allclose(pixels.numpy(), resized.transpose(2, 0, 1) / 127.5 - 1, atol=1e-6)


def test_processor_without_input_raises(processor: BDAMProcessor) -> None:
    with pytest.raises(ValueError, match="at least one input"):
        processor()


def test_truncation_is_reported_once(processor: BDAMProcessor, warnings: pytest.LogCaptureFixture) -> None:
    batch = processor(text=["a man", TOO_LONG], return_tensors="pt")
    processor(text=2 * TOO_LONG)
    assert batch["input_ids"].shape == (2, 8)
    assert warnings.messages == [
        "A text of 12 tokens is longer than the maximum of 8: its last 4 tokens were truncated. Later truncations of "
        "this process are not reported."
    ]


@pytest.mark.parametrize("padding", [True, "max_length", False])
def test_text_of_maximum_length_is_not_reported(
    processor: BDAMProcessor, warnings: pytest.LogCaptureFixture, padding: bool | str
) -> None:
    processor(text="red coat " * 4, padding=padding)
    processor(text=["red coat " * 4, "a man"], padding=padding)
    assert not warnings.messages


def test_truncation_can_be_switched_off(processor: BDAMProcessor, warnings: pytest.LogCaptureFixture) -> None:
    assert len(processor(text=TOO_LONG, truncation=False)["input_ids"]) == 12
    assert not any("were truncated" in message for message in warnings.messages)


def test_to_rgb_does_not_copy_upright_rgb(photo: Any) -> None:
    image = photo()
    assert to_rgb(image) is image


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "LA", "RGBA", "PA"])
def test_to_rgb_converts_each_mode(mode: str, processor: BDAMProcessor, photo: Any) -> None:
    image = photo().convert("L").convert(mode) if mode in ("I", "F", "LA", "PA") else photo().convert(mode)
    assert to_rgb(image).mode == "RGB"
    assert to_rgb(image).size == image.size
    assert processor(images=image, return_tensors="pt")["pixel_values"].shape == (1, 3, 32, 16)


@pytest.mark.parametrize("mode", ["CMYK", "P"])
def test_to_rgb_preserves_colors_of_other_modes(mode: str) -> None:
    flat = Image.new("RGB", (4, 4), (204, 51, 102))  # a color of the web palette
    np.testing.assert_allclose(np.asarray(to_rgb(flat.convert(mode))), np.asarray(flat), atol=3)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_to_rgb_scales_16_bit_gray(dtype: type) -> None:
    levels: np.ndarray = np.array([[0, 257, 32896, 65535]], dtype=dtype)
    assert np.asarray(to_rgb(Image.fromarray(levels)))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_to_rgb_fills_transparency_with_white() -> None:
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert to_rgb(clear).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (2, 2), 3)
    palette.info["transparency"] = 3
    assert to_rgb(palette).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(("orientation", "turn"), [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_270)])
def test_to_rgb_applies_the_exif_orientation(orientation: int, turn: Image.Transpose, photo: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    photo().save(file, "PNG", exif=exif)
    np.testing.assert_array_equal(np.asarray(to_rgb(Image.open(file))), np.asarray(photo().transpose(turn)))


def test_save_and_load_keep_the_outputs(processor: BDAMProcessor, tmp_path: Path, photo: Any) -> None:
    processor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "processor_config.json").read_text())["processor_class"] == "BDAMProcessor"
    assert not (tmp_path / "preprocessor_config.json").exists()
    loaded = BDAMProcessor.from_pretrained(tmp_path)
    outputs, expected = (one(images=photo(), text="a man in red", return_tensors="pt") for one in (loaded, processor))
    for key in processor.model_input_names:
        assert torch.equal(outputs[key], expected[key])
