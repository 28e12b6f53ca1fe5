"""Tests of the processor: images of any mode, truncation of texts, saving."""

import base64
import io
import json
import logging
import re
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


RGB = np.random.default_rng(0).integers(0, 256, (48, 30, 3), dtype=np.uint8)
GRAY, RGBA = RGB[..., 0], np.dstack([RGB, RGB[..., :1]])


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("pixels", [RGB, GRAY, RGBA, RGBA[..., 2:]], ids=["rgb", "gray", "rgba", "gray_alpha"])
def test_array_and_tensor_equal_the_pil_image(processor: BDAMProcessor, pixels: np.ndarray) -> None:
    last = pixels.reshape(48, 30, -1)
    first = np.ascontiguousarray(last.transpose(2, 0, 1))
    tensor = torch.from_numpy(first)
    unit = torch.from_numpy(first / 255).requires_grad_()
    forms: list[Any] = [pixels, last, first, tensor, last.astype(np.int64), last.astype(np.float32), unit, unit.half()]
    forms += [last[None], tensor[None], list(last[None]), [[first]]]
    expected = processor(images=Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    for form in forms:
        assert processor(images=form, return_tensors="pt")["pixel_values"].equal(expected)
    assert processor(images=last, return_tensors="pt", input_data_format="channels_last")["pixel_values"].equal(
        expected
    )
    (exact,) = processor(images=unit, return_tensors="pt", do_rescale=False, do_resize=False)["pixel_values"]
    (rounded,) = processor(images=pixels, return_tensors="pt", do_resize=False)["pixel_values"]
    torch.testing.assert_close(exact, rounded, atol=0.01, rtol=0)


@pytest.mark.parametrize("pixels", [RGB, GRAY, RGBA], ids=["rgb", "gray", "rgba"])
def test_encoded_image_equals_the_pil_image(processor: BDAMProcessor, pixels: np.ndarray, tmp_path: Path) -> None:
    file, content = tmp_path / "a.png", png(pixels)
    file.write_bytes(content)
    text = base64.b64encode(content).decode()
    forms: list[Any] = [file, str(file), content, bytearray(content), io.BytesIO(content), text]
    forms += [f"data:image/png;base64,{text}", {"bytes": content, "path": None}, {"bytes": None, "path": str(file)}]
    expected = processor(images=Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    for form in [*forms, iter([file])]:
        assert processor(images=form, return_tensors="pt")["pixel_values"].equal(expected)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("a man", "image 0, 'a man', cannot be read: there is no such file, and it is no URL and no image in base64"),
        (Path("no.png"), "image 0, PosixPath('no.png'), cannot be read: [Errno 2] No such file or directory: 'no.png'"),
        ("http://127.0.0.1:9/a.png", "image 0, 'http://127.0.0.1:9/a.png', cannot be read: [Errno 111] Connection"),
        ([RGB, b"GIF"], "image 1, of type bytes, cannot be read: no image of a known format"),
        ([None], "image 0, of type NoneType, cannot be read: give a PIL image, a path, bytes, an array or a tensor"),
        (np.stack([GRAY] * 5), "image 0, of type ndarray, cannot be read: its shape [5, 48, 30] has no axis of 1 to 4"),
        (RGB / 127.5 - 1, "image 0, of type ndarray, cannot be read: its values are -1.0 to 1.0; give floats of 0 to"),
        (RGB * np.nan, "image 0, of type ndarray, cannot be read: its values are nan to nan; give floats of 0 to 1"),
        (RGB[:0], "image 0, of type ndarray, cannot be read: its shape is [0, 30, 3]; give [H, W], [H, W, C]"),
    ],
)
def test_unreadable_image_raises_with_its_number(processor: BDAMProcessor, image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}.*$"):
        processor(images=image)


@pytest.mark.parametrize("text", [[None], 3, b"a man", [["a", "man"]], {"a": "man"}])
def test_text_of_another_type_raises(processor: BDAMProcessor, text: Any) -> None:
    with pytest.raises(ValueError, match=r"^text 0 is of type \w+: give a string or a list of strings$"):
        processor(text=text)


def test_text_is_positional_and_any_iterable(processor: BDAMProcessor) -> None:
    expected = processor(images=RGB, text=["a man", "red"])
    for text in (("a man", "red"), np.array(["a man", "red"]), iter(["a man", "red"])):
        assert processor(RGB, text)["input_ids"] == expected["input_ids"]


@pytest.mark.parametrize("images", [[], (), np.zeros((0, 48, 30, 3)), torch.zeros(0, 3, 48, 30)])
def test_empty_batch_returns_empty_tensors(processor: BDAMProcessor, images: Any) -> None:
    batch = processor(images=images, text=[], return_tensors="pt")
    assert {name: list(value.shape) for name, value in batch.items()} == {
        "input_ids": [0, 0],
        "attention_mask": [0, 0],
        "pixel_values": [0, 3, 32, 16],
    }
    assert batch["input_ids"].dtype == torch.int64 and batch["pixel_values"].dtype == torch.float32
    assert processor(images=images)["pixel_values"] == processor(text=())["input_ids"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_lenght": 3}, "no argument `max_lenght`, which is ignored; did you mean `max_length`?"),
        ({"text_kwargs": {"truncaton": 3}}, "no argument `truncaton`, which is ignored; did you mean `truncation`?"),
        ({"images_kwargs": {"do_resiz": 0}}, "no argument `do_resiz`, which is ignored; did you mean `do_resize`?"),
        ({"image": RGB}, "no argument `image`, which is ignored; did you mean `images`?"),
        ({"zzzzz": 0}, "no argument `zzzzz`, which is ignored"),
    ],
)
def test_unknown_argument_logs_the_nearest_name(
    processor: BDAMProcessor, warnings: pytest.LogCaptureFixture, arguments: dict[str, Any], message: str
) -> None:
    processor(images=RGB, text="a man", return_tensors="pt", padding=True, do_resize=True, **arguments)
    assert warnings.messages == [f"BDAMProcessor has {message}"]


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
