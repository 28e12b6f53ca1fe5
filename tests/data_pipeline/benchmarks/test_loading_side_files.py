"""Joins descriptions, outfits and splits that the user supplies beside a data set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import DatasetDict, List, Value

from data_pipeline.schema import ATTRIBUTE_FEATURES

from . import layouts
from .layouts import PATHS, write_descriptions, write_json

Load = Callable[..., DatasetDict]


def by_path(splits: DatasetDict, column: str) -> dict[str, Any]:
    return {
        path: value for split in splits.values() for path, value in zip(split["file_path"], split[column], strict=True)
    }


def test_load_joins_descriptions_by_path(load: Load, cuhk: Path, tmp_path: Path) -> None:
    keys = {"identity_description": "Identity", "clothing_description": "Clothes", "caption": "Styled"}
    lines = [{"file_path": path, **{key: f"{text} {path}" for key, text in keys.items()}} for path in reversed(PATHS)]
    splits = load("cuhk-pedes", cuhk, descriptions=layouts.write_json_lines(tmp_path / "d.jsonl", lines))
    for key in ("identity_description", "clothing_description"):
        assert by_path(splits, key) == {path: f"{keys[key]} {path}" for path in PATHS}
    assert by_path(splits, "styled_captions") == {path: [f"Styled {path}"] for path in PATHS}
    assert splits["train"].features["styled_captions"] == List(Value("string"))
    splits = load("cuhk-pedes", cuhk, descriptions=write_descriptions(tmp_path / "without.jsonl"))
    assert "styled_captions" not in splits["train"].column_names


def test_load_counts_paths_without_a_partner(
    load: Load, cuhk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    descriptions = write_descriptions(tmp_path / "d.jsonl", [*PATHS[:15], "imgs/strange.jpg"], caption="Styled")
    splits = load("cuhk-pedes", cuhk, descriptions=descriptions)
    assert by_path(splits, "identity_description")[PATHS[15]] is None
    assert by_path(splits, "styled_captions")[PATHS[15]] == []
    assert f"4 of {len(PATHS)} images have no descriptions in it" in caplog.text
    assert "1 of its file_paths are not in this data set: imgs/strange.jpg" in caplog.text


def test_load_joins_attribute_fields_as_columns(load: Load, cuhk: Path, tmp_path: Path) -> None:
    fields = {"identity_attributes": {"gender": "man"}, "clothing_attributes": {"garments": [{"type": "coat"}]}}
    splits = load("cuhk-pedes", cuhk, descriptions=write_descriptions(tmp_path / "d.jsonl", PATHS[:15], **fields))
    assert {name: splits["train"].features[name] for name in ATTRIBUTE_FEATURES} == ATTRIBUTE_FEATURES
    identity, clothing = (by_path(splits, name) for name in ATTRIBUTE_FEATURES)
    assert identity[PATHS[0]]["gender"] == "man" and identity[PATHS[0]]["hair"] is None
    assert clothing[PATHS[0]]["garments"] == [{"type": "coat", "color": None, "pattern": None, "material": None}]
    assert PATHS[15] not in identity or identity[PATHS[15]] is None or identity[PATHS[15]]["gender"] is None
    bad = write_descriptions(tmp_path / "bad.jsonl", PATHS[:1], clothing_attributes={"garments": "coat"})
    with pytest.raises(ValueError, match=r"bad.jsonl, line 1: clothing_attributes.garments must be a list, got 'coat'"):
        load("cuhk-pedes", cuhk, descriptions=bad)


def test_load_uses_last_descriptions_and_all_captions(load: Load, cuhk: Path, tmp_path: Path) -> None:
    file = write_descriptions(tmp_path / "d.jsonl", caption="one")
    blank = {"identity_description": " ", "clothing_description": None}
    more = write_descriptions(tmp_path / "more.jsonl", PATHS[:1], caption="two", **blank)
    file.write_text(file.read_text() + more.read_text())
    row = load("cuhk-pedes", cuhk, descriptions=file)["train"][0]
    assert row["styled_captions"] == ["one", "two"]
    assert row["identity_description"] is None and row["clothing_description"] is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"file_path": "a.jpg", ', "no valid JSON"),
        ('["a.jpg"]', "expected a JSON object, not a list"),
        ('{"file_path": "a.jpg"}', "no key `identity_description`; the keys are file_path"),
        (
            '{"file_path": "a.jpg", "identity_description": 3, "clothing_description": ""}',
            "identity_description is 3, not a string",
        ),
        (
            '{"file_path": null, "identity_description": "", "clothing_description": ""}',
            "file_path is None, not a string",
        ),
    ],
)
def test_load_names_an_invalid_descriptions_line(
    line: str, message: str, load: Load, cuhk: Path, tmp_path: Path
) -> None:
    file = write_descriptions(tmp_path / "d.jsonl", PATHS[:1])
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(ValueError, match=rf"d\.jsonl, line 2: {message}"):
        load("cuhk-pedes", cuhk, descriptions=file)


def test_load_refuses_descriptions_of_another_set(load: Load, cuhk: Path, tmp_path: Path) -> None:
    file = write_descriptions(tmp_path / "d.jsonl", [f"imgs/{path}" for path in PATHS])
    message = r"d\.jsonl: none of its 19 file_paths .* like 'cam_a/00001_0.jpg', not like 'imgs/cam_a"
    with pytest.raises(ValueError, match=message):
        load("cuhk-pedes", cuhk, descriptions=file)


@pytest.mark.parametrize("option", ["descriptions", "outfits", "split_file"])
def test_load_names_a_missing_side_file(option: str, load: Load, cuhk: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json: there is no such file"):
        load("cuhk-pedes", cuhk, **{option: tmp_path / "nowhere.json"})


def test_load_keeps_outfit_numbers_and_orders_strings(
    load: Load, cuhk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outfits: dict[str, Any] = {path: 10 * number for number, path in enumerate(PATHS)}
    outfits |= {PATHS[1]: "7", PATHS[2]: None}
    del outfits[PATHS[3]]
    splits = load("cuhk-pedes", cuhk, outfits=write_json(tmp_path / "o.json", outfits))
    assert list(splits["train"]["outfit_id"])[:5] == [0, 7, -1, -1, 40]
    assert "1 of 19 images have no outfit in it: their outfit_id is -1, and a split with such images has" in caplog.text
    for names, numbers in ((("red", "blue", "9"), [2, 1, 0, 2]), (("1", "01", "-1"), [1, 0, -1, 1])):
        outfits = {path: names[number % 3] for number, path in enumerate(PATHS)}
        splits = load("cuhk-pedes", cuhk, outfits=write_json(tmp_path / "names.json", outfits))
        assert list(splits["train"]["outfit_id"])[:4] == numbers


def test_load_split_file_replaces_the_splits(load: Load, cuhk: Path, tmp_path: Path) -> None:
    split_of = {"train": [13, 14, "77", 13003], "val": [1, 2], "test": [5, 9, 10, 4000]}
    (cuhk / "reid_raw.json").rename(cuhk / "caption_all.json")
    splits = load("cuhk-pedes", cuhk, split_file=write_json(tmp_path / "s.json", split_of))
    assert {name: set(split["person_id"]) for name, split in splits.items()} == {
        "train": {13, 14, 77, 13003},
        "validation": {1, 2},
        "test": {5, 9, 10, 4000},
    }


@pytest.mark.parametrize(
    ("option", "content", "message"),
    [
        ("outfits", [1, 2], r"expected an object {file_path: outfit}, not a list"),
        ("outfits", {PATHS[0]: 1.5}, r"entry 'cam_a/00001_0.jpg': the outfit is 1.5; expected a number or a string"),
        ("outfits", {PATHS[0]: -3}, r"an outfit is -3; numbers start at 0"),
        (
            "split_file",
            {"train": [1, 2], "test": [5, 9, 10, 4000, 13, 14, 13003]},
            r"1 people .* in no split of it: 77",
        ),
        ("split_file", {"train": [1], "test": [1]}, r"person 1 is in both train and test"),
        ("split_file", {"train": 1}, r"expected a JSON object {\"train\": \[ids\]"),
        ("split_file", {"trian": [1]}, r"the split is 'trian'; it must be one of train, val"),
        ("split_file", {"train": ["x"]}, r"split train: an id is 'x', not a whole number"),
    ],
)
def test_load_refuses_an_invalid_side_file(
    option: str, content: Any, message: str, load: Load, cuhk: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=rf"side\.json[:,] {message}"):
        load("cuhk-pedes", cuhk, **{option: write_json(tmp_path / "side.json", content)})
