"""The sheet shows every image, or why there is none, and keeps captions in their columns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from data_pipeline.schema import PERSON_FEATURES
from data_pipeline.sheets.contact_sheet import contact_sheet

CELL = 200  # pixels, with captions


def split_of(images: list[Path], captions: list[str] | None = None) -> Dataset:
    rows: list[dict[str, Any]] = [
        {
            "image": str(file),
            "person_id": 1,
            "camera_id": -1,
            "outfit_id": -1,
            "captions": captions or [],
            "identity_description": None,
            "clothing_description": None,
        }
        for file in images
    ]
    return Dataset.from_list(rows, features=PERSON_FEATURES)


def pixels(file: Path) -> np.ndarray:
    with Image.open(file) as sheet:
        return np.asarray(sheet.convert("RGB")).astype(int)


def write(file: Path, size: tuple[int, int], color: str = "red") -> Path:
    Image.new("RGB", size, color).save(file)
    return file


def test_a_wide_image_stays_in_its_cell(tmp_path: Path) -> None:
    images = [write(tmp_path / "wide.png", (900, 100)), write(tmp_path / "tall.png", (40, 100), "blue")]
    sheet = pixels(contact_sheet(split_of(images), tmp_path / "sheet.png", rows=1, columns=2))
    assert sheet.shape[1] == 2 * CELL
    red = (sheet == (255, 0, 0)).all(-1).nonzero()
    assert np.ptp(red[1]) / np.ptp(red[0]) == pytest.approx(9, rel=0.1) and red[1].max() < CELL
    assert (sheet == (0, 0, 255)).all(-1).nonzero()[1].min() >= CELL


@pytest.mark.parametrize("caption", ["W" * 60, "一个穿着红色外套的男人" * 5, "a man in a red coat " * 40])
def test_captions_do_not_run_into_the_next_column(caption: str, tmp_path: Path) -> None:
    image = write(tmp_path / "image.png", (40, 100), "white")
    sheet = pixels(contact_sheet(split_of([image], [caption]), tmp_path / "sheet.png", rows=1, columns=2))
    assert (sheet[:, :CELL].min(axis=-1) < 128).sum() > 200  # there is text
    assert (sheet[:, CELL - 5 :] == 255).all()


def test_an_unreadable_image_is_a_card_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "zero.jpg").touch()
    split = split_of([tmp_path / "zero.jpg", write(tmp_path / "whole.png", (40, 100))])
    for captions in (True, False):
        file = contact_sheet(split, tmp_path / "sheet.png", rows=1, columns=2, captions=captions)
        sheet = pixels(file)
        assert (sheet == (255, 228, 225)).all(-1).sum() > 10_000  # mistyrose
        assert (sheet == (255, 0, 0)).all(-1).sum() > 1000


def test_the_sheet_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_what_is_not_known_of_an_image_is_not_written(tmp_path: Path) -> None:
    image = write(tmp_path / "image.png", (40, 100), "white")
    known = split_of([image])
    unknown = known.remove_columns("person_id").add_column("person_id", [-1])
    named = unknown.add_column("file_path", ["a/b.jpg"])
    ink = [
        (pixels(contact_sheet(split, tmp_path / "sheet.png", rows=1, columns=1)) < 128).sum()
        for split in (unknown, known, named)
    ]
    assert ink[0] == 0 < min(ink[1:])
