"""Descriptions, outfits and splits that the user gives beside a data set."""

from pathlib import Path
from typing import Any

import pytest
from datasets import DatasetDict, List, Value

from data_pipeline import load_person_dataset

from . import layouts

PATHS = [entry["file_path"] for entry in layouts.cuhk_entries()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return layouts.write_cuhk_pedes(tmp_path / "CUHK-PEDES")


def load(folder: Path, **options: Any) -> DatasetDict:
    return load_person_dataset("cuhk-pedes", folder, cache_dir=folder.parent / "cache", **options)


def described(path: str, **more: Any) -> dict[str, Any]:
    return {"file_path": path, "identity_description": f"Who {path}", "clothing_description": f"What {path}", **more}


def by_path(splits: DatasetDict, column: str) -> dict[str, Any]:
    return {
        path: value for split in splits.values() for path, value in zip(split["file_path"], split[column], strict=True)
    }


def test_descriptions_join_by_path_and_their_captions_become_styled_captions(folder: Path, tmp_path: Path) -> None:
    lines = [described(path, caption=f"Styled {path}", style="short") for path in reversed(PATHS)]
    splits = load(folder, descriptions=layouts.write_json_lines(tmp_path / "d.jsonl", lines))
    assert by_path(splits, "identity_description") == {path: f"Who {path}" for path in PATHS}
    assert by_path(splits, "clothing_description") == {path: f"What {path}" for path in PATHS}
    assert by_path(splits, "styled_captions") == {path: [f"Styled {path}"] for path in PATHS}
    assert splits["train"].features["styled_captions"] == List(Value("string"))


def test_there_are_no_styled_captions_without_captions_in_the_file(folder: Path, tmp_path: Path) -> None:
    lines = [described(path) for path in PATHS]
    splits = load(folder, descriptions=layouts.write_json_lines(tmp_path / "d.jsonl", lines))
    assert "styled_captions" not in splits["train"].column_names


def test_images_without_a_line_get_none_and_both_sides_of_a_mismatch_are_counted(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [described(path, caption="Styled") for path in PATHS[:15]] + [described("imgs/strange.jpg")]
    splits = load(folder, descriptions=layouts.write_json_lines(tmp_path / "d.jsonl", lines))
    assert by_path(splits, "identity_description")[PATHS[15]] is None
    assert by_path(splits, "styled_captions")[PATHS[15]] == []
    assert f"4 of {len(PATHS)} images have no descriptions in it" in caplog.text
    assert "1 of its file_paths are not in this data set: imgs/strange.jpg" in caplog.text


def test_of_several_lines_the_last_descriptions_count_and_captions_add_up(folder: Path, tmp_path: Path) -> None:
    lines = [described(path, caption="one") for path in PATHS]
    lines += [{"file_path": PATHS[0], "identity_description": " ", "clothing_description": None, "caption": "two"}]
    splits = load(folder, descriptions=layouts.write_json_lines(tmp_path / "d.jsonl", lines))
    assert splits["train"][0]["styled_captions"] == ["one", "two"]
    assert splits["train"][0]["identity_description"] is None
    assert splits["train"][0]["clothing_description"] is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"file_path": "a.jpg", ', r"d\.jsonl, line 2: no valid JSON"),
        ('["a.jpg"]', r"d\.jsonl, line 2: a list where a JSON object is expected"),
        ('{"file_path": "a.jpg"}', r"d\.jsonl, line 2: no key `identity_description`; it has file_path"),
        (
            '{"file_path": "a.jpg", "identity_description": 3, "clothing_description": ""}',
            r"d\.jsonl, line 2: identity_description is 3, not a string",
        ),
        (
            '{"file_path": null, "identity_description": "", "clothing_description": ""}',
            r"d\.jsonl, line 2: file_path is None, not a string",
        ),
    ],
)
def test_a_broken_line_of_descriptions_is_named(line: str, message: str, folder: Path, tmp_path: Path) -> None:
    file = layouts.write_json_lines(tmp_path / "d.jsonl", [described(PATHS[0])])
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(ValueError, match=message):
        load(folder, descriptions=file)


def test_descriptions_of_another_data_set_are_an_error(folder: Path, tmp_path: Path) -> None:
    file = layouts.write_json_lines(tmp_path / "d.jsonl", [described("imgs/" + path) for path in PATHS])
    with pytest.raises(
        ValueError, match=r"d\.jsonl: none of its 19 file_paths .* like 'cam_a/00001_0.jpg', not like 'imgs/cam_a"
    ):
        load(folder, descriptions=file)


def test_missing_side_files_are_named(folder: Path, tmp_path: Path) -> None:
    for option in ("descriptions", "outfits", "split_file"):
        with pytest.raises(FileNotFoundError, match=r"nowhere\.json: there is no such file"):
            load(folder, **{option: tmp_path / "nowhere.json"})


def test_outfits_that_are_numbers_are_kept_and_absent_ones_are_unknown(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outfits: dict[str, Any] = {path: 10 * number for number, path in enumerate(PATHS)}
    outfits[PATHS[1]] = "0007"
    outfits[PATHS[2]] = None
    del outfits[PATHS[3]]
    splits = load(folder, outfits=layouts.write_json(tmp_path / "o.json", outfits))
    assert list(splits["train"]["outfit_id"])[:5] == [0, 7, -1, -1, 40]
    assert "1 of 19 images have no outfit in it: their outfit_id is -1, and a split with such images has" in caplog.text


def test_outfits_that_are_strings_are_numbered_alphabetically(folder: Path, tmp_path: Path) -> None:
    outfits: dict[str, Any] = {path: ("red", "blue", "9")[number % 3] for number, path in enumerate(PATHS)}
    splits = load(folder, outfits=layouts.write_json(tmp_path / "o.json", outfits))
    assert list(splits["train"]["outfit_id"])[:4] == [2, 1, 0, 2]


@pytest.mark.parametrize(
    ("outfits", "message"),
    [
        ([1, 2], r"o\.json: an object {file_path: outfit} is expected, not a list"),
        ({PATHS[0]: 1.5}, r"o\.json, entry 'cam_a/00001_0.jpg': the outfit is 1.5; a number or a string"),
        ({PATHS[0]: -3}, r"o\.json, an outfit is -3; numbers start at 0"),
    ],
)
def test_outfits_of_another_form_are_an_error(outfits: Any, message: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load(folder, outfits=layouts.write_json(tmp_path / "o.json", outfits))


def test_a_split_file_takes_the_place_of_the_splits_of_the_annotation(folder: Path, tmp_path: Path) -> None:
    split_file = layouts.write_json(
        tmp_path / "s.json", {"train": [13, 14, "77", 13003], "val": [1, 2], "test": [5, 9, 10, 4000]}
    )
    (folder / "reid_raw.json").rename(folder / "caption_all.json")
    splits = load(folder, split_file=split_file)
    assert {name: set(split["person_id"]) for name, split in splits.items()} == {
        "train": {13, 14, 77, 13003},
        "validation": {1, 2},
        "test": {5, 9, 10, 4000},
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": [1, 2], "test": [5, 9, 10, 4000, 13, 14, 13003]}, r"s\.json: 1 people .* in no split of it: 77"),
        ({"train": [1], "test": [1]}, r"s\.json: person 1 is in both train and test"),
        ({"train": 1}, r"s\.json: a JSON object of that form is expected"),
        ({"trian": [1]}, r"s\.json: the split is 'trian'; it must be one of train, val"),
        ({"train": ["x"]}, r"s\.json, split train: an id is 'x', not a whole number"),
    ],
)
def test_a_wrong_split_file_is_an_error(content: Any, message: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load(folder, split_file=layouts.write_json(tmp_path / "s.json", content))
