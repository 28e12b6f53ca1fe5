"""Statistics of complete and damaged data sets."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict
from PIL import Image

from data_pipeline.benchmarks.inspection import BadImage, Spread, inspect_splits, left_out_images, loader_notes
from data_pipeline.schema import PERSON_FEATURES

Load = Callable[..., DatasetDict]


def png(width: int, height: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (width, height)).save(content, "PNG")
    return content.getvalue()


def split_of(rows: Sequence[tuple[bytes, int, int, int, list[str], str | None]]) -> Dataset:
    """Builds a split from tuples of image, person, camera, outfit, captions and a text for both descriptions."""
    lines = [({"bytes": row[0], "path": None}, *row[1:], row[-1]) for row in rows]
    return Dataset.from_list(
        [dict(zip(PERSON_FEATURES, line, strict=True)) for line in lines], features=PERSON_FEATURES
    )


def test_inspect_splits_statistics() -> None:
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
    assert (test.shared_captions, test.images_with_shared_captions) == (1, 3)  # of 7 and 8; only of 7 would not count
    assert (test.described_images, test.styled_images, test.unreadable) == (3, 0, 2)
    assert bad == [BadImage("row 3", "no image of a known format", "test"), BadImage("row 4", "zero bytes", "test")]
    assert found["train"].unreadable == 0 and found["train"].images == 1


def test_inspect_splits_of_an_unlabeled_gallery() -> None:
    found, bad = inspect_splits(DatasetDict({"test": split_of([(png(8, 16), -1, -1, -1, [], None)] * 3)}))
    assert not bad
    assert found["test"].ids == 0 and found["test"].images == 3
    assert found["test"].words is None and found["test"].images_a_person is None


def test_inspect_splits_checks_many_rows_in_order() -> None:
    contents = [png(8, 16)] * 700
    contents[3] = contents[699] = b""
    _, bad = inspect_splits(DatasetDict({"test": split_of([(c, 1, 0, 0, [], None) for c in contents])}))
    assert [image.file for image in bad] == ["row 3", "row 699"]


def test_left_out_images_have_reasons(load: Load, cuhk: Path) -> None:
    (cuhk / "imgs/cam_a/00001_0.jpg").write_bytes(b"")
    (cuhk / "imgs/cam_b/00001_1.jpg").unlink()
    with loader_notes() as notes:
        splits = load("cuhk-pedes", cuhk, skip_unreadable=True)
    reasons = {image.file: image.reason for image in left_out_images(splits)}
    assert reasons == {"cam_a/00001_0.jpg": "zero bytes", "cam_b/00001_1.jpg": "there is no such file"}
    assert any("1 missing and 1 unreadable images are left out" in note for note in notes)


def test_loader_notes_redirects_the_log(load: Load, cuhk: Path, caplog: pytest.LogCaptureFixture) -> None:
    with loader_notes() as notes:
        load("cuhk-pedes", cuhk)
    assert len(notes) == 1 and not caplog.records
    load("cuhk-pedes", cuhk)
    assert len(notes) == 1 and len(caplog.records) == 1
