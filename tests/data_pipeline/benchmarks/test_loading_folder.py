"""A user's own images: with a metadata file in each of three formats, or as a gallery."""

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from datasets import DatasetDict

from data_pipeline import check_splits

from . import layouts

Row = dict[str, Any]
Load = Callable[..., DatasetDict]


def write_folder(folder: Path, rows: list[Row], form: str = "jsonl") -> Path:
    """Writes images and a metadata file that names them."""
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


def rows_of(people: int, **more: Any) -> list[Row]:
    return [{"file_name": f"p{n}/{shot}.png", "person_id": n, **more} for n in range(people) for shot in (0, 1)]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_load_folder_reads_every_column(form: str, load: Load, tmp_path: Path) -> None:
    texts = {"identity_description": "A tall man.", "clothing_description": "A red coat."}
    caption = 'A man, in "red".\nTall.'
    first = {"file_name": "a/one.png", "person_id": 7, "caption": caption, "split": "train", "camera": 3, "outfit": 12}
    rows: list[Row] = [
        first | texts,
        {"file_name": "two.png", "person_id": 9, "split": "val"},
        {"file_name": "three.png", "split": "test", "caption": "一个男人"},
    ]
    splits = load("folder", write_folder(tmp_path / "mine", rows, form))
    row = splits["train"][0]
    assert row.pop("image").size == (16, 32)
    ids = {"person_id": 7, "camera_id": 3, "outfit_id": 12}
    assert row == {**ids, "captions": [caption], **texts, "file_path": "a/one.png"}
    validation, test = splits["validation"][0], splits["test"][0]
    assert (validation["person_id"], validation["identity_description"], validation["captions"]) == (9, None, [])
    assert (test["person_id"], test["camera_id"], test["captions"]) == (-1, -1, ["一个男人"])


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_load_folder_reads_several_captions(form: str, load: Load, tmp_path: Path) -> None:
    captions: Any = '["One, two.", "Three."]' if form == "csv" else ["One, two.", "Three."]
    splits = load("folder", write_folder(tmp_path / "mine", [{"file_name": "a.png", "captions": captions}], form))
    assert splits["test"][0]["captions"] == ["One, two.", "Three."]


def test_load_folder_numbers_strings_alphabetically(load: Load, tmp_path: Path) -> None:
    rows = [
        {"file_name": f"{name}.png", "person_id": name, "camera_id": f"gate {name}", "outfit_id": "7", "split": "test"}
        for name in ("zoe", "adam", "12")
    ]
    split = load("folder", write_folder(tmp_path / "mine", rows))["test"]
    assert list(split["person_id"]) == list(split["camera_id"]) == [2, 1, 0]
    assert list(split["outfit_id"]) == [7, 7, 7]


def test_load_folder_reads_whole_floats_as_numbers(load: Load, tmp_path: Path) -> None:
    rows: list[Row] = [
        {"file_name": f"{n}.png", "person_id": n, "camera": "-1"} for n in (7.0, 10.0)
    ]  # as pandas writes them
    rows.append({"file_name": "c.png", "camera": "gate"})
    split = load("folder", write_folder(tmp_path / "mine", rows, "csv"))["test"]
    assert list(split["person_id"]) == [7, 10, -1]
    assert list(split["camera_id"]) == [-1, -1, 0]


def test_load_folder_divides_people_by_seed(load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_folder(tmp_path / "mine", [*rows_of(20), {"file_name": "distractor.png"}], "csv")
    splits = [load("folder", folder, seed=seed) for seed in (0, 0, 1)]
    drawn = [{name: set(split["person_id"]) - {-1} for name, split in part.items()} for part in splits]
    assert drawn[0] == drawn[1] != drawn[2]
    assert {name: len(people) for name, people in drawn[0].items()} == {"train": 16, "validation": 2, "test": 2}
    assert "no column `split`, so the people are divided with seed 0: 16 train, 2 validation, 2 test" in caplog.text
    check_splits(splits[0])
    assert [name for name, split in splits[0].items() if -1 in split["person_id"]] == ["test"]


def test_load_folder_of_two_people_is_test_only(load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load("folder", write_folder(tmp_path / "mine", rows_of(2))).num_rows == {"test": 4}
    assert "2 people are too few to divide: all images are in test" in caplog.text


def test_load_folder_without_metadata_is_a_gallery(
    load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = layouts.write_names(tmp_path / "mine", ["b.PNG", "deep/a.jpeg", "c.webp"])
    (folder / "notes.txt").write_text("no image")
    splits = load("folder", folder)
    assert list(splits) == ["test"]
    assert list(splits["test"]["file_path"]) == ["b.PNG", "c.webp", "deep/a.jpeg"]
    assert set(splits["test"]["person_id"]) == {-1}
    assert "the images are a gallery to search in, the split test, with person_id -1" in caplog.text


def test_load_folder_counts_ignored_images_and_columns(
    load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_folder(tmp_path / "mine", rows_of(3, captoin="typo"))
    layouts.write_image(folder / "extra.png")
    load("folder", folder)
    assert "1 images in the folder are not in it: ignored" in caplog.text
    assert "ignored columns: captoin; the known ones are file_name, person_id, captions, " in caplog.text


A = {"file_name": "a.png"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"file": "a.png"}], r"metadata\.jsonl: there is no column `file_name`; the columns are file"),
        ([{"file_name": "../a.png"}], r"metadata\.jsonl, line 1 \(\.\./a\.png\): the path .* leaves the data folder"),
        ([A, A | {"split": "test"}], r"line 2 \(a\.png\): .*line 1 \(a\.png\) names the same file; give each image"),
        ([A | {"person_id": "x"}, {}], r"metadata\.jsonl, line 2: file_name is None, not a string"),
        ([A | {"split": "gallery"}], r"line 1 \(a\.png\): the split is 'gallery'; it must be one of"),
        ([A | {"split": "train"}], r"a\.png: no person_id, so it cannot be in the split train"),
        ([A | {"caption": 7}], r"line 1 \(a\.png\): captions is a int; expected a list of strings"),
        ([A | {"person_id": -2}], r"metadata\.jsonl, person_id is -2; numbers start at 0"),
        ([A | {"camera": 1, "camera_id": 2}], r"both `camera` and `camera_id` are given; keep one"),
        ([A | {"caption": "x", "captions": ["y"]}], r"both `caption` and `captions` are given; keep one"),
        (
            [A | {"person_id": 1, "split": "test"}, {"file_name": "b.png", "person_id": 2}],
            r"metadata\.jsonl, b\.png: no `split`, but other rows have one; add it",
        ),
        (
            [{"file_name": f"{s}.png", "person_id": "ann", "split": s} for s in ("train", "val", "test")],
            r"metadata\.jsonl: 1 person_id\(s\) are in both split 'train' and split 'validation'",
        ),
        ([], r"metadata\.jsonl: the file has no rows"),
    ],
)
def test_load_folder_names_an_invalid_row(rows: list[Row], message: str, load: Load, tmp_path: Path) -> None:
    folder = layouts.write_names(tmp_path / "mine", [f"{name}.png" for name in ("a", "b", "train", "val", "test")])
    layouts.write_json_lines(folder / "metadata.jsonl", rows)
    with pytest.raises(ValueError, match=message):
        load("folder", folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"metadata.csv": b"file_name,caption\na.png,A man, tall\n"},
            r"metadata\.csv, line 2: the number of cells differs .* in double quotes",
        ),
        ({"metadata.parquet": b"file_name"}, r"metadata\.parquet: no valid Parquet"),
        (
            {"metadata.csv": b"", "metadata.jsonl": b""},
            r"mine: there are several metadata files, metadata\.csv and metadata\.jsonl; keep one",
        ),
        ({"train/metadata.csv": b""}, r"train/metadata\.csv: the metadata file must be directly in .*mine, for all"),
    ],
)
def test_load_folder_refuses_a_metadata_file(files: dict[str, bytes], message: str, load: Load, tmp_path: Path) -> None:
    folder = layouts.write_names(tmp_path / "mine", ["a.png", "train/b.png"])
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load("folder", folder)


def test_load_folder_names_missing_images_and_an_empty_one(load: Load, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "mine", rows_of(3))
    (folder / "p1" / "0.png").unlink()
    message = r"metadata\.jsonl: 1 of its 6 images are not in .*mine: p1/0\.png\. Get"
    with pytest.raises(FileNotFoundError, match=message):
        load("folder", folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty: there are no images in it"):
        load("folder", tmp_path / "empty")


def test_load_folder_refuses_a_split_file(load: Load, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "mine", rows_of(3))
    with pytest.raises(ValueError, match="a folder takes no split file; add the column `split` to its metadata"):
        load("folder", folder, split_file=layouts.write_json(tmp_path / "s.json", {"train": [0]}))


def test_load_folder_refuses_a_file_name_that_is_not_utf8(load: Load, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    image = layouts.write_names(tmp_path / "other", ["a.png"]) / "a.png"
    try:
        image.rename(os.fsdecode(os.fsencode(tmp_path / "mine") + b"/\xff.png"))
    except OSError:
        pytest.skip("this file system accepts only UTF-8 names")
    with pytest.raises(ValueError, match=r"mine: '\\udcff\.png': the file name contains half a character"):
        load("folder", tmp_path / "mine")


@pytest.mark.parametrize(
    ("header", "names", "note"),
    [
        ("filename", ["a/1.png", "2.png"], "the column 'filename' is read as `file_name`"),
        ("File Name", ["a/1.png", "2.png"], "the column 'File Name' is read as `file_name`"),
        ("image", ["a/1.png", "2.png"], "the column 'image' is read as `file_name`"),
        ("img_path", ["a/1.png", "2.png"], "the column 'img_path' is read as `file_name`"),
        ("file_name", ["a\\1.png", "2.png"], "1 file names are spelled like a\\1.png, but the image is a/1.png"),
        ("file_name", ["C:\\data\\mine\\a\\1.png", "C:\\data\\mine\\2.png"], "2 absolute paths are shortened"),
        ("file_name", ["/data/of/others/A/1.PNG", "/data/of/others/2.png"], "2 absolute paths are shortened"),
        ("file_name", ["{folder}/a/1.png", "{folder}/2.png"], "2 absolute paths are shortened"),
    ],
)
def test_load_folder_finds_images_by_usual_names(
    header: str, names: list[str], note: str, load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = layouts.write_names(tmp_path / "mine", ["a/1.png", "2.png"])
    rows = [f"{name.format(folder=folder)},{person}" for person, name in enumerate(names)]
    (folder / "metadata.csv").write_text("\n".join([f"{header},person_id", *rows]))
    split = load("folder", folder)["test"]
    assert dict(zip(split["file_path"], split["person_id"], strict=True)) == {"a/1.png": 0, "2.png": 1}
    assert note in caplog.text


@pytest.mark.parametrize("name", ["/etc/passwd", "C:\\windows\\x.png", "../mine/2.png"])
def test_load_folder_refuses_paths_of_other_files(name: str, load: Load, tmp_path: Path) -> None:
    folder = layouts.write_names(tmp_path / "mine", ["a/1.png", "2.png"])
    (folder / "metadata.csv").write_text(f"file_name,person_id\n{name},1\n")
    with pytest.raises(ValueError, match="leaves the data folder"):
        load("folder", folder)
