"""Inspection counts what is there, in sets that are whole and in sets that are not."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from PIL import Image

from data_pipeline import load_person_dataset
from data_pipeline.benchmarks.inspection import BadImage, Spread, inspect_splits, left_out_images, loader_notes
from data_pipeline.schema import PERSON_FEATURES

from .layouts import write_cuhk_pedes, write_rstpreid


def png(width: int, height: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (width, height)).save(content, "PNG")
    return content.getvalue()


def split_of(rows: Sequence[tuple[bytes, int, int, int, list[str], str | None]]) -> Dataset:
    """Rows of image, person, camera, outfit, captions and a word for both descriptions."""
    return Dataset.from_list(
        [
            {
                "image": {"bytes": content, "path": None},
                "person_id": person,
                "camera_id": camera,
                "outfit_id": outfit,
                "captions": captions,
                "identity_description": described,
                "clothing_description": described,
            }
            for content, person, camera, outfit, captions, described in rows
        ],
        features=PERSON_FEATURES,
    )


def test_every_figure_of_a_small_split() -> None:
    split = split_of(
        [
            (png(10, 20), 7, 0, 0, ["a man in red", "red coat"], "x"),
            (png(12, 40), 7, 3, 1, ["red coat"], "x"),
            (png(14, 30), 8, -1, 0, ["red coat", "a b"], None),
            (b"no image", 9, 3, -1, [], "x"),
            (b"", -1, 3, -1, ["a b c"], None),
        ]
    )
    found, bad = inspect_splits(DatasetDict({"test": split, "train": split.select([0])}))
    test = found["test"]
    assert (test.ids, test.images, test.captions, test.captioned_images) == (3, 5, 6, 4)
    assert test.images_a_person == Spread(1, 1, 2)
    assert test.words == Spread(2, 2, 4)
    assert (test.width, test.height) == (Spread(10, 12, 14), Spread(20, 30, 40))
    assert (test.cameras, test.without_camera) == (2, 1)
    assert (test.outfits, test.without_outfit) == (3, 2)  # (7, 0), (7, 1), (8, 0)
    assert (test.shared_captions, test.images_with_shared_captions) == (1, 3)  # of 7 and 8; 7 alone would not count
    assert (test.described_images, test.styled_images, test.unreadable) == (3, 0, 2)
    assert bad == [BadImage("row 3", "no image of a known format", "test"), BadImage("row 4", "zero bytes", "test")]
    assert found["train"].unreadable == 0 and found["train"].images == 1


def test_a_gallery_without_people_and_captions_is_inspected() -> None:
    found, bad = inspect_splits(DatasetDict({"test": split_of([(png(8, 16), -1, -1, -1, [], None)] * 3)}))
    assert not bad
    assert found["test"].ids == 0 and found["test"].images == 3
    assert found["test"].words is None and found["test"].images_a_person is None


def test_many_rows_are_checked_in_order() -> None:
    contents = [png(8, 16)] * 700
    contents[3] = contents[699] = b""
    _, bad = inspect_splits(DatasetDict({"test": split_of([(c, 1, 0, 0, [], None) for c in contents])}))
    assert [image.file for image in bad] == ["row 3", "row 699"]


def test_one_sentence_for_several_people_is_counted(tmp_path: Path) -> None:
    splits = load_person_dataset("rstpreid", write_rstpreid(tmp_path / "set"), cache_dir=tmp_path / "cache")
    found, _ = inspect_splits(splits)
    captions = splits["train"]["captions"]
    people = np.array(splits["train"]["person_id"])
    shared = {
        caption
        for row in captions
        for caption in row
        if len({int(person) for person, other in zip(people, captions, strict=True) if caption in other}) > 1
    }
    assert found["train"].shared_captions == len(shared) > 0


def test_what_the_loader_left_out_is_told_with_its_reason(tmp_path: Path) -> None:
    folder = write_cuhk_pedes(tmp_path / "set")
    (folder / "imgs/cam_a/00001_0.jpg").write_bytes(b"")
    (folder / "imgs/cam_b/00001_1.jpg").unlink()
    options: dict[str, Any] = {"cache_dir": tmp_path / "cache", "skip_unreadable": True}
    with loader_notes() as notes:
        splits = load_person_dataset("cuhk-pedes", folder, **options)
    reasons = {image.file: image.reason for image in left_out_images(splits)}
    assert reasons == {"cam_a/00001_0.jpg": "zero bytes", "cam_b/00001_1.jpg": "there is no such file"}
    assert any("1 missing and 1 unreadable images are left out" in note for note in notes)


def test_notes_are_taken_from_the_terminal_and_given_back(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    folder = write_cuhk_pedes(tmp_path / "set")
    with loader_notes() as notes:
        load_person_dataset("cuhk-pedes", folder, cache_dir=tmp_path / "cache")
    assert len(notes) == 1 and not caplog.records
    load_person_dataset("cuhk-pedes", folder, cache_dir=tmp_path / "cache")
    assert len(notes) == 1 and len(caplog.records) == 1
