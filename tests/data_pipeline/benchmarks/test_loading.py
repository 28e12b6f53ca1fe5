"""Loads each benchmark in its official layout: counts, people, cameras, outfits, splits, cache."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import DatasetDict, List, Value

from data_pipeline import PERSON_FEATURES, check_splits, load_person_dataset, load_synthetic
from data_pipeline.benchmarks import loading, table_cache
from data_pipeline.benchmarks.benchmark import Counts
from data_pipeline.benchmarks.cuhk_pedes import CUHK_PEDES
from modeling_bdam.evaluation.protocols import QueryRows

from . import layouts

Load = Callable[..., DatasetDict]


def people(splits: DatasetDict) -> dict[str, set[int]]:
    return {name: set(split["person_id"]) for name, split in splits.items()}


def numbers(splits: DatasetDict) -> dict[str, tuple[int, int, int]]:
    """Person, camera and outfit of each file."""
    return {
        row["file_path"]: (row["person_id"], row["camera_id"], row["outfit_id"])
        for split in splits.values()
        for row in split.remove_columns("image")
    }


@pytest.mark.parametrize(("name", "inner"), [("cuhk-pedes", "."), ("CUHK_PEDES", "CUHK-PEDES")])
def test_load_cuhk_pedes_from_its_folder_or_the_parent(name: str, inner: str, load: Load, tmp_path: Path) -> None:
    layouts.write_cuhk_pedes(tmp_path / "data" / inner)
    splits = load(name, tmp_path / "data")
    assert people(splits) == {"train": {1, 2, 5, 9, 10, 4000}, "validation": {13, 14}, "test": {77, 13003}}
    assert splits.num_rows == {"train": 12, "validation": 3, "test": 4}  # person 13 has one image
    assert [len(captions) for captions in splits["test"]["captions"]] == [3, 3, 2, 2]
    assert set(splits["train"]["camera_id"]) == set(splits["train"]["outfit_id"]) == {-1}
    assert splits["train"][0]["file_path"] == "cam_a/00001_0.jpg"
    assert splits["train"]["identity_description"][0] is None
    check_splits(splits)


def test_load_has_the_schema_and_leaves_images_on_disk(load: Load, cuhk: Path) -> None:
    split = load("cuhk-pedes", cuhk)["train"]
    assert split.features == {**PERSON_FEATURES, "file_path": Value("string")}
    assert split.features["captions"] == List(Value("string"))
    image = split.data.column("image")[0].as_py()
    assert image == {"bytes": None, "path": str(cuhk.resolve() / "imgs" / split[0]["file_path"])}
    assert split[0]["image"].size == (16, 32)


@pytest.mark.parametrize("annotation", ["ICFG-PEDES.json", "ICFG_PEDES.json"])
def test_load_icfg_pedes_splits_and_cameras(
    annotation: str, load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    splits = load("icfg-pedes", layouts.write_icfg_pedes(tmp_path / "icfg", annotation))
    assert people(splits)["test"] == {5, 6}
    assert people(splits)["train"] | people(splits)["validation"] == set(range(5))
    # An image of test, in the folder train
    assert numbers(splits)["train/0005/0005_000_06_0303morning_0015_0.jpg"] == (5, 6, -1)
    assert {len(captions) for split in splits.values() for captions in split["captions"]} == {1}
    assert "no validation split, so 1 of the 5 people of train are held out for it, drawn with seed 0" in caplog.text
    assert {(record.name, record.levelno) for record in caplog.records} == {
        ("data_pipeline.benchmarks.loading", logging.WARNING)
    }


def test_load_rstpreid_names_and_cjk_captions(load: Load, tmp_path: Path) -> None:
    splits = load("rstpreid", layouts.write_rstpreid(tmp_path / "rstp"))
    assert people(splits) == {"train": {0, 1, 2, 3}, "validation": {4}, "test": {5, 6}}
    assert numbers(splits)["0006_c8_0001.jpg"] == (6, 8, -1)
    assert splits["train"][0]["captions"][0] == "一个穿着红色外套的男人。"
    assert splits["test"][0]["captions"][0] == splits["train"][4]["captions"][0]


def test_load_rstpreid_warns_about_the_early_split(
    load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entries = layouts.rstp_entries(3901, 100, 100, images_each=1)
    layouts.write_json(tmp_path / "rstp" / "data_captions.json", entries)
    layouts.write_image(tmp_path / "rstp" / "imgs" / entries[0]["img_path"])
    for entry in entries[1:]:
        os.link(tmp_path / "rstp/imgs" / entries[0]["img_path"], tmp_path / "rstp/imgs" / entry["img_path"])
    splits = load("rstpreid", tmp_path / "rstp", check_images=False)
    assert splits.num_rows == {"train": 3901, "validation": 100, "test": 100}
    assert "data_captions.json has RSTPReid's early split of 3901/100/100 people" in caplog.text


@pytest.mark.parametrize("annotation", ["UFine6926.json", "anything.json"])
def test_load_ufine6926_paths_and_splits(annotation: str, load: Load, tmp_path: Path) -> None:
    folder = layouts.write_ufine6926(tmp_path / "ufine", annotation)
    (folder / f"._{annotation}").write_bytes(b"mac")
    splits = load("ufine6926", folder)
    assert people(splits)["test"] == {5, 6}
    assert numbers(splits)["images/1.jpg"] == (1, -1, -1)
    assert splits.num_rows == {"train": 6, "validation": 2, "test": 4}


def test_load_prcc_outfits_and_disjoint_validation(
    load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    splits = load("prcc", layouts.write_prcc(tmp_path / "prcc"))
    assert people(splits)["test"] == {3, 5}
    assert people(splits)["train"] | people(splits)["validation"] == {1, 2, 4}
    check_splits(splits)
    read = numbers(splits)
    assert len(read) == 33  # no sketches
    for person, path in ((1, "rgb/train/001/{}_cropped_rgb001.jpg"), (3, "rgb/test/{}/003/cropped_rgb003.jpg")):
        assert [read[path.format(camera)] for camera in "ABC"] == [(person, 0, 0), (person, 1, 0), (person, 2, 1)]
    assert "9 validation images are of train people: added to train" in caplog.text


@pytest.mark.parametrize(
    ("name", "test_people", "test_images", "file", "expected"),
    [
        ("ltcc", {100, 101}, 6, "train/002_2_c12_0158312.png", (2, 12, 2)),
        ("ltcc", {100, 101}, 6, "query/100_1_c9_015833.png", (100, 9, 1)),
        ("market-1501", {1, 3, -1}, 5, "bounding_box_train/1500_c6s1_000451_03.jpg", (1500, 6, -1)),
        ("market-1501", {1, 3, -1}, 5, "bounding_box_test/0000_c3s2_001051_01.jpg", (-1, 3, -1)),  # distractor
        ("celeb-reid", {633, 634}, 6, "train/1_1_0.jpg", (1, -1, 0)),
        ("celeb-reid-light", {633, 634}, 6, "query/633_1_0.jpg", (633, -1, 6)),
    ],
)
def test_load_reads_numbers_from_file_names(
    name: str,
    test_people: set[int],
    test_images: int,
    file: str,
    expected: tuple[int, int, int],
    load: Load,
    tmp_path: Path,
) -> None:
    write = getattr(layouts, "write_" + name.removesuffix("-light").replace("-", "_"))
    splits = load(name, write(tmp_path / "set"))
    assert people(splits)["test"] == test_people and splits.num_rows["test"] == test_images
    assert numbers(splits)[file] == expected
    assert splits["test"]["captions"] == [[]] * test_images
    if name.startswith("celeb"):  # each image has its own outfit
        assert len({outfit for _, _, outfit in numbers(splits).values()}) == 12


@pytest.mark.parametrize("folders", [("train", "test"), ("mask_train_v2", "mask_test_v2")])
def test_load_msmt17_offsets_test_people(
    folders: tuple[str, str], load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    splits = load("msmt17", layouts.write_msmt17(tmp_path / "MSMT17_V1", *folders))
    assert people(splits)["train"] | people(splits)["validation"] == {0, 1, 2, 3}
    assert people(splits)["test"] == {4, 5, 6}
    assert numbers(splits)[f"{folders[1]}/0002/0002_001_15_0303morning_0015_1.jpg"] == (6, 15, -1)
    assert "4 is added to each person_id of test" in caplog.text


def test_load_market_1501_counts_gallery_and_junk(load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = layouts.write_market_1501(tmp_path / "market")
    people_of = {"train": [1500], "val": [2, 7], "test": [1, 3]}
    splits = load("market-1501", folder, split_file=layouts.write_json(tmp_path / "splits.json", people_of))
    assert splits.num_rows == {"train": 2, "validation": 4, "test": 5}
    assert "the gallery has 3 images, 2 of people and 1 distractors" in caplog.text
    assert "1 junk images (-1 in the file name) are left out" in caplog.text
    queries = QueryRows(splits["test"].to_dict() | {"captions": [["a man"]] * 5}).queries
    assert [splits["test"][query["index"]]["person_id"] for query in queries] == [1, 3, 1, 3]


def test_load_accepts_a_test_part_only(load: Load, tmp_path: Path) -> None:
    folder = layouts.write_names(tmp_path / "market", ["query/0001_c1s1_001051_00.jpg"])
    assert load("market-1501", folder).num_rows == {"test": 1}


def test_load_holds_out_whole_people_by_seed(load: Load, tmp_path: Path) -> None:
    folder = layouts.write_icfg_pedes(tmp_path / "icfg", train=40)
    drawn = [people(load("icfg-pedes", folder, seed=seed))["validation"] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 2  # 5 % of 40
    splits = load("icfg-pedes", folder, val_people=7)
    assert len(people(splits)["validation"]) == 7
    check_splits(splits)


def test_load_warns_about_counts_and_absent_folders(
    load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    load("cuhk-pedes", layouts.write_cuhk_pedes(tmp_path / "some", parts=["cam_a", "CUHK01"]))
    assert "train has 6 people (11003 published), 12 images (34054 published), 24 captions (68126" in caplog.text
    assert "absent from" in caplog.text
    assert "cam_b, CUHK03, Market, test_query, train_query" in caplog.text
    caplog.clear()
    published = {"train": Counts(6, 12, 24), "validation": Counts(2, 3), "test": Counts(2, 4)}
    for split, counts in published.items():
        monkeypatch.setitem(CUHK_PEDES.published, split, counts)
    load("cuhk-pedes", layouts.write_cuhk_pedes(tmp_path / "all"))
    assert not caplog.records


def test_load_from_cache_repeats_the_warnings(
    load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = layouts.write_icfg_pedes(tmp_path / "icfg")
    first = load("icfg-pedes", folder)
    warnings = [record.message for record in caplog.records]
    assert warnings
    caplog.clear()
    monkeypatch.setattr(loading, "build_tables", None)
    second = load("icfg-pedes", folder)
    assert [record.message for record in caplog.records] == warnings
    assert {name: split.to_dict() for name, split in second.items()} == {n: s.to_dict() for n, s in first.items()}
    assert second["train"]._fingerprint == first["train"]._fingerprint


@pytest.mark.parametrize("change", ["caption", "removed image", "descriptions", "seed"])
def test_load_rebuilds_the_table_after_a_change(change: str, load: Load, tmp_path: Path) -> None:
    folder = layouts.write_icfg_pedes(tmp_path / "icfg")
    paths = [entry["file_path"] for entry in layouts.icfg_entries()]
    options = {"descriptions": layouts.write_descriptions(tmp_path / "d.jsonl", paths)}
    load("icfg-pedes", folder, **options)
    if change == "caption":
        text = (folder / "ICFG-PEDES.json").read_text().replace("blue", "pink")
        (folder / "ICFG-PEDES.json").write_text(text)
        assert "pink" in load("icfg-pedes", folder, **options)["test"]["captions"][0][0]
    elif change == "removed image":
        os.remove(folder / "imgs" / paths[0])
        with pytest.raises(FileNotFoundError, match="1 of its 14 images are not in"):
            load("icfg-pedes", folder, **options)
    elif change == "descriptions":
        options["descriptions"].write_text(options["descriptions"].read_text().replace("tall", "short"))
        assert load("icfg-pedes", folder, **options)["test"]["identity_description"][0] == "A short man."
    else:
        before, after = (people(load("icfg-pedes", folder, seed=seed, val_people=2)) for seed in (0, 3))
        assert before != after


def test_write_cached_twice_leaves_one_table(
    load: Load, cuhk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_twice(*arguments: object) -> None:  # as two processes that finish at the same time
        table_cache.write_cached(*arguments)  # type: ignore[arg-type]
        table_cache.write_cached(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loading, "write_cached", write_twice)
    assert load("cuhk-pedes", cuhk).num_rows["train"] == 12
    (kept,) = (tmp_path / "cache" / "person_sets").iterdir()
    assert kept.name.startswith("cuhk-pedes-")


@pytest.mark.parametrize("linked", ["imgs/cam_a", "imgs"])
def test_load_follows_links_to_images(linked: str, load: Load, cuhk: Path, tmp_path: Path) -> None:
    target = cuhk / "imgs" / "renamed" if linked == "imgs/cam_a" else tmp_path / "elsewhere"
    (cuhk / linked).rename(target)
    (cuhk / linked).symlink_to(target)
    (target / "cycle").symlink_to("..")
    assert load("cuhk-pedes", cuhk)["train"][0]["image"].size == (16, 32)


@pytest.mark.parametrize("name", ["synthetic", "synthetic-station"])
def test_load_synthetic_by_name(name: str, load: Load, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"num_train_people": 2, "num_val_people": 1, "num_test_people": 1, "images_per_outfit": 1}
    splits = load(name, None, synthetic=sizes)
    drawn = load_synthetic(**sizes, name=name, cache_dir=str(tmp_path / "again"))
    assert {name: split.to_dict() for name, split in splits.items()} == {n: s.to_dict() for n, s in drawn.items()}


@pytest.mark.parametrize("option", ["data_dir", "descriptions", "outfits", "split_file"])
def test_load_synthetic_refuses_files(option: str) -> None:
    with pytest.raises(ValueError, match=f"synthetic: the set is drawn, .*; drop {option}"):
        load_person_dataset("synthetic", **{option: "file"})  # type: ignore[arg-type]
