"""Images are sent unchanged if they meet the limits, and re-encoded otherwise."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from PIL import Image

from data_pipeline.descriptions.images import ImageItem, ImageItems, data_uri

from .small_images import jpeg


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def sent(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_data_uri_keeps_the_bytes_of_a_small_image(kind: str) -> None:
    data = encoded(noise(128, 384), kind)
    expected = f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode()}"
    assert data_uri(data, max_bytes=300_000) == expected


def test_data_uri_shrinks_a_large_image_or_file() -> None:
    image = sent(data_uri(encoded(noise(600, 1500), "PNG"), max_side=500))
    assert image.format == "JPEG" and image.size == (200, 500)
    data = encoded(noise(300, 600), "PNG")
    uri = data_uri(data, max_bytes=100_000)
    assert len(uri) < len(data) and sent(uri).size == (300, 600)


@pytest.mark.parametrize("mode", ["CMYK", "I;16", "L", "LA"])
def test_data_uri_converts_rare_modes(mode: str) -> None:
    deep = Image.fromarray(np.full((60, 30), 40_000, dtype=np.uint16))
    image = deep if mode == "I;16" else noise(30, 60).convert(mode)
    kind = "TIFF" if mode in ("CMYK", "I;16") else "PNG"
    assert sent(data_uri(encoded(image, kind))).mode in ("RGB", "L")


def test_data_uri_applies_the_exif_orientation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert sent(data_uri(encoded(noise(90, 40), "JPEG", exif=exif.tobytes()))).size == (40, 90)


@pytest.mark.parametrize("data", [b"", b"no image", jpeg(0)[:300]])
@pytest.mark.parametrize("max_side", [10, 1000])
def test_data_uri_rejects_unreadable_bytes(data: bytes, max_side: int) -> None:
    with pytest.raises(ValueError, match="unreadable image"):
        data_uri(data, max_side=max_side)


def test_items_yields_images_with_their_names(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    on_disk = Dataset.from_dict({"image": [str(tmp_path / "a.jpg")], "file_path": ["x/a.jpg"], "person_id": [1]})
    splits = DatasetDict(train=on_disk, test=Dataset.from_dict({"image": [{"bytes": jpeg(2), "path": None}]}))
    items = ImageItems(splits)
    assert len(items) == 2 and list(items.file_paths()) == ["x/a.jpg", "test/000000"]
    assert [(item.file_path, item.read()) for item in items] == [("x/a.jpg", jpeg(1)), ("test/000000", jpeg(2))]
    assert list(ImageItems(splits, ["test"])) == [ImageItem("test/000000", jpeg(2))]
    with pytest.raises(ValueError, match="unknown split 'val'; the data set has train, test"):
        ImageItems(splits, ["val"])
