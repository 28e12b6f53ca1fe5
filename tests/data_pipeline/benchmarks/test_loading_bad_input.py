"""Invalid files: each is refused with one message that names file, entry and remedy."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import DatasetDict

from data_pipeline import BENCHMARKS, load_person_dataset
from data_pipeline.benchmarks.inspection import left_out_images

from . import layouts

Load = Callable[..., DatasetDict]
Entries = list[dict[str, Any]]


def changed(folder: Path, change: Callable[[Entries], Any]) -> Path:
    """Changes the annotation of a CUHK-PEDES, in place or to the value that `change` returns."""
    entries = layouts.cuhk_entries()
    result = change(entries)
    layouts.write_json(folder / "reid_raw.json", entries if result is None else result)
    return folder


@pytest.mark.parametrize("name", BENCHMARKS)
def test_load_names_the_source_of_a_missing_folder(name: str, load: Load, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        load(name, tmp_path / "nowhere")
    assert str(error.value).startswith(f"{tmp_path / 'nowhere'}: there is no such folder.")
    assert f"{BENCHMARKS[name].title} is distributed by {BENCHMARKS[name].origin}" in str(error.value)


def test_load_refuses_no_folder_and_an_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"CUHK-PEDES: pass its folder \(--data_dir"):
        load_person_dataset("cuhk-pedes")
    message = r"unknown data set 'cuhk-pede' \(known: .*, synthetic, synthetic-station\); did you mean cuhk-pedes\?"
    with pytest.raises(ValueError, match=message):
        load_person_dataset("cuhk-pede", "data")


def rewrite(old: str, new: str, encoding: str = "utf-8") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "reid_raw.json"
        file.write_bytes(b"\n\n" + file.read_text().replace(old, new, 1).encode(encoding))

    return change


def truncate(folder: Path) -> None:
    text = (folder / "reid_raw.json").read_text()
    (folder / "reid_raw.json").write_text("[\n" + text[1 : len(text) // 2])


def drop_splits(folder: Path) -> None:
    changed(folder, lambda entries: [{k: v for k, v in entry.items() if k != "split"} for entry in entries])
    (folder / "reid_raw.json").rename(folder / "caption_all.json")


def empty_market(folder: Path) -> None:
    shutil.rmtree(folder)
    (folder / "query").mkdir(parents=True)


DAMAGES: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "annotation renamed": (
        lambda folder: (folder / "reid_raw.json").rename(folder / "raw.json"),
        FileNotFoundError,
        r"no reid_raw\.json or caption_all\.json in it, only imgs/, raw\.json\. ",
    ),
    "image folder renamed": (
        lambda folder: (folder / "imgs").rename(folder / "images"),
        FileNotFoundError,
        r"cuhk: there is no folder imgs in it\. CUHK-PEDES is distributed by",
    ),
    "no split": (drop_splits, ValueError, r"caption_all\.json, entry 1 .*no key `split`.*Use reid_raw.*--split_file"),
    "truncated": (truncate, ValueError, r"reid_raw\.json, line 2, column \d+: no valid JSON .* download it again"),
    "not UTF-8": (
        rewrite("grey coat", "gréy coat", "latin-1"),
        ValueError,
        r"reid_raw\.json, line 3: byte 0xe9 at offset \d+ is not UTF-8; save the file",
    ),
    "lone surrogate": (
        rewrite("grey coat", "\\ud83d coat"),
        ValueError,
        r"reid_raw\.json, entry 1 \(.*\): a caption contains half a character",
    ),
    "person in two splits": (
        lambda folder: changed(folder, lambda entries: entries[5].update(split="test")),
        ValueError,
        r"reid_raw\.json: 1 person_id\(s\) are in both split 'train' and split 'test': 5;",
    ),
    "market-1501: another set": (
        lambda folder: None,
        FileNotFoundError,
        "is no bounding_box_train/ or query/ or bounding_box_test/ in it",
    ),
    "market-1501: empty": (
        empty_market,
        FileNotFoundError,
        r"cuhk: there is no image of Market-1501 in it\. Market-1501 is distributed",
    ),
    "ufine6926: two annotations": (
        lambda folder: layouts.write_json(folder / "b.json", []),
        ValueError,
        r"several annotation files, b\.json, reid_raw\.json; rename .* UFine6926\.json",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_load_refuses_a_damaged_set(damage: str, load: Load, cuhk: Path) -> None:
    change, error, message = DAMAGES[damage]
    change(cuhk)
    with pytest.raises(error, match=message):
        load(damage.split(":")[0] if ":" in damage else "cuhk-pedes", cuhk)


LEAVES = r"entry 3 .*leaves the data folder"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("file_path", "../s.jpg", r"entry 3 \(\.\./s\.jpg\): the path '\.\./s\.jpg' leaves the data folder"),
        ("file_path", "cam_a/../../secret.jpg", LEAVES),
        ("file_path", "/etc/secret.jpg", LEAVES),
        ("file_path", "C:\\secret.jpg", LEAVES),
        ("file_path", "..\\secret.jpg", LEAVES),
        ("file_path", "", r"entry 3 \(\): the path of the image is empty"),
        ("file_path", None, r"entry 3: file_path is None, not a string"),
        ("file_path", "./cam_a/00001_0.jpg", r"entry 3 .*: entry 1 has the same file_path; keep one of the two"),
        ("id", "person 7", r"entry 3 \(CUHK01/00002_0\.jpg\): id is 'person 7', not a whole number"),
        ("id", None, r"entry 3 .*: id is None, not a whole number"),
        ("id", True, r"entry 3 .*: id is True, not a whole number"),
        ("id", 1.5, r"entry 3 .*: id is 1\.5, not a whole number"),
        ("id", 2**70, r"entry 3 .*: id is \d+, not a whole number"),
        ("id", -1, r"entry 3 .*: id is -1; person numbers start at 0"),
        ("captions", None, r"entry 3 .*: captions is null; expected a list of strings"),
        ("captions", {"0": "a"}, r"entry 3 .*: captions is an object \(of 0\); expected a list of strings"),
        ("captions", ["fine", 7], r"entry 3 .*: a caption is 7, not a string"),
        ("captions", ["fine", None], r"entry 3 .*: a caption is None, not a string"),
        ("split", "query", r"entry 3 .*: the split is 'query'; it must be one of train, val"),
        ("split", None, r"entry 3 .*: the split is None; it must be one of"),
    ],
)
def test_load_names_an_invalid_value(key: str, value: Any, message: str, load: Load, cuhk: Path) -> None:
    changed(cuhk, lambda entries: entries[2].update({key: value}))
    with pytest.raises(ValueError, match=re.escape(str(cuhk / "reid_raw.json")) + ", " + message):
        load("cuhk-pedes", cuhk)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": []}, r"reid_raw\.json: expected a list with one object per image, not an object \(of train\)"),
        ([], r"reid_raw\.json: expected a list with one object per image, not an empty list"),
        (["a.jpg"], r"reid_raw\.json, entry 1: expected an object, not a str"),
        *(
            (
                [{k: v for k, v in layouts.cuhk_entries()[0].items() if k != key}],
                rf"entry 1.*: no key `{key}`; the keys",
            )
            for key in ("file_path", "id", "captions")
        ),
    ],
)
def test_load_refuses_another_annotation_form(content: Any, message: str, load: Load, cuhk: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load("cuhk-pedes", changed(cuhk, lambda entries: content))


def by_caption(entries: Entries) -> Entries:
    """The form of ALBEF and its successors: one entry per caption, and paths from the folder of all data sets."""
    return [
        {"image": f"CUHK-PEDES/imgs/{e['file_path']}", "caption": text, "image_id": str(e["id"]), "split": e["split"]}
        for e in entries
        for text in e["captions"]
    ]


def by_split(entries: Entries) -> dict[str, Entries]:
    names = {"train": "training", "val": "dev", "test": "test"}
    parts = {name: [e for e in entries if e["split"] == split] for split, name in names.items()}
    return {name: [{k: v for k, v in e.items() if k != "split"} for e in part] for name, part in parts.items()}


@pytest.mark.parametrize(
    "change",
    [
        by_caption,
        by_split,
        lambda entries: [e | {"file_path": [e["file_path"]]} for e in entries],
        lambda entries: [e | {"split": e["split"].replace("val", "valid").upper()} for e in entries],
        lambda entries: [e | {"split": e["split"].replace("val", "dev")} for e in entries],
        lambda entries: [{"img_path": e.pop("file_path"), "person_id": f"{e.pop('id'):06d}", **e} for e in entries],
        lambda entries: [e | {"caption": e.pop("captions")} for e in entries],
        lambda entries: [e | {"file_path": e["file_path"].replace("/", "\\")} for e in entries],
        lambda entries: [e | {"file_path": f"/data/CUHK-PEDES/imgs/{e['file_path']}"} for e in entries],
    ],
)
def test_load_accepts_forms_of_other_projects(change: Callable[[Entries], Any], load: Load, cuhk: Path) -> None:
    expected = load("cuhk-pedes", cuhk)
    assert {name: split.to_dict() for name, split in load("cuhk-pedes", changed(cuhk, change)).items()} == {
        name: split.to_dict() for name, split in expected.items()
    }


def test_load_accepts_json_lines(load: Load, cuhk: Path) -> None:
    layouts.write_json_lines(cuhk / "reid_raw.json", layouts.cuhk_entries())
    assert load("cuhk-pedes", cuhk).num_rows == {"train": 12, "validation": 3, "test": 4}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda entries: [entries[0] | {"file_path": ["a.jpg", "b.jpg"]}],
            r'entry 1: file_path is a list of 2 paths; write one object per image, \{"file_path": "a\.jpg", ',
        ),
        (
            lambda entries: {"images": entries, "annotations": []},
            r'not an object \(of images, annotations\); convert it to \[\{"file_path"',
        ),
        (
            lambda entries: {e["file_path"]: e["captions"] for e in entries},
            r"not an object \(of cam_a/00001_0\.jpg, .*\); convert it to \[\{",
        ),
        (
            lambda entries: [e | {"id": n} for n, e in enumerate(by_caption(entries))],
            r"entry 2 .*: entry 1 has the same image but another id or split; keep one of the two",
        ),
        (lambda entries: [{"path": "a"}], r"entry 1: no key `file_path`; the keys are path; convert the entry to \{"),
        (lambda entries: [entries[0] | {"id": "p7"}], r"id is 'p7', not a whole number; give each person a number"),
        (
            lambda entries: [{k: v for k, v in e.items() if k != "split"} for e in by_caption(entries)],
            r'entry 1 .*: no key `split`.* gather the entries by split: \{"train": \[…\]',
        ),
    ],
)
def test_load_names_a_form_and_its_conversion(
    change: Callable[[Entries], Any], message: str, load: Load, cuhk: Path
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load("cuhk-pedes", changed(cuhk, change))
    assert "\n" not in str(caught.value)


def test_load_doubts_an_image_id_of_each_image(load: Load, cuhk: Path, caplog: pytest.LogCaptureFixture) -> None:
    entries = [
        {"image_id": n} | {k: v for k, v in e.items() if k != "id"} for n, e in enumerate(layouts.cuhk_entries())
    ]
    load("cuhk-pedes", changed(cuhk, lambda _: entries))
    assert "`image_id` is read as the person, but each image has its own" in caplog.text


def test_load_accepts_a_bom_and_ids_as_strings(load: Load, cuhk: Path) -> None:
    changed(cuhk, lambda entries: [entry | {"id": f"{entry['id']:05d}"} for entry in entries])
    (cuhk / "caption_all.json").write_text("no JSON, and not read, since reid_raw.json has the splits")
    (cuhk / "reid_raw.json").write_bytes(b"\xef\xbb\xbf" + (cuhk / "reid_raw.json").read_bytes())
    assert set(load("cuhk-pedes", cuhk)["test"]["person_id"]) == {77, 13003}


def test_load_counts_irregular_captions(load: Load, cuhk: Path, caplog: pytest.LogCaptureFixture) -> None:
    captions: list[Any] = ["A man in grey.", [], ["  ", "A woman."]]
    changed(cuhk, lambda entries: [e | {"captions": captions[n]} if n < 3 else e for n, e in enumerate(entries)])
    splits = load("cuhk-pedes", cuhk)
    assert list(splits["train"]["captions"])[:3] == [["A man in grey."], [], ["A woman."]]
    assert "1 image(s) have one string instead of a list of captions: read as one caption" in caplog.text
    assert "1 image(s) have no caption" in caplog.text
    assert "1 caption(s) are blank: dropped" in caplog.text


def test_load_counts_missing_images_and_absent_folders(load: Load, cuhk: Path) -> None:
    for file in (cuhk / "imgs" / "Market").iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError) as error:
        load("cuhk-pedes", cuhk)
    message = str(error.value)
    assert f"{cuhk / 'reid_raw.json'}: 3 of its 19 images are not in {cuhk / 'imgs'}: Market/" in message
    assert "These folders are absent from" in message
    assert "imgs: Market. Get them, or leave them out with --skip_unreadable" in message
    assert "CUHK-PEDES is distributed by its authors" in message


@pytest.mark.parametrize("link", ["file", "folder", "dangling"])
def test_load_refuses_links_out_of_the_folder(link: str, load: Load, cuhk: Path, tmp_path: Path) -> None:
    image = cuhk / "imgs" / "cam_a" / "00001_0.jpg"
    inside = image if link != "folder" else image.parent
    outside = tmp_path / "elsewhere"
    inside.rename(outside)
    inside.symlink_to(outside if link != "dangling" else tmp_path / "nothing")
    reason = "a broken link" if link == "dangling" else "a link that leads out of the folder"
    with pytest.raises(FileNotFoundError, match=rf"cam_a/00001_0\.jpg in .*imgs: on its path is {reason}; put the"):
        load("cuhk-pedes", cuhk)
    kept = 10 if link == "folder" else 11
    splits = load("cuhk-pedes", cuhk, skip_unreadable=True)
    assert splits.num_rows["train"] == kept
    left_out = {image.file: image.reason for image in left_out_images(splits)}
    assert left_out["cam_a/00001_0.jpg"] == reason
    if link != "dangling":
        assert load("cuhk-pedes", cuhk, follow_links=True).num_rows["train"] == 12


@pytest.mark.parametrize(
    ("name", "file", "example"),
    [
        ("prcc", "rgb/train/001/D_x.jpg", "rgb/train/001/A_cropped_rgb001.jpg"),
        ("ltcc", "train/x.png", "train/000_1_c9_015833.png"),
        ("celeb-reid", "query/x.jpg", "query/1_1_0.jpg"),
        ("market-1501", "query/x.jpg", "query/0002_c1s1_000451_03.jpg"),
        ("msmt17", "test/x.jpg", "test/0000/0000_000_01_0303morning"),
    ],
)
def test_load_names_an_invalid_file_name(name: str, file: str, example: str, load: Load, tmp_path: Path) -> None:
    folder = getattr(layouts, "write_" + name.replace("-", "_"))(tmp_path / "set")
    layouts.write_image(folder / file)
    message = f"{file}: the file name has no person number; expected {example}"
    with pytest.raises(ValueError, match=re.escape(message)):
        load(name, folder)


def test_load_market_1501_hidden_files_and_links(load: Load, tmp_path: Path) -> None:
    folder = layouts.write_market_1501(tmp_path / "market")
    (folder / "query" / "._0001_c1s1_001051_00.jpg").write_bytes(b"mac")
    assert load("market-1501", folder).num_rows["test"] == 5
    (folder / "bounding_box_train").rename(tmp_path / "elsewhere")
    (folder / "bounding_box_train").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"1 paths cannot be read: bounding_box_train is a link that leads out"):
        load("market-1501", folder)
    assert load("market-1501", folder, follow_links=True).num_rows == {"train": 4, "validation": 2, "test": 5}


@pytest.mark.parametrize("count", [0, 5, -2])
def test_load_refuses_an_invalid_val_people(count: int, load: Load, tmp_path: Path) -> None:
    folder = layouts.write_icfg_pedes(tmp_path / "icfg", train=5)
    message = f"ICFG-PEDES: val_people is {count}, but train has 5 people; hold out 1 to 4 of them"
    with pytest.raises(ValueError, match=message):
        load("icfg-pedes", folder, val_people=count)


def break_images(folder: Path) -> list[str]:
    """Makes the first three images of a CUHK-PEDES unreadable, each in another way; returns all paths."""
    files = [folder / "imgs" / path for path in layouts.PATHS[:3]]
    for file, content in zip(files, (b"", files[1].read_bytes()[:300], b"<html>404</html>"), strict=True):
        file.write_bytes(content)
    return layouts.PATHS


def test_load_names_unreadable_images(load: Load, cuhk: Path, tmp_path: Path) -> None:
    paths = break_images(cuhk)
    for unchecked in range(2):
        with pytest.raises(OSError, match=r"reid_raw\.json: 3 of its 19 images cannot be read: ") as error:
            load("cuhk-pedes", cuhk)
        message = str(error.value)
        assert f"{paths[0]} (zero bytes), {paths[1]} (" in message and "truncated" in message.lower()
        assert f"{paths[2]} (no image of a known format)" in message
        assert "leave them out with --skip_unreadable (skip_unreadable=True); `bdam data inspect` lists" in message
        assert sum("-" in kept.name for kept in (tmp_path / "cache" / "person_sets").glob("*")) == unchecked
        # An unchecked load must not count as a checked one in the cache
        assert load("cuhk-pedes", cuhk, check_images=False).num_rows["train"] == 12


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("check_images", [False, True])
def test_load_skip_unreadable_lists_what_it_drops(
    missing: bool, check_images: bool, load: Load, cuhk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = break_images(cuhk)
    if missing:
        (cuhk / "imgs" / paths[3]).unlink()
    splits = load("cuhk-pedes", cuhk, skip_unreadable=True, check_images=check_images)
    assert [path for split in splits.values() for path in split["file_path"]] == paths[3 + missing :]
    listed = next((tmp_path / "cache").glob("person_sets/*/left_out.jsonl"))
    assert sorted(line["file_path"] for line in layouts.read_json_lines(listed)) == sorted(paths[: 3 + missing])
    assert ("1 missing and 3 unreadable" if missing else "3 unreadable") + " images are left out" in caplog.text
    assert f"{listed} lists them" in caplog.text
    for split in splits.values():
        assert all(row["image"].size for row in split)


def test_load_returns_a_repaired_image(load: Load, cuhk: Path) -> None:
    file = cuhk / "imgs" / "cam_a" / "00001_0.jpg"
    good = file.read_bytes()
    file.write_bytes(b"")
    assert load("cuhk-pedes", cuhk, skip_unreadable=True).num_rows["train"] == 11
    file.write_bytes(good)
    assert load("cuhk-pedes", cuhk, skip_unreadable=True).num_rows["train"] == 12
