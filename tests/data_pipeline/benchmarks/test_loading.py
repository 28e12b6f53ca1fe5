"""Each benchmark in its official layout becomes the one table: counts, people, cameras, outfits, splits."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import DatasetDict, List, Value

from data_pipeline import PERSON_FEATURES, check_splits, load_person_dataset

from . import layouts

Load = Callable[..., DatasetDict]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """`load_person_dataset` with a cache of its own."""
    return lambda name, folder, **options: load_person_dataset(name, folder, cache_dir=tmp_path / "cache", **options)


def people(splits: DatasetDict) -> dict[str, set[int]]:
    return {name: set(split["person_id"]) for name, split in splits.items()}


def facts(splits: DatasetDict) -> dict[str, tuple[int, int, int]]:
    """Camera and outfit of each file, with its person."""
    return {
        row["file_path"]: (row["person_id"], row["camera_id"], row["outfit_id"])
        for split in splits.values()
        for row in split.remove_columns("image")
    }


def test_cuhk_pedes_keeps_its_own_numbers_splits_and_every_caption(load: Load, tmp_path: Path) -> None:
    splits = load("cuhk-pedes", layouts.write_cuhk_pedes(tmp_path / "CUHK-PEDES"))
    assert people(splits) == {"train": {1, 2, 5, 9, 10, 4000}, "validation": {13, 14}, "test": {77, 13003}}
    assert splits.num_rows == {"train": 12, "validation": 3, "test": 4}  # person 13 has one image
    assert [len(captions) for captions in splits["test"]["captions"]] == [3, 3, 2, 2]
    assert set(splits["train"]["camera_id"]) == set(splits["train"]["outfit_id"]) == {-1}
    assert splits["train"][0]["file_path"] == "cam_a/00001_0.jpg"
    assert splits["train"]["identity_description"][0] is None
    check_splits(splits)


def test_the_columns_are_the_schema_and_the_path_and_images_stay_on_the_disk(load: Load, tmp_path: Path) -> None:
    folder = layouts.write_cuhk_pedes(tmp_path / "CUHK-PEDES")
    split = load("cuhk-pedes", folder)["train"]
    assert split.features == {**PERSON_FEATURES, "file_path": Value("string")}
    assert split.features["captions"] == List(Value("string"))
    image = split.data.column("image")[0].as_py()
    assert image == {"bytes": None, "path": str(folder.resolve() / "imgs" / split[0]["file_path"])}
    assert split[0]["image"].size == (16, 32)


@pytest.mark.parametrize("inner", ["CUHK-PEDES", "."])
def test_the_parent_of_the_unpacked_folder_may_be_named(inner: str, load: Load, tmp_path: Path) -> None:
    layouts.write_cuhk_pedes(tmp_path / "data" / inner)
    assert load("CUHK_PEDES", tmp_path / "data").num_rows["train"] == 12


@pytest.mark.parametrize("annotation", ["ICFG-PEDES.json", "ICFG_PEDES.json"])
def test_icfg_pedes_takes_split_from_the_annotation_and_camera_from_the_name(
    annotation: str, load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = layouts.write_icfg_pedes(tmp_path / "icfg", annotation)
    splits = load("icfg-pedes", folder)
    assert people(splits)["test"] == {5, 6}
    assert people(splits)["train"] | people(splits)["validation"] == set(range(5))
    assert facts(splits)["train/0005/0005_000_06_0303morning_0015_0.jpg"] == (5, 6, -1)  # of test, in the folder train
    assert {len(captions) for split in splits.values() for captions in split["captions"]} == {1}
    assert "no validation split, so 1 of the 5 people of train are held out for it, drawn by seed 0" in caplog.text


def test_rstpreid_reads_names_cjk_and_shared_sentences(load: Load, tmp_path: Path) -> None:
    splits = load("rstpreid", layouts.write_rstpreid(tmp_path / "rstp"))
    assert people(splits) == {"train": {0, 1, 2, 3}, "validation": {4}, "test": {5, 6}}
    assert facts(splits)["0006_c8_0001.jpg"] == (6, 8, -1)
    assert splits["train"][0]["captions"][0] == "一个穿着红色外套的男人。"
    assert splits["test"][0]["captions"][0] == splits["train"][4]["captions"][0]


def test_the_early_split_of_rstpreid_is_accepted_and_named(
    load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entries = layouts.rstp_entries(3901, 100, 100, images_each=1)
    layouts.write_json(tmp_path / "rstp" / "data_captions.json", entries)
    layouts.write_image(tmp_path / "rstp" / "imgs" / entries[0]["img_path"])
    for entry in entries[1:]:
        (tmp_path / "rstp" / "imgs" / entry["img_path"]).symlink_to(entries[0]["img_path"])
    splits = load("rstpreid", tmp_path / "rstp")
    assert splits.num_rows == {"train": 3901, "validation": 100, "test": 100}
    assert "data_captions.json has RSTPReid's early split of 3901/100/100 people" in caplog.text


@pytest.mark.parametrize("annotation", ["UFine6926.json", "anything.json"])
def test_ufine6926_has_its_images_below_the_folder_itself(annotation: str, load: Load, tmp_path: Path) -> None:
    splits = load("ufine6926", layouts.write_ufine6926(tmp_path / "ufine", annotation))
    assert people(splits)["test"] == {5, 6}
    assert facts(splits)["images/1.jpg"] == (1, -1, -1)
    assert splits.num_rows == {"train": 6, "validation": 2, "test": 4}


def test_prcc_tells_outfits_by_camera_and_keeps_validation_people_out_of_train(
    load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    splits = load("prcc", layouts.write_prcc(tmp_path / "prcc"))
    assert people(splits)["test"] == {3, 5}
    assert people(splits)["train"] | people(splits)["validation"] == {1, 2, 4}
    check_splits(splits)
    read = facts(splits)
    assert len(read) == 33  # no sketches
    assert [read[f"rgb/train/001/{camera}_cropped_rgb001.jpg"] for camera in "ABC"] == [(1, 0, 0), (1, 1, 0), (1, 2, 1)]
    assert [read[f"rgb/test/{camera}/003/cropped_rgb003.jpg"] for camera in "ABC"] == [(3, 0, 0), (3, 1, 0), (3, 2, 1)]
    assert "9 validation images are of train people: added to train" in caplog.text


def test_ltcc_reads_person_outfit_and_camera_and_puts_query_and_gallery_in_test(load: Load, tmp_path: Path) -> None:
    splits = load("ltcc", layouts.write_ltcc(tmp_path / "LTCC_ReID"))
    assert splits.num_rows["test"] == 6
    assert facts(splits)["train/002_2_c12_0158312.png"] == (2, 12, 2)
    assert facts(splits)["query/100_1_c9_015833.png"] == (100, 9, 1)


@pytest.mark.parametrize("name", ["celeb-reid", "celeb-reid-light"])
def test_celeb_reid_gives_every_image_its_own_outfit(name: str, load: Load, tmp_path: Path) -> None:
    splits = load(name, layouts.write_celeb_reid(tmp_path / "celeb"))
    outfits = [outfit for _, _, outfit in facts(splits).values()]
    assert len(set(outfits)) == len(outfits) == 12
    assert people(splits)["test"] == {633, 634}
    assert set(splits["train"]["camera_id"]) == {-1}


def test_market_1501_leaves_junk_and_background_out(load: Load, tmp_path: Path) -> None:
    splits = load("market-1501", layouts.write_market_1501(tmp_path / "Market-1501-v15.09.15"))
    assert people(splits)["test"] == {1, 3}
    assert splits.num_rows["test"] == 4
    assert facts(splits)["bounding_box_train/1500_c6s1_000451_03.jpg"] == (1500, 6, -1)
    assert splits["test"]["captions"] == [[]] * 4


@pytest.mark.parametrize("folders", [("train", "test"), ("mask_train_v2", "mask_test_v2")])
def test_msmt17_numbers_test_people_after_those_of_train(
    folders: tuple[str, str], load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    splits = load("msmt17", layouts.write_msmt17(tmp_path / "MSMT17_V1", *folders))
    assert people(splits)["train"] | people(splits)["validation"] == {0, 1, 2, 3}
    assert people(splits)["test"] == {4, 5, 6}
    assert facts(splits)[f"{folders[1]}/0002/0002_001_15_0303morning_0015_1.jpg"] == (6, 15, -1)
    assert "4 is added to each person_id of test" in caplog.text


def test_only_a_test_part_loads_as_test(load: Load, tmp_path: Path) -> None:
    folder = layouts.write_names(tmp_path / "market", ["query/0001_c1s1_001051_00.jpg"])
    assert load("market-1501", folder).num_rows == {"test": 1}


def test_whole_people_are_held_out_by_the_seed_alone(load: Load, tmp_path: Path) -> None:
    folder = layouts.write_icfg_pedes(tmp_path / "icfg", train=40)
    drawn = [people(load("icfg-pedes", folder, seed=seed))["validation"] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 2  # 5 % of 40
    splits = load("icfg-pedes", folder, val_people=7)
    assert len(people(splits)["validation"]) == 7
    check_splits(splits)


def test_counts_that_differ_from_the_published_ones_are_named_with_the_absent_folders(
    load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load("cuhk-pedes", layouts.write_cuhk_pedes(tmp_path / "cuhk", parts=["cam_a", "CUHK01"]))
    assert "train has 6 people (11003 published), 12 images (34054 published), 24 captions (68126" in caplog.text
    assert "absent from" in caplog.text
    assert "cam_b, CUHK03, Market, test_query, train_query" in caplog.text


def test_a_set_of_the_published_size_gives_no_word(
    load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data_pipeline.benchmarks.benchmark import Counts
    from data_pipeline.benchmarks.cuhk_pedes import CUHK_PEDES

    published = {"train": Counts(6, 12, 24), "validation": Counts(2, 3), "test": Counts(2, 4)}
    for split, counts in published.items():
        monkeypatch.setitem(CUHK_PEDES.published, split, counts)
    load("cuhk-pedes", layouts.write_cuhk_pedes(tmp_path / "cuhk"))
    assert not caplog.records


def test_the_second_load_reads_no_annotation_and_repeats_the_warnings(
    load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = layouts.write_icfg_pedes(tmp_path / "icfg")
    first = load("icfg-pedes", folder)
    said = [record.message for record in caplog.records]
    assert said
    caplog.clear()
    monkeypatch.setattr("data_pipeline.benchmarks.loading.build_tables", None)
    second = load("icfg-pedes", folder)
    assert [record.message for record in caplog.records] == said
    assert {name: split.to_dict() for name, split in second.items()} == {n: s.to_dict() for n, s in first.items()}
    assert second["train"]._fingerprint == first["train"]._fingerprint


@pytest.mark.parametrize("change", ["caption", "removed image", "descriptions", "seed"])
def test_a_change_of_anything_it_is_made_of_makes_the_table_anew(change: str, load: Load, tmp_path: Path) -> None:
    folder = layouts.write_icfg_pedes(tmp_path / "icfg")
    lines = [{"file_path": entry["file_path"], **DESCRIBED} for entry in layouts.icfg_entries()]
    options = {"descriptions": layouts.write_json_lines(tmp_path / "d.jsonl", lines)}
    load("icfg-pedes", folder, **options)
    if change == "caption":
        text = (folder / "ICFG-PEDES.json").read_text().replace("blue", "pink")
        (folder / "ICFG-PEDES.json").write_text(text)
        assert "pink" in load("icfg-pedes", folder, **options)["test"]["captions"][0][0]
    elif change == "removed image":
        os.remove(folder / "imgs" / lines[0]["file_path"])
        with pytest.raises(FileNotFoundError, match="1 of its 14 images are not in"):
            load("icfg-pedes", folder, **options)
    elif change == "descriptions":
        options["descriptions"].write_text(options["descriptions"].read_text().replace("tall", "short"))
        assert load("icfg-pedes", folder, **options)["test"]["identity_description"][0] == "A short man."
    else:
        before, after = (people(load("icfg-pedes", folder, seed=seed, val_people=2)) for seed in (0, 3))
        assert before != after


DESCRIBED = {"identity_description": "A tall man.", "clothing_description": "A red coat."}


def test_two_processes_that_finish_at_once_leave_one_good_table(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data_pipeline.benchmarks import loading, table_cache

    folder = layouts.write_cuhk_pedes(tmp_path / "cuhk")

    def write_twice(*arguments: object) -> None:
        table_cache.write_cached(*arguments)  # type: ignore[arg-type]
        table_cache.write_cached(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loading, "write_cached", write_twice)
    assert load("cuhk-pedes", folder).num_rows["train"] == 12
    kept = list((tmp_path / "cache" / "person_sets").iterdir())
    assert len(kept) == 1
    assert kept[0].name.startswith("cuhk-pedes-")


def test_a_link_to_images_inside_the_folder_is_followed(load: Load, tmp_path: Path) -> None:
    folder = layouts.write_cuhk_pedes(tmp_path / "cuhk")
    (folder / "imgs" / "cam_a").rename(folder / "imgs" / "really")
    (folder / "imgs" / "cam_a").symlink_to("really")
    (folder / "imgs" / "really" / "round").symlink_to("..")
    assert load("cuhk-pedes", folder)["train"][0]["image"].size == (16, 32)


def test_the_image_folder_itself_may_be_a_link(load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = layouts.write_cuhk_pedes(tmp_path / "cuhk")
    (folder / "imgs").rename(tmp_path / "elsewhere")
    (folder / "imgs").symlink_to(tmp_path / "elsewhere")
    assert load("cuhk-pedes", folder)["train"][0]["image"].size == (16, 32)


def test_warnings_are_logged_by_the_loader(load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load("icfg-pedes", layouts.write_icfg_pedes(tmp_path / "icfg"))
    assert {(record.name, record.levelno) for record in caplog.records} == {
        ("data_pipeline.benchmarks.loading", logging.WARNING)
    }
