"""Parquet round trip of a set: images, captions and descriptions are equal byte for byte."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import DatasetDict, Image, load_dataset

from data_pipeline import check_splits, load_person_dataset, save_parquet

from . import layouts

Load = Callable[..., DatasetDict]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> DatasetDict:
    """A CUHK-PEDES with descriptions and styled captions, its images in files."""
    folder = tmp_path_factory.mktemp("cuhk")
    descriptions = layouts.write_descriptions(folder / "d.jsonl", clothing_description=None, caption="A.")
    layouts.write_cuhk_pedes(folder / "set")
    return load_person_dataset("cuhk-pedes", folder / "set", descriptions=descriptions, cache_dir=folder / "cache")


@pytest.fixture(scope="module")
def saved(loaded: DatasetDict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parquet") / "out"
    save_parquet(loaded, folder)
    return folder


def without_images(splits: DatasetDict) -> dict[str, Any]:
    return {name: split.remove_columns("image").to_dict() for name, split in splits.items()}


def image_bytes(splits: DatasetDict) -> dict[str, list[bytes]]:
    """The bytes of every image, in the table or in its file."""
    stored = {name: split.cast_column("image", Image(decode=False))["image"] for name, split in splits.items()}
    return {
        name: [image["bytes"] or Path(image["path"]).read_bytes() for image in images]
        for name, images in stored.items()
    }


@pytest.mark.parametrize("way", ["load_person_dataset", "load_dataset"])
def test_save_parquet_round_trip(way: str, loaded: DatasetDict, saved: Path, load: Load, tmp_path: Path) -> None:
    if way == "load_dataset":
        back = load_dataset(str(saved), cache_dir=str(tmp_path / "cache"))
    else:
        back = load("parquet", saved)
    assert list(back) == ["train", "validation", "test"]
    assert back["train"].features == loaded["train"].features
    assert without_images(back) == without_images(loaded)
    assert image_bytes(back) == image_bytes(loaded)
    assert back["train"].data.column("image")[0].as_py()["bytes"]
    assert back["test"][0]["image"].size == (16, 32)


def test_save_parquet_shards_large_sets(
    loaded: DatasetDict, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_pipeline.benchmarks.parquet.ROWS_IN_A_GROUP", 2)
    save_parquet(loaded, tmp_path / "out", shard_bytes=2000)
    names = sorted(file.name for file in (tmp_path / "out" / "data").iterdir())
    count = sum(name.startswith("train") for name in names)
    assert count > 1
    assert names[1:][:count][-1] == f"train-{count - 1:05d}-of-{count:05d}.parquet"
    assert without_images(load("parquet", tmp_path / "out")) == without_images(loaded)


def test_save_parquet_of_a_selection(loaded: DatasetDict, load: Load, tmp_path: Path) -> None:
    some = DatasetDict({"test": loaded["test"].select([3, 0])})
    save_parquet(some, tmp_path / "out")
    back = load("parquet", tmp_path / "out")
    assert without_images(back) == without_images(some)
    assert image_bytes(back) == image_bytes(some)


def test_save_parquet_is_atomic_and_never_overwrites(loaded: DatasetDict, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="out: the folder is not empty; name a new one"):
        save_parquet(loaded, tmp_path / "out")
    lost = loaded["test"].map(lambda row: {"image": {"path": str(tmp_path / "lost.jpg"), "bytes": None}})
    with pytest.raises(FileNotFoundError, match=r"lost\.jpg"):
        save_parquet(DatasetDict({"test": lost}), tmp_path / "new")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out"]


def test_load_parquet_joins_descriptions_and_outfits(
    loaded: DatasetDict, saved: Path, load: Load, tmp_path: Path
) -> None:
    lines = [
        {"file_path": path, "identity_description": path, "clothing_description": "Red."} for path in layouts.PATHS
    ]
    descriptions = layouts.write_json_lines(tmp_path / "d.jsonl", lines)
    outfits = {path: number for number, path in enumerate(layouts.PATHS)}
    back = load("parquet", saved, descriptions=descriptions, outfits=layouts.write_json(tmp_path / "o.json", outfits))
    for split in back.values():
        assert split["identity_description"] == split["file_path"]
        assert list(split["outfit_id"]) == [outfits[path] for path in split["file_path"]]
        assert split["styled_captions"][0] == ["A."]
    assert image_bytes(back) == image_bytes(loaded)
    assert back["train"].column_names == loaded["train"].column_names


def test_load_parquet_holds_out_validation_people(
    loaded: DatasetDict, load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_parquet(DatasetDict({"train": loaded["train"], "test": loaded["test"]}), tmp_path / "out")
    back = load("parquet", tmp_path / "out", val_people=2)
    assert len(set(back["validation"]["person_id"])) == 2
    check_splits(back)
    assert "2 of the 6 people of train are held out for it, drawn with seed 0" in caplog.text


def cut_off(folder: Path) -> None:
    file = next((folder / "data").glob("train*"))
    file.write_bytes(file.read_bytes()[:500])


@pytest.mark.parametrize(
    ("damage", "options", "message"),
    [
        (shutil.rmtree, {}, "out: there is no such folder"),
        (lambda folder: shutil.rmtree(folder / "data"), {}, "out"),
        (cut_off, {}, "out: it cannot be read: "),
        (None, {"split_file": "s.json"}, "out: a Parquet set takes no split file"),
        (None, {"data_dir": None}, "parquet: pass the folder of its files"),
    ],
)
def test_load_parquet_names_an_invalid_set(
    damage: Callable[[Path], None] | None, options: dict[str, Any], message: str, saved: Path, tmp_path: Path
) -> None:
    shutil.copytree(saved, tmp_path / "out")
    if damage is not None:
        damage(tmp_path / "out")
    with pytest.raises((ValueError, OSError), match=message):
        load_person_dataset("parquet", **{"data_dir": tmp_path / "out", "cache_dir": tmp_path / "cache", **options})


def test_load_parquet_names_missing_columns(loaded: DatasetDict, load: Load, tmp_path: Path) -> None:
    save_parquet(DatasetDict({"test": loaded["test"].remove_columns(["camera_id", "outfit_id"])}), tmp_path / "out")
    message = "out, split test: no column camera_id, outfit_id; the columns are image, person_id"
    with pytest.raises(ValueError, match=message):
        load("parquet", tmp_path / "out")
