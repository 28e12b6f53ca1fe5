"""The processor takes any image and any text, and survives a save, with and without this package."""

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from modeling_bdam import processing_bdam
from modeling_bdam.processing_bdam import BDAMProcessor, default_image_processor, to_rgb

WORDS = ["[PAD]", "[UNK]", "a", "man", "woman", "in", "red", "coat"]


def word_tokenizer(max_length: int = 8) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=max_length, pad_token="[PAD]", unk_token="[UNK]"
    )


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> BDAMProcessor:
    monkeypatch.setattr(processing_bdam, "_truncation_warned", False)
    return BDAMProcessor(default_image_processor(32, 16), word_tokenizer())


def photo(height: int = 48, width: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_images_and_texts_become_the_model_inputs(processor: BDAMProcessor) -> None:
    batch = processor(images=[photo(), photo(20, 50)], text=["a man", "a woman in red"], return_tensors="pt")
    assert list(batch) == ["input_ids", "attention_mask", "pixel_values"]
    assert set(batch) == set(processor.model_input_names)
    assert batch["pixel_values"].shape == (2, 3, 32, 16)
    assert batch["input_ids"].tolist() == [[2, 3, 0, 0], [2, 4, 5, 6]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_pixels_are_the_resized_image_scaled_to_minus_one_and_one(processor: BDAMProcessor) -> None:
    pixels = processor(images=photo(), return_tensors="pt")["pixel_values"][0]
    resized = np.asarray(photo().resize((16, 32), Image.Resampling.BILINEAR), dtype=np.float64)
    np.testing.assert_allclose(pixels.numpy(), resized.transpose(2, 0, 1) / 127.5 - 1, atol=1e-6)


def test_neither_image_nor_text_is_an_error(processor: BDAMProcessor) -> None:
    with pytest.raises(ValueError, match="at least one input"):
        processor()


def test_a_long_text_is_cut_and_reported_once(processor: BDAMProcessor, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger=processing_bdam.__name__):
        batch = processor(text=["a man", "red coat " * 6], return_tensors="pt")
        processor(text="red coat " * 9)
    assert batch["input_ids"].shape == (2, 8)
    assert [record.getMessage() for record in caplog.records] == [
        "A text of 12 tokens is longer than the maximum of 8: its last 4 tokens were cut. Later truncations of this "
        "process are not reported."
    ]


@pytest.mark.parametrize("padding", [True, "max_length", False])
def test_a_text_that_just_fits_is_not_reported(
    processor: BDAMProcessor, caplog: pytest.LogCaptureFixture, padding: bool | str
) -> None:
    with caplog.at_level(logging.WARNING, logger=processing_bdam.__name__):
        processor(text="red coat " * 4, padding=padding)
        processor(text=["red coat " * 4, "a man"], padding=padding)
    assert not caplog.records


def test_truncation_switched_off_is_respected(processor: BDAMProcessor, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger=processing_bdam.__name__):
        assert len(processor(text="red coat " * 6, truncation=False)["input_ids"]) == 12
    assert not any("were cut" in record.getMessage() for record in caplog.records)


def test_an_upright_rgb_image_is_not_copied() -> None:
    image = photo()
    assert to_rgb(image) is image


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "LA", "RGBA", "PA"])
def test_any_mode_becomes_rgb_of_the_same_size(mode: str, processor: BDAMProcessor) -> None:
    image = photo().convert("L").convert(mode) if mode in ("I", "F", "LA", "PA") else photo().convert(mode)
    assert to_rgb(image).mode == "RGB"
    assert to_rgb(image).size == image.size
    assert processor(images=image, return_tensors="pt")["pixel_values"].shape == (1, 3, 32, 16)


@pytest.mark.parametrize("mode", ["CMYK", "P"])
def test_an_image_looks_the_same_after_a_detour_over_another_mode(mode: str) -> None:
    flat = Image.new("RGB", (4, 4), (204, 51, 102))  # a color of the web palette
    np.testing.assert_allclose(np.asarray(to_rgb(flat.convert(mode))), np.asarray(flat), atol=3)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_sixteen_bit_grey_is_scaled_not_clipped(dtype: type) -> None:
    levels: np.ndarray = np.array([[0, 257, 32896, 65535]], dtype=dtype)
    assert np.asarray(to_rgb(Image.fromarray(levels)))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_transparency_becomes_white() -> None:
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert to_rgb(clear).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (2, 2), 3)
    palette.info["transparency"] = 3
    assert to_rgb(palette).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(("orientation", "turn"), [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_270)])
def test_exif_rotated_photos_are_turned_upright(orientation: int, turn: Image.Transpose) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    photo().save(file, "PNG", exif=exif)
    np.testing.assert_array_equal(np.asarray(to_rgb(Image.open(file))), np.asarray(photo().transpose(turn)))


def test_save_and_load_give_the_same_outputs_and_one_processor_file(processor: BDAMProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "processor_config.json").read_text())["processor_class"] == "BDAMProcessor"
    assert not (tmp_path / "preprocessor_config.json").exists()
    loaded = BDAMProcessor.from_pretrained(tmp_path)
    outputs, expected = (one(images=photo(), text="a man in red", return_tensors="pt") for one in (loaded, processor))
    for key in processor.model_input_names:
        assert torch.equal(outputs[key], expected[key])


def test_auto_processor_loads_it_as_remote_code_without_this_package(processor: BDAMProcessor, tmp_path: Path) -> None:
    script = """
import sys
sys.modules["modeling_bdam"] = None  # importing it raises ImportError, even where it is installed
import numpy as np
from PIL import Image
from transformers import AutoProcessor
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
image = Image.fromarray(np.arange(48 * 30 * 3, dtype=np.uint8).reshape(48, 30, 3))
batch = processor(images=image, text="a woman", return_tensors="pt")
print(type(processor).__name__, batch["input_ids"].tolist(), batch["pixel_values"].double().sum().item())
"""
    auto_class = BDAMProcessor._auto_class
    BDAMProcessor.register_for_auto_class("AutoProcessor")
    try:
        processor.save_pretrained(tmp_path / "saved")
    finally:
        BDAMProcessor._auto_class = auto_class
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    environment.pop("HF_MODULES_CACHE", None)
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "saved")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    image = Image.fromarray(np.arange(48 * 30 * 3, dtype=np.uint8).reshape(48, 30, 3))
    expected = processor(images=image, text="a woman", return_tensors="pt")
    total = expected["pixel_values"].double().sum().item()
    assert run.stdout.strip() == f"BDAMProcessor {expected['input_ids'].tolist()} {total}"
