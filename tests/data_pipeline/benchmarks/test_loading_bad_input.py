"""Each mistake on the disk ends in one message that names file and entry and says what to do."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import DatasetDict

from data_pipeline import BENCHMARKS, load_person_dataset

from . import layouts


def load(folder: Path, name: str = "cuhk-pedes", **options: Any) -> DatasetDict:
    return load_person_dataset(name, folder, cache_dir=folder.parent / "cache", **options)


def changed(folder: Path, change: Callable[[list[dict[str, Any]]], Any]) -> Path:
    """A small CUHK-PEDES whose annotation was changed after its images were written."""
    entries = layouts.cuhk_entries()
    layouts.write_annotated(folder, "reid_raw.json", entries)
    result = change(entries)
    layouts.write_json(folder / "reid_raw.json", entries if result is None else result)
    return folder


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_missing_folder_says_where_the_set_is_given_out(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        load(tmp_path / "nowhere", name)
    assert str(error.value).startswith(f"{tmp_path / 'nowhere'}: there is no such folder.")
    assert f"{BENCHMARKS[name].title} is given out by {BENCHMARKS[name].origin}" in str(error.value)


def test_no_folder_at_all_and_an_unknown_name_are_told() -> None:
    with pytest.raises(ValueError, match=r"CUHK-PEDES: name the folder that it lies in \(--data_dir"):
        load_person_dataset("cuhk-pedes")
    with pytest.raises(ValueError, match=r"no data set is called 'cuhk-pede': did you mean cuhk-pedes\? There are"):
        load_person_dataset("cuhk-pede", "data")


def test_a_missing_annotation_file_says_what_is_there_instead(tmp_path: Path) -> None:
    folder = layouts.write_cuhk_pedes(tmp_path / "cuhk")
    (folder / "reid_raw.json").rename(folder / "raw.json")
    with pytest.raises(
        FileNotFoundError, match=r"no reid_raw\.json or caption_all\.json in it, but imgs/, raw\.json\. "
    ):
        load(folder)


def test_a_missing_image_folder_is_named(tmp_path: Path) -> None:
    folder = layouts.write_cuhk_pedes(tmp_path / "cuhk")
    (folder / "imgs").rename(folder / "images")
    with pytest.raises(FileNotFoundError, match=r"cuhk: there is no folder imgs in it\. CUHK-PEDES is given out by"):
        load(folder)


def test_a_folder_of_another_benchmark_is_no_market(tmp_path: Path) -> None:
    folder = layouts.write_cuhk_pedes(tmp_path / "cuhk")
    with pytest.raises(
        FileNotFoundError, match="there is no bounding_box_train/ or query/ or bounding_box_test/ in it"
    ):
        load(folder, "market-1501")


def test_several_possible_annotation_files_are_named(tmp_path: Path) -> None:
    folder = layouts.write_ufine6926(tmp_path / "ufine", "a.json")
    layouts.write_json(folder / "b.json", [])
    with pytest.raises(ValueError, match=r"which is the annotation file: a\.json, b\.json\? Call it UFine6926\.json"):
        load(folder, "ufine6926")


def test_caption_all_has_no_split_and_the_message_names_the_right_file(tmp_path: Path) -> None:
    def drop_splits(entries: list[dict[str, Any]]) -> None:
        for entry in entries:
            del entry["split"]

    folder = changed(tmp_path / "cuhk", drop_splits)
    (folder / "reid_raw.json").rename(folder / "caption_all.json")
    with pytest.raises(
        ValueError, match=r"caption_all\.json, entry 1 .*no key `split`.*Use reid_raw\.json.*--split_file"
    ):
        load(folder)


def test_the_right_annotation_file_of_the_two_is_read(tmp_path: Path) -> None:
    folder = layouts.write_cuhk_pedes(tmp_path / "cuhk")
    (folder / "caption_all.json").write_text("no JSON at all")
    assert load(folder).num_rows["train"] == 12


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "file_path",
            "../secret.jpg",
            r"entry 3 \(\.\./secret\.jpg\): the path '\.\./secret\.jpg' leaves the data folder",
        ),
        ("file_path", "cam_a/../../secret.jpg", r"entry 3 .*leaves the data folder"),
        ("file_path", "/etc/secret.jpg", r"entry 3 .*leaves the data folder"),
        ("file_path", "C:\\secret.jpg", r"entry 3 .*leaves the data folder"),
        ("file_path", "..\\secret.jpg", r"entry 3 .*leaves the data folder"),
        ("file_path", "", r"entry 3 \(\): the path of the image is empty"),
        ("file_path", None, r"entry 3: file_path is None, not a string"),
        ("file_path", "./cam_a/00001_0.jpg", r"entry 3 .*: entry 1 has the same file_path; keep one of the two"),
        ("id", "person 7", r"entry 3 \(CUHK01/00002_0\.jpg\): id is 'person 7', not a whole number"),
        ("id", None, r"entry 3 .*: id is None, not a whole number"),
        ("id", True, r"entry 3 .*: id is True, not a whole number"),
        ("id", 1.5, r"entry 3 .*: id is 1\.5, not a whole number"),
        ("id", 2**70, r"entry 3 .*: id is \d+, not a whole number"),
        ("id", -1, r"entry 3 .*: id is -1; people are numbered from 0 on"),
        ("captions", None, r"entry 3 .*: captions is null; a list of strings is expected"),
        ("captions", {"0": "a"}, r"entry 3 .*: captions is an object \(of 0\); a list of strings"),
        ("captions", ["fine", 7], r"entry 3 .*: a caption is 7, not a string"),
        ("captions", ["fine", None], r"entry 3 .*: a caption is None, not a string"),
        ("split", "query", r"entry 3 .*: the split is 'query'; it must be one of train, val"),
        ("split", None, r"entry 3 .*: the split is None; it must be one of"),
    ],
)
def test_a_wrong_value_is_named_with_file_and_entry(key: str, value: Any, message: str, tmp_path: Path) -> None:
    folder = changed(tmp_path / "cuhk", lambda entries: entries[2].update({key: value}))
    with pytest.raises(ValueError, match=re.escape(str(folder / "reid_raw.json")) + ", " + message):
        load(folder)


@pytest.mark.parametrize("key", ["file_path", "id", "captions"])
def test_a_missing_key_is_named_with_those_that_are_there(key: str, tmp_path: Path) -> None:
    folder = changed(tmp_path / "cuhk", lambda entries: [{k: v for k, v in entries[0].items() if k != key}])
    with pytest.raises(ValueError, match=rf"reid_raw\.json, entry 1.*: no key `{key}`; it has split, "):
        load(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": []}, r"reid_raw\.json: a list with one object an image is expected, not an object \(of train\)"),
        ([], r"reid_raw\.json: a list with one object an image is expected, not an empty list"),
        (["a.jpg"], r"reid_raw\.json, entry 1: an object is expected, not a str"),
    ],
)
def test_an_annotation_file_of_another_form_is_named(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load(changed(tmp_path / "cuhk", lambda entries: content))


def test_an_annotation_file_that_was_cut_off_is_named_with_the_line(tmp_path: Path) -> None:
    folder = layouts.write_cuhk_pedes(tmp_path / "cuhk")
    text = (folder / "reid_raw.json").read_text()
    (folder / "reid_raw.json").write_text("[\n" + text[1 : len(text) // 2])
    with pytest.raises(ValueError, match=r"reid_raw\.json, line 2, column \d+: no valid JSON .* get it again"):
        load(folder)


def test_bytes_that_are_not_utf8_are_named_with_the_line(tmp_path: Path) -> None:
    folder = layouts.write_cuhk_pedes(tmp_path / "cuhk")
    content = (folder / "reid_raw.json").read_bytes()
    (folder / "reid_raw.json").write_bytes(b"\n\n" + content.replace(b"grey coat", b"gr\xe9y coat", 1))
    with pytest.raises(
        ValueError, match=r"reid_raw\.json, line 3: byte 0xe9 at offset \d+ is not UTF-8; save the file"
    ):
        load(folder)


def test_half_a_character_in_a_caption_is_named(tmp_path: Path) -> None:
    folder = layouts.write_cuhk_pedes(tmp_path / "cuhk")
    text = (folder / "reid_raw.json").read_text().replace("grey coat", "\\ud83d coat", 1)
    (folder / "reid_raw.json").write_text(text)
    with pytest.raises(ValueError, match=r"reid_raw\.json, entry 1 \(.*\): a caption holds half a character"):
        load(folder)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    folder = layouts.write_cuhk_pedes(tmp_path / "cuhk")
    (folder / "reid_raw.json").write_bytes(b"\xef\xbb\xbf" + (folder / "reid_raw.json").read_bytes())
    assert load(folder).num_rows["train"] == 12


def test_ids_as_strings_are_numbers(tmp_path: Path) -> None:
    def as_strings(entries: list[dict[str, Any]]) -> None:
        for entry in entries:
            entry["id"] = f"{entry['id']:05d}"

    assert set(load(changed(tmp_path / "cuhk", as_strings))["test"]["person_id"]) == {77, 13003}


def test_one_string_is_one_caption_and_blank_or_no_captions_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def odd(entries: list[dict[str, Any]]) -> None:
        entries[0]["captions"] = "A man in grey."
        entries[1]["captions"] = []
        entries[2]["captions"] = ["  ", "A woman."]

    splits = load(changed(tmp_path / "cuhk", odd))
    assert list(splits["train"]["captions"])[:3] == [["A man in grey."], [], ["A woman."]]
    assert "1 image(s) have one string in the place of a list of captions: taken as one caption" in caplog.text
    assert "1 image(s) have no caption" in caplog.text
    assert "1 caption(s) are blank: left out" in caplog.text


def test_an_identity_in_two_splits_is_listed(tmp_path: Path) -> None:
    folder = changed(
        tmp_path / "cuhk",
        lambda entries: [e | {"split": "test"} if e["id"] == 5 and "_1" in e["file_path"] else e for e in entries],
    )
    with pytest.raises(
        ValueError, match=r"reid_raw\.json: 1 person_id\(s\) lie in both split 'train' and split 'test': 5;"
    ):
        load(folder)


def test_missing_images_are_counted_with_the_absent_folders_and_what_to_do(tmp_path: Path) -> None:
    folder = layouts.write_cuhk_pedes(tmp_path / "cuhk")
    for file in (folder / "imgs" / "Market").iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError) as error:
        load(folder)
    message = str(error.value)
    assert f"{folder / 'reid_raw.json'}: 3 of its 19 images are not in {folder / 'imgs'}: Market/" in message
    assert "These folders are absent from" in message
    assert "imgs: Market. Get them, or leave them out with --skip_unreadable" in message
    assert "CUHK-PEDES is given out by its authors" in message


@pytest.mark.parametrize("link", ["file", "folder", "dangling"])
def test_a_link_out_of_the_data_folder_is_refused(link: str, tmp_path: Path) -> None:
    folder = layouts.write_cuhk_pedes(tmp_path / "cuhk")
    image = folder / "imgs" / "cam_a" / "00001_0.jpg"
    inside = image if link != "folder" else image.parent
    outside = tmp_path / "elsewhere"
    inside.rename(outside)
    inside.symlink_to(outside if link != "dangling" else tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"reid_raw\.json, cam_a/00001_0\.jpg: a symbolic link leads out of .*imgs"):
        load(folder)
    with pytest.raises(ValueError, match="a symbolic link leads out"):
        load(folder, skip_unreadable=True)


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        (
            "prcc",
            "rgb/train/001/D_x.jpg",
            r"rgb/train/001/D_x\.jpg: the name does not say who it is; names are like rgb/tr",
        ),
        ("ltcc", "train/x.png", r"train/x\.png: the name .* names are like train/000_1_c9_015833\.png"),
        ("celeb-reid", "query/x.jpg", r"query/x\.jpg: the name .* names are like query/1_1_0\.jpg"),
        ("market-1501", "query/x.jpg", r"query/x\.jpg: the name .* names are like query/0002_c1s1_000451_03\.jpg"),
        ("msmt17", "test/x.jpg", r"test/x\.jpg: the name .* names are like test/0000/0000_000_01_0303morning"),
    ],
)
def test_a_file_name_that_says_nobody_is_named(name: str, file: str, message: str, tmp_path: Path) -> None:
    folder = getattr(layouts, "write_" + name.replace("-", "_"))(tmp_path / "set")
    layouts.write_image(folder / file)
    with pytest.raises(ValueError, match=message):
        load(folder, name)


def test_hidden_files_of_other_systems_are_no_images(tmp_path: Path) -> None:
    folder = layouts.write_market_1501(tmp_path / "market")
    (folder / "query" / "._0001_c1s1_001051_00.jpg").write_bytes(b"mac")
    assert load(folder, "market-1501").num_rows["test"] == 4


def test_a_linked_part_of_a_set_without_annotation_is_told(tmp_path: Path) -> None:
    folder = layouts.write_market_1501(tmp_path / "market")
    (folder / "bounding_box_train").rename(tmp_path / "elsewhere")
    (folder / "bounding_box_train").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"a symbolic link leads out of .*market, or nowhere: bounding_box_train"):
        load(folder, "market-1501")


def test_an_empty_set_is_told(tmp_path: Path) -> None:
    (tmp_path / "market" / "query").mkdir(parents=True)
    with pytest.raises(
        FileNotFoundError, match=r"market: there is no image of Market-1501 in it\. Market-1501 is given"
    ):
        load(tmp_path / "market", "market-1501")


@pytest.mark.parametrize(("count", "people"), [(0, 5), (5, 5), (-2, 5)])
def test_too_many_or_too_few_people_to_hold_out_are_told(count: int, people: int, tmp_path: Path) -> None:
    folder = layouts.write_icfg_pedes(tmp_path / "icfg", train=people)
    with pytest.raises(
        ValueError, match=f"ICFG-PEDES: val_people is {count}, but train has 5 people, of whom 1 to 4 can"
    ):
        load(folder, "icfg-pedes", val_people=count)


def break_images(folder: Path) -> list[str]:
    """Makes the first three images of a small CUHK-PEDES unreadable, each in another way; all of its paths."""
    paths = [entry["file_path"] for entry in layouts.cuhk_entries()]
    files = [folder / "imgs" / path for path in paths]
    files[0].write_bytes(b"")
    files[1].write_bytes(files[1].read_bytes()[:300])
    files[2].write_text("<html>404</html>")
    return paths


def test_unreadable_images_are_found_at_the_first_load_and_named_with_the_reason(tmp_path: Path) -> None:
    folder = layouts.write_cuhk_pedes(tmp_path / "cuhk")
    paths = break_images(folder)
    with pytest.raises(OSError, match=r"reid_raw\.json: 3 of its 19 images cannot be read: ") as error:
        load(folder)
    message = str(error.value)
    assert f"{paths[0]} (zero bytes), {paths[1]} (" in message and "truncated" in message.lower()
    assert f"{paths[2]} (no image of a known format)" in message
    assert "leave them out with --skip_unreadable (skip_unreadable=True); `bdam data inspect` lists them" in message
    assert not list((tmp_path / "cache").glob("person_sets/*"))


def test_images_that_the_reader_checks_himself_are_not_decoded_by_the_loader(tmp_path: Path) -> None:
    folder = layouts.write_cuhk_pedes(tmp_path / "cuhk")
    break_images(folder)
    assert load(folder, check_images=False).num_rows["train"] == 12
    with pytest.raises(OSError, match="3 of its 19 images cannot be read"):
        load(folder)  # what was loaded unchecked is not taken for checked


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("check_images", [False, True])
def test_unreadable_images_are_left_out_and_listed_on_demand(
    missing: bool, check_images: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = layouts.write_cuhk_pedes(tmp_path / "cuhk")
    paths = break_images(folder)
    if missing:
        (folder / "imgs" / paths[3]).unlink()
    splits = load(folder, skip_unreadable=True, check_images=check_images)
    kept = [path for split in splits.values() for path in split["file_path"]]
    assert kept == paths[3 + missing :]
    listed = next((tmp_path / "cache").glob("person_sets/*/left_out.jsonl"))
    told = [line["file_path"] for line in layouts.read_json_lines(listed)]
    assert sorted(told) == sorted(paths[: 3 + missing])
    assert ("1 missing and 3 unreadable" if missing else "3 unreadable") + " images are left out" in caplog.text
    assert f"{listed} lists them" in caplog.text
    for split in splits.values():
        assert all(row["image"].size for row in split)


def test_a_repaired_image_comes_back(tmp_path: Path) -> None:
    folder = layouts.write_cuhk_pedes(tmp_path / "cuhk")
    file = folder / "imgs" / "cam_a" / "00001_0.jpg"
    good = file.read_bytes()
    file.write_bytes(b"")
    assert load(folder, skip_unreadable=True).num_rows["train"] == 11
    file.write_bytes(good)
    assert load(folder, skip_unreadable=True).num_rows["train"] == 12
