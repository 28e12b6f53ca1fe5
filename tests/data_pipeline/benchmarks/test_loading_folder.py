"""A user's own images: with a metadata file in any of three forms, or alone."""

import csv
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from datasets import DatasetDict

from data_pipeline import check_splits, load_person_dataset

from . import layouts

Row = dict[str, Any]


def write_folder(folder: Path, rows: list[Row], form: str = "jsonl") -> Path:
    """Images and a metadata file that names them."""
    layouts.write_names(folder, [row["file_name"] for row in rows])
    file = folder / f"metadata.{form}"
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if form == "jsonl":
        layouts.write_json_lines(file, rows)
    elif form == "csv":
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, columns)
            writer.writeheader()
            writer.writerows(rows)
    else:
        pd.DataFrame(rows, columns=columns).to_parquet(file)
    return folder


def load(folder: Path, **options: Any) -> DatasetDict:
    return load_person_dataset("folder", folder, cache_dir=folder.parent / "cache", **options)


def rows_of(people: int, **more: Any) -> list[Row]:
    return [{"file_name": f"p{n}/{shot}.png", "person_id": n, **more} for n in range(people) for shot in (0, 1)]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_every_column_is_read_from_every_form_of_metadata(form: str, tmp_path: Path) -> None:
    rows: list[Row] = [
        {
            "file_name": "a/one.png",
            "person_id": 7,
            "caption": 'A man, in "red".\nTall.',
            "split": "train",
            "camera": 3,
            "outfit": 12,
            "identity_description": "A tall man.",
            "clothing_description": "A red coat.",
        },
        {"file_name": "two.png", "person_id": 9, "split": "val"},
        {"file_name": "three.png", "split": "test", "caption": "一个男人"},
    ]
    splits = load(write_folder(tmp_path / "mine", rows, form))
    row = splits["train"][0]
    assert row.pop("image").size == (16, 32)
    assert row == {
        "person_id": 7,
        "camera_id": 3,
        "outfit_id": 12,
        "captions": ['A man, in "red".\nTall.'],
        "identity_description": "A tall man.",
        "clothing_description": "A red coat.",
        "file_path": "a/one.png",
    }
    assert splits["validation"][0]["person_id"] == 9
    assert splits["validation"][0]["identity_description"] is None
    assert splits["validation"][0]["captions"] == []
    assert splits["test"][0]["person_id"] == splits["test"][0]["camera_id"] == -1
    assert splits["test"][0]["captions"] == ["一个男人"]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_several_captions_are_a_list(form: str, tmp_path: Path) -> None:
    captions: Any = '["One, two.", "Three."]' if form == "csv" else ["One, two.", "Three."]
    splits = load(write_folder(tmp_path / "mine", [{"file_name": "a.png", "captions": captions}], form))
    assert splits["test"][0]["captions"] == ["One, two.", "Three."]


def test_strings_as_people_cameras_and_outfits_are_numbered_alphabetically(tmp_path: Path) -> None:
    rows = [
        {"file_name": f"{name}.png", "person_id": name, "camera_id": f"gate {name}", "outfit_id": "7", "split": "test"}
        for name in ("zoe", "adam", "12")
    ]
    split = load(write_folder(tmp_path / "mine", rows))["test"]
    assert list(split["person_id"]) == list(split["camera_id"]) == [2, 1, 0]
    assert list(split["outfit_id"]) == [7, 7, 7]


def test_without_splits_whole_people_are_divided_by_the_seed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_folder(tmp_path / "mine", rows_of(20))
    drawn = [{name: set(split["person_id"]) for name, split in load(folder, seed=seed).items()} for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert {name: len(people) for name, people in drawn[0].items()} == {"train": 16, "validation": 2, "test": 2}
    assert "no column `split`, so the people are divided by seed 0: 16 train, 2 validation, 2 test" in caplog.text
    check_splits(load(folder))


def test_images_of_nobody_join_the_test_gallery(tmp_path: Path) -> None:
    rows = [*rows_of(10), {"file_name": "distractor.png"}]
    splits = load(write_folder(tmp_path / "mine", rows, "csv"))
    assert -1 in splits["test"]["person_id"]
    assert -1 not in splits["train"]["person_id"]


def test_two_people_are_too_few_to_divide(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load(write_folder(tmp_path / "mine", rows_of(2))).num_rows == {"test": 4}
    assert "2 people are too few to divide: all images are in test" in caplog.text


def test_images_alone_are_a_gallery_of_unknown_people(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = layouts.write_names(tmp_path / "mine", ["b.PNG", "deep/a.jpeg", "c.webp"])
    (folder / "notes.txt").write_text("no image")
    splits = load(folder)
    assert list(splits) == ["test"]
    assert list(splits["test"]["file_path"]) == ["b.PNG", "c.webp", "deep/a.jpeg"]
    assert set(splits["test"]["person_id"]) == {-1}
    assert "they are a gallery to search in, the split test, with person_id -1" in caplog.text


def test_images_and_columns_that_are_not_used_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_folder(tmp_path / "mine", rows_of(3, captoin="typo"))
    layouts.write_image(folder / "extra.png")
    load(folder)
    assert "1 images in the folder are not in it: left out" in caplog.text
    assert "these columns are not read: captoin; known are file_name, person_id, caption, " in caplog.text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"file": "a.png"}], r"metadata\.jsonl: there is no column `file_name`; it has file"),
        ([{"file_name": "../a.png"}], r"metadata\.jsonl, line 1 \(\.\./a\.png\): the path .* leaves the data folder"),
        (
            [{"file_name": "a.png"}] * 2,
            r"line 2 \(a\.png\): .*line 1 \(a\.png\) names the same file; give each image one",
        ),
        ([{"file_name": "a.png", "person_id": "x"}, {}], r"metadata\.jsonl, line 2: file_name is None, not a string"),
        ([{"file_name": "a.png", "split": "gallery"}], r"line 1 \(a\.png\): the split is 'gallery'; it must be one of"),
        (
            [{"file_name": "a.png", "split": "train"}],
            r"a\.png: it has no person_id, so it cannot be in the split train",
        ),
        (
            [{"file_name": "a.png", "caption": 7}],
            r"line 1 \(a\.png\): captions is a int; a list of strings is expected",
        ),
        ([{"file_name": "a.png", "person_id": -2}], r"metadata\.jsonl, person_id is -2; numbers start at 0"),
        (
            [{"file_name": "a.png", "caption": "x", "captions": ["y"]}],
            r"both `caption` and `captions` are given; keep one",
        ),
        (
            [{"file_name": "a.png", "person_id": 1, "split": "test"}, {"file_name": "b.png", "person_id": 2}],
            r"metadata\.jsonl, b\.png: it has no `split`, but others have; give it one",
        ),
        (
            [{"file_name": f"{s}.png", "person_id": "ann", "split": s} for s in ("train", "val", "test")],
            r"metadata\.jsonl: 1 person_id\(s\) lie in both split 'train' and split 'validation'",
        ),
        ([], r"metadata\.jsonl: there is no row in it"),
    ],
)
def test_wrong_metadata_is_named_with_its_line(rows: list[Row], message: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    layouts.write_json_lines(folder / "metadata.jsonl", rows)
    for name in "a", "b", "train", "val", "test":
        layouts.write_image(folder / f"{name}.png")
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_csv_and_parquet_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    folder = layouts.write_names(tmp_path / "mine", ["a.png"])
    (folder / "metadata.csv").write_text("file_name,caption\na.png,A man, tall\n")
    with pytest.raises(ValueError, match=r"metadata\.csv, line 2: it has not as many cells .* between double quotes"):
        load(folder)
    (folder / "metadata.csv").write_bytes(b"file_name,caption\na.png,A m\xe9n\n")
    with pytest.raises(ValueError, match=r"metadata\.csv, line 2: byte 0xe9 .* is not UTF-8"):
        load(folder)
    (folder / "metadata.csv").rename(folder / "metadata.parquet")
    with pytest.raises(ValueError, match=r"metadata\.parquet: no valid Parquet"):
        load(folder)


def test_missing_images_of_metadata_are_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "mine", rows_of(3))
    (folder / "p1" / "0.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"metadata\.jsonl: 1 of its 6 images are not in .*mine: p1/0\.png\. Get"
    ):
        load(folder)


def test_two_metadata_files_or_one_in_the_wrong_place_are_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "mine", rows_of(3))
    (folder / "metadata.csv").write_text("file_name\n")
    with pytest.raises(ValueError, match=r"metadata\.csv and metadata\.jsonl are both there; keep one"):
        load(folder)
    layouts.write_image(tmp_path / "deep" / "train" / "a.png")
    (tmp_path / "deep" / "train" / "metadata.csv").write_text("file_name\na.png\n")
    with pytest.raises(ValueError, match=r"train/metadata\.csv: the metadata file must lie in .*deep itself"):
        load(tmp_path / "deep")


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileNotFoundError, match="mine: there is no image in it"):
        load(tmp_path / "mine")


def test_a_split_file_is_not_for_folders(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "mine", rows_of(3))
    with pytest.raises(ValueError, match="a split file is for benchmarks; say it in the column `split`"):
        load(folder, split_file=layouts.write_json(tmp_path / "s.json", {"train": [0]}))


def test_a_file_name_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    image = layouts.write_names(tmp_path / "other", ["a.png"]) / "a.png"
    try:
        image.rename(os.fsdecode(os.fsencode(tmp_path / "mine") + b"/\xff.png"))
    except OSError:
        pytest.skip("this file system takes text alone")
    with pytest.raises(ValueError, match=r"mine: '\\udcff\.png': the name of the file holds half a character"):
        load(tmp_path / "mine")
