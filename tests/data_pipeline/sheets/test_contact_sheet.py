"""Contact sheets, read from their pixels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from data_pipeline.schema import PERSON_FEATURES
from data_pipeline.sheets.contact_sheet import contact_sheet

CELL = 200  # pixels, with captions


def split_of(images: list[Path], captions: list[str] | None = None, person: int = 1) -> Dataset:
    labels = {"person_id": person, "camera_id": -1, "outfit_id": -1, "captions": captions or []}
    texts = {"identity_description": None, "clothing_description": None}
    rows: list[dict[str, Any]] = [{"image": str(file), **labels, **texts} for file in images]
    return Dataset.from_list(rows, features=PERSON_FEATURES)


def pixels(file: Path) -> np.ndarray:
    with Image.open(file) as sheet:
        return np.asarray(sheet.convert("RGB")).astype(int)


def write(file: Path, size: tuple[int, int], color: str = "red") -> Path:
    Image.new("RGB", size, color).save(file)
    return file


def test_contact_sheet_keeps_a_wide_image_in_its_cell(tmp_path: Path) -> None:
    images = [write(tmp_path / "wide.png", (900, 100)), write(tmp_path / "tall.png", (40, 100), "blue")]
    sheet = pixels(contact_sheet(split_of(images), tmp_path / "sheet.png", rows=1, columns=2))
    assert sheet.shape[1] == 2 * CELL
    red = (sheet == (255, 0, 0)).all(-1).nonzero()
    assert np.ptp(red[1]) / np.ptp(red[0]) == pytest.approx(9, rel=0.1) and red[1].max() < CELL
    assert (sheet == (0, 0, 255)).all(-1).nonzero()[1].min() >= CELL


@pytest.mark.parametrize("caption", ["W" * 60, "一个穿着红色外套的男人" * 5, "a man in a red coat " * 40])
def test_contact_sheet_wraps_captions_in_any_script(caption: str, tmp_path: Path) -> None:
    image = write(tmp_path / "image.png", (40, 100), "white")
    sheet = pixels(contact_sheet(split_of([image], [caption]), tmp_path / "sheet.png", rows=1, columns=2))
    assert (sheet[:, :CELL].min(axis=-1) < 128).sum() > 200  # there is text
    assert (sheet[:, CELL - 5 :] == 255).all()


def test_contact_sheet_shows_a_card_for_an_unreadable_image(tmp_path: Path) -> None:
    (tmp_path / "zero.jpg").touch()
    split = split_of([tmp_path / "zero.jpg", write(tmp_path / "whole.png", (40, 100))])
    for captions in (True, False):
        file = contact_sheet(split, tmp_path / "sheet.png", rows=1, columns=2, captions=captions)
        sheet = pixels(file)
        assert (sheet == (255, 228, 225)).all(-1).sum() > 10_000  # mistyrose
        assert (sheet == (255, 0, 0)).all(-1).sum() > 1000


def test_contact_sheet_is_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = split_of([write(tmp_path / "image.png", (40, 100))])
    sheet = contact_sheet(split, tmp_path / "sheet.png")
    before = sheet.read_bytes()

    def fail(image: Image.Image, target: Path, format: str) -> None:
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        contact_sheet(split, sheet)
    assert sheet.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {"image.png", "sheet.png"}


def test_contact_sheet_omits_unknown_labels(tmp_path: Path) -> None:
    image = write(tmp_path / "image.png", (40, 100), "white")
    unknown = split_of([image], person=-1)
    named = unknown.add_column("file_path", ["a/b.jpg"])
    ink = [
        (pixels(contact_sheet(split, tmp_path / "sheet.png", rows=1, columns=1)) < 128).sum()
        for split in (unknown, split_of([image]), named)
    ]
    assert ink[0] == 0 < min(ink[1:])


def test_contact_sheet_draws_an_image_one_pixel_high(tmp_path: Path) -> None:
    image = write(tmp_path / "line.png", (1000, 1))
    sheet = pixels(contact_sheet(split_of([image]), tmp_path / "sheet.png", rows=1, columns=1))
    assert (sheet == (255, 0, 0)).all(-1).sum() == CELL - 12
