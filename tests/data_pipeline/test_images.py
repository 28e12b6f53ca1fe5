"""Decodes images of any mode to upright RGB, or refuses them with one line that names the file."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image
from torch.utils.data import DataLoader

from data_pipeline.batches.collator import PixelBatcher
from data_pipeline.images import UnreadableImageError, check_image, open_image, with_image_files
from modeling_bdam.processing_bdam import default_image_processor

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
ROTATED_CLOCKWISE = 6
LOSSLESS: Any = {"lossless": True}  # for WebP; ignored by the other formats


def quarters(width: int = 32, height: int = 64) -> Image.Image:
    """Four colors that reveal any rotation or mirroring: red, green / blue, white."""
    return Image.fromarray(np.array([[RED, GREEN], [BLUE, WHITE]], dtype=np.uint8)).resize((width, height), 0)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    """The colors near the four corners."""
    width, height = image.size
    places = [(4, 4), (width - 5, 4), (4, height - 5), (width - 5, height - 5)]
    return [image.getpixel(place) for place in places]  # type: ignore[misc]


def assert_colors(found: list[tuple[int, ...]], wanted: list[tuple[int, ...]], tolerance: int = 12) -> None:
    assert np.abs(np.array(found) - np.array(wanted)).max() <= tolerance, found


MODES: dict[str, tuple[str, Callable[[Image.Image], Image.Image]]] = {
    "RGB JPEG": ("jpg", lambda image: image),
    "CMYK JPEG": ("jpg", lambda image: image.convert("CMYK")),
    "CMYK TIFF": ("tif", lambda image: image.convert("CMYK")),
    "palette PNG": ("png", lambda image: image.convert("P")),
    "GIF": ("gif", lambda image: image),
    "opaque RGBA PNG": ("png", lambda image: image.convert("RGBA")),
    "LAB TIFF": ("tif", lambda image: image.convert("LAB")),
    "WebP": ("webp", lambda image: image),
    "BMP": ("bmp", lambda image: image),
}


@pytest.mark.parametrize("kind", MODES)
def test_open_image_converts_any_mode(kind: str, tmp_path: Path) -> None:
    suffix, convert = MODES[kind]
    file = tmp_path / f"image.{suffix}"
    convert(quarters()).save(file, **LOSSLESS)
    assert check_image(file) is None
    image = open_image(file)
    assert image.mode == "RGB" and image.size == (32, 64)
    assert_colors(corners(image), [RED, GREEN, BLUE, WHITE], 40 if kind == "LAB TIFF" else 12)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_open_image_scales_16_bits_to_8(suffix: str, tmp_path: Path) -> None:
    levels = np.linspace(0, 65535, 32 * 64).reshape(64, 32)
    Image.fromarray(levels.astype(np.uint16)).save(tmp_path / f"deep.{suffix}")
    image = open_image(tmp_path / f"deep.{suffix}")
    assert image.mode == "RGB"
    np.testing.assert_allclose(np.asarray(image)[..., 1], levels / 257, atol=1)


def test_open_image_fills_transparency_with_white(tmp_path: Path) -> None:
    image = quarters().convert("RGBA")
    image.putalpha(0)
    image.save(tmp_path / "clear.png")
    assert corners(open_image(tmp_path / "clear.png")) == [WHITE] * 4


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_open_image_applies_the_exif_rotation(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"turned.{suffix}"
    quarters().save(file, exif=exif(ROTATED_CLOCKWISE), **LOSSLESS)
    rows = Dataset.from_dict({"image": [str(file)]}).cast_column("image", ImageFeature())
    ways: dict[str, Any] = {
        "path": file,
        "file of a row": with_image_files(rows)[0]["image"],
        "bytes of a row": {"path": None, "bytes": file.read_bytes()},
        "decoded and rotated by datasets": rows[0]["image"],
        "opened": Image.open(file),
    }
    for way, source in ways.items():
        image = open_image(source)
        assert image.size == (64, 32), way
        assert_colors(corners(image), [BLUE, RED, WHITE, GREEN])


def test_open_image_draft_mode_changes_few_gray_levels(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1200, 900, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.jpg", exif=exif(ROTATED_CLOCKWISE), quality=95)
    size = (32, 96)
    small = open_image(tmp_path / "large.jpg", size)
    assert small.size == (300, 225)  # a quarter, rotated: still more than twice the target size
    full = open_image(tmp_path / "large.jpg")
    assert full.size == (1200, 900)
    for filter_ in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC):
        difference = np.asarray(small.resize(size, filter_), int) - np.asarray(full.resize(size, filter_), int)
        assert np.abs(difference).max() <= 4 and np.abs(difference).mean() < 1  # noise is the worst case


@pytest.mark.parametrize(("width", "is_small"), [(383, False), (384, True)])
def test_open_image_draft_mode_needs_four_times_the_size(width: int, is_small: bool, tmp_path: Path) -> None:
    quarters(width, 400).save(tmp_path / "image.jpg")
    assert (open_image(tmp_path / "image.jpg", (32, 96)).width < width) == is_small


def broken_files(folder: Path) -> dict[Path, str]:
    """Writes unreadable files; returns a pattern of the reason of each."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    jpeg, png = io.BytesIO(), io.BytesIO()
    noise.save(jpeg, "JPEG")
    noise.save(png, "PNG")
    contents = {
        "zero.jpg": (b"", "zero bytes"),
        "text.jpg": (b"<html>not found</html>", "no image of a known format"),
        "cut.jpg": (jpeg.getvalue()[:-900], "truncated"),
        "cut.png": (png.getvalue()[:-900], "truncated"),
        "header.png": (png.getvalue()[:20], "trunc|no image|broken"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder.jpg").mkdir()
    reasons = {folder / name: reason for name, (_, reason) in contents.items()}
    return reasons | {folder / "folder.jpg": "directory", folder / "gone.jpg": "there is no such file"}


def test_unreadable_files_are_named_with_the_reason(tmp_path: Path) -> None:
    for file, reason in broken_files(tmp_path).items():
        found = check_image(file)
        assert found is not None and "\n" not in found and str(file) not in found
        for source in (file, str(file), {"path": str(file), "bytes": None}):
            with pytest.raises(UnreadableImageError, match=f"(?i){file.name}: .*({reason})") as caught:
                open_image(source)
            assert str(caught.value) == f"{file}: {found}"


def test_unreadable_bytes_are_named_by_their_path() -> None:
    with pytest.raises(UnreadableImageError, match=r"^0001\.jpg: no image of a known format$"):
        open_image({"path": "0001.jpg", "bytes": b"text"})
    with pytest.raises(UnreadableImageError, match=r"^an image without a name: "):
        open_image({"path": None, "bytes": b"text"})


def _decode(files: list[str]) -> np.ndarray:
    return PixelBatcher(default_image_processor(8, 8)).resize(files[0])


def test_error_of_a_worker_process_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "zero.jpg").touch()
    files: Any = [str(tmp_path / "zero.jpg")]
    loader = DataLoader(files, collate_fn=_decode, num_workers=1, multiprocessing_context="fork")
    with pytest.raises(UnreadableImageError) as caught:
        next(iter(loader))
    assert str(caught.value) == f"{tmp_path / 'zero.jpg'}: zero bytes"


def test_decompression_bombs_are_refused_without_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "large.jpg"
    quarters(1000, 1000).save(file)
    # Pillow warns above the limit, and refuses above twice the limit
    program = (
        "import sys\n"
        "from PIL import Image\n"
        "from data_pipeline.images import check_image, open_image\n"
        "for Image.MAX_IMAGE_PIXELS in (900_000, 400_000):\n"
        "    print(check_image(sys.argv[1]))\n"
        "    print(open_image(sys.argv[1]).size)\n"
    )
    run = subprocess.run([sys.executable, "-W", "error", "-c", program, file], capture_output=True, text=True)
    assert run.stdout.splitlines() == ["None", "(1000, 1000)", "more than 0 megapixels"], run.stderr
    assert run.stderr.startswith("Traceback")  # no warning before it
    assert run.stderr.strip().endswith(f"UnreadableImageError: {file}: more than 0 megapixels")


def test_open_image_ignores_a_broken_exif_block(tmp_path: Path) -> None:
    content = io.BytesIO()
    quarters().save(content, "JPEG", exif=exif(ROTATED_CLOCKWISE))
    data = content.getvalue()
    start = data.index(b"Exif\0\0") + 6
    (tmp_path / "odd.jpg").write_bytes(data[:start] + b"XXXX" + data[start + 4 :])
    assert open_image(tmp_path / "odd.jpg").size == (32, 64)
