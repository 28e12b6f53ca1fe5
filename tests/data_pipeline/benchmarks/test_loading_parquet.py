"""A loaded set as Parquet files: images, captions and descriptions come back byte for byte."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from datasets import DatasetDict, Image, load_dataset
from fsspec.implementations.memory import MemoryFileSystem
from huggingface_hub import HfApi

from data_pipeline import check_splits, load_person_dataset, save_parquet

from . import layouts


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> DatasetDict:
    """A CUHK-PEDES with descriptions and styled captions, its images on the disk."""
    folder = tmp_path_factory.mktemp("cuhk")
    lines = [
        {"file_path": entry["file_path"], "identity_description": "Ann", "clothing_description": None, "caption": "A."}
        for entry in layouts.cuhk_entries()
    ]
    descriptions = layouts.write_json_lines(folder / "d.jsonl", lines)
    layouts.write_cuhk_pedes(folder / "set")
    return load_person_dataset("cuhk-pedes", folder / "set", descriptions=descriptions, cache_dir=folder / "cache")


def without_images(splits: DatasetDict) -> dict[str, Any]:
    return {name: split.remove_columns("image").to_dict() for name, split in splits.items()}


def image_bytes(splits: DatasetDict) -> dict[str, list[bytes]]:
    """The bytes of every image file, in the table or on the disk."""
    stored = {name: split.cast_column("image", Image(decode=False))["image"] for name, split in splits.items()}
    return {
        name: [image["bytes"] or Path(image["path"]).read_bytes() for image in images]
        for name, images in stored.items()
    }


@pytest.mark.parametrize("way", ["load_person_dataset", "load_dataset"])
def test_a_parquet_folder_reads_back_byte_for_byte(way: str, loaded: DatasetDict, tmp_path: Path) -> None:
    save_parquet(loaded, tmp_path / "out")
    if way == "load_dataset":
        back = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    else:
        back = load_person_dataset("parquet", tmp_path / "out", cache_dir=tmp_path / "cache")
    assert list(back) == ["train", "validation", "test"]
    assert back["train"].features == loaded["train"].features
    assert without_images(back) == without_images(loaded)
    assert image_bytes(back) == image_bytes(loaded)
    assert back["train"].data.column("image")[0].as_py()["bytes"]
    assert back["test"][0]["image"].size == (16, 32)


def test_large_sets_are_written_in_several_files(
    loaded: DatasetDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_pipeline.benchmarks.parquet.ROWS_IN_A_GROUP", 2)
    save_parquet(loaded, tmp_path / "out", shard_bytes=2000)
    names = sorted(file.name for file in (tmp_path / "out" / "data").iterdir())
    count = sum(name.startswith("train") for name in names)
    assert count > 1
    assert names[1:][:count][-1] == f"train-{count - 1:05d}-of-{count:05d}.parquet"
    back = load_person_dataset("parquet", tmp_path / "out", cache_dir=tmp_path / "cache")
    assert without_images(back) == without_images(loaded)


def test_a_selection_is_written_as_selected(loaded: DatasetDict, tmp_path: Path) -> None:
    some = DatasetDict({"test": loaded["test"].select([3, 0])})
    save_parquet(some, tmp_path / "out")
    back = load_person_dataset("parquet", tmp_path / "out", cache_dir=tmp_path / "cache")
    assert without_images(back) == without_images(some)
    assert image_bytes(back) == image_bytes(some)


def test_nothing_is_overwritten_and_nothing_half_written_stays(loaded: DatasetDict, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="out: there is something already; name a new folder"):
        save_parquet(loaded, tmp_path / "out")
    lost = loaded["test"].map(lambda row: {"image": {"path": str(tmp_path / "lost.jpg"), "bytes": None}})
    with pytest.raises(FileNotFoundError, match=r"lost\.jpg"):
        save_parquet(DatasetDict({"test": lost}), tmp_path / "new")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out"]


def test_descriptions_and_outfits_join_a_parquet_set(loaded: DatasetDict, tmp_path: Path) -> None:
    save_parquet(loaded, tmp_path / "out")
    paths = [path for split in loaded.values() for path in split["file_path"]]
    lines = [{"file_path": path, "identity_description": path, "clothing_description": "Red."} for path in paths]
    outfits = {path: number for number, path in enumerate(paths)}
    back = load_person_dataset(
        "parquet",
        tmp_path / "out",
        descriptions=layouts.write_json_lines(tmp_path / "d.jsonl", lines),
        outfits=layouts.write_json(tmp_path / "o.json", outfits),
        cache_dir=tmp_path / "cache",
    )
    for split in back.values():
        assert split["identity_description"] == split["file_path"]
        assert list(split["outfit_id"]) == [outfits[path] for path in split["file_path"]]
        assert split["styled_captions"][0] == ["A."]
    assert image_bytes(back) == image_bytes(loaded)
    assert back["train"].column_names == loaded["train"].column_names


def test_a_set_without_validation_holds_people_out(
    loaded: DatasetDict, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_parquet(DatasetDict({"train": loaded["train"], "test": loaded["test"]}), tmp_path / "out")
    back = load_person_dataset("parquet", tmp_path / "out", val_people=2, cache_dir=tmp_path / "cache")
    assert len(set(back["validation"]["person_id"])) == 2
    check_splits(back)
    assert "2 of the 6 people of train are held out for it, drawn by seed 0" in caplog.text


def test_a_hub_set_is_loaded_by_its_name(loaded: DatasetDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fake(name: str, cache_dir: str | None) -> DatasetDict:
        asked.append(name)
        return loaded

    monkeypatch.setattr("data_pipeline.benchmarks.parquet.load_dataset", fake)
    assert without_images(load_person_dataset("hub:Owner/Set")) == without_images(loaded)
    assert asked == ["Owner/Set"]


@pytest.mark.parametrize("damage", ["no folder", "no files", "cut off", "columns", "split file", "not named"])
def test_parquet_sets_that_cannot_be_read_are_named(damage: str, loaded: DatasetDict, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    options: dict[str, Any] = {}
    messages = {
        "no folder": "out: there is no such folder",
        "no files": "out",
        "cut off": "out: it cannot be read: ",
        "columns": "out, split test: no column camera_id, outfit_id; it has image, person_id",
        "split file": "out: a split file is for annotation files",
        "not named": "parquet: name the folder of the Parquet files",
    }
    if damage == "no files":
        folder.mkdir()
    elif damage == "columns":
        save_parquet(DatasetDict({"test": loaded["test"].remove_columns(["camera_id", "outfit_id"])}), folder)
    elif damage != "no folder":
        save_parquet(loaded, folder)
    if damage == "cut off":
        file = next((folder / "data").glob("train*"))
        file.write_bytes(file.read_bytes()[:500])
    if damage == "split file":
        options["split_file"] = tmp_path / "s.json"
    with pytest.raises((ValueError, OSError), match=messages[damage]):
        load_person_dataset(
            "parquet", None if damage == "not named" else folder, cache_dir=tmp_path / "cache", **options
        )


def test_a_push_to_the_hub_carries_the_images(
    loaded: DatasetDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything but the network: the files that `push_to_hub` hands over are looked into."""
    uploaded: dict[str, bytes] = {}

    def keep(self: HfApi, *, additions: list[Any], **_: Any) -> None:
        for addition in additions:
            with addition.as_file() as file:
                uploaded[addition.path_in_repo] = file.read()

    empty_repository = SimpleNamespace(id="owner/set", sha="0" * 40)
    monkeypatch.setattr(HfApi, "repo_info", lambda *_, **__: empty_repository)
    monkeypatch.setattr(HfApi, "preupload_lfs_files", keep)
    monkeypatch.setattr(HfApi, "create_commit", lambda *_, **__: None)
    monkeypatch.setattr("datasets.arrow_dataset.HfFileSystem", lambda **_: MemoryFileSystem())
    loaded["test"].push_to_hub("owner/set", split="test")
    (shard,) = (content for path, content in uploaded.items() if path.endswith(".parquet"))
    table = pq.read_table(io.BytesIO(shard))
    assert [image["bytes"] for image in table["image"].to_pylist()] == image_bytes(loaded)["test"]
    assert table["captions"].to_pylist() == list(loaded["test"]["captions"])
    assert table["identity_description"].to_pylist() == list(loaded["test"]["identity_description"])
