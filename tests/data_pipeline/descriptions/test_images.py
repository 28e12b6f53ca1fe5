"""Images travel as they lie on disk where that will do."""

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


@pytest.mark.parametrize(("kind", "mime"), [("JPEG", "image/jpeg"), ("PNG", "image/png"), ("WEBP", "image/webp")])
def test_a_small_image_goes_byte_for_byte(kind: str, mime: str) -> None:
    data = encoded(noise(128, 384), kind)
    assert data_uri(data, max_bytes=300_000) == f"data:{mime};base64,{base64.b64encode(data).decode()}"


def test_a_large_image_is_scaled_down_and_keeps_its_shape() -> None:
    image = sent(data_uri(encoded(noise(600, 1500), "PNG"), max_side=500))
    assert image.format == "JPEG" and image.size == (200, 500)


def test_a_heavy_file_becomes_lighter() -> None:
    data = encoded(noise(300, 600), "PNG")
    uri = data_uri(data, max_bytes=100_000)
    assert len(uri) < len(data) and sent(uri).size == (300, 600)


@pytest.mark.parametrize("mode", ["CMYK", "I;16", "L", "LA"])
def test_any_mode_arrives_as_something_servers_read(mode: str) -> None:
    kind = "TIFF" if mode in ("CMYK", "I;16") else "PNG"
    if mode == "I;16":
        image = Image.fromarray(np.full((60, 30), 40_000, dtype=np.uint16))
    else:
        image = noise(30, 60).convert(mode)
    assert sent(data_uri(encoded(image, kind))).mode in ("RGB", "L")


def test_a_picture_on_its_side_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert sent(data_uri(encoded(noise(90, 40), "JPEG", exif=exif.tobytes()))).size == (40, 90)


@pytest.mark.parametrize("data", [b"", b"no image", jpeg(0)[:300]])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    for max_side in (10, 1000):
        with pytest.raises(ValueError, match="no readable image"):
            data_uri(data, max_side=max_side)


def test_items_come_one_by_one_under_their_names(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    on_disk = Dataset.from_dict({"image": [str(tmp_path / "a.jpg")], "file_path": ["x/a.jpg"], "person_id": [1]})
    in_table = Dataset.from_dict({"image": [{"bytes": jpeg(2), "path": None}]})
    items = ImageItems(DatasetDict(train=on_disk, test=in_table))
    assert len(items) == 2 and list(items.file_paths()) == ["x/a.jpg", "test/000000"]
    assert [(item.file_path, item.read()) for item in items] == [("x/a.jpg", jpeg(1)), ("test/000000", jpeg(2))]
    assert list(ImageItems(DatasetDict(train=on_disk, test=in_table), ["test"])) == [ImageItem("test/000000", jpeg(2))]
    with pytest.raises(ValueError, match="no split 'val'; the data set has train, test"):
        ImageItems(DatasetDict(train=on_disk, test=in_table), ["val"])
