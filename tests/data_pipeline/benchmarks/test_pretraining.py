"""Sets for pretraining in the layouts of their repositories, and shards of Parquet and WebDataset."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import DatasetDict

from data_pipeline import save_parquet, with_image_files
from data_pipeline.images import UnreadableImageError, check_image, open_image

from . import layouts

Load = Callable[..., DatasetDict]


def rows(splits: DatasetDict) -> list[dict[str, Any]]:
    """The rows of all splits by path, without images."""
    found = [row for split in splits.values() for row in split.remove_columns("image")]
    return sorted(found, key=lambda row: row["file_path"])


@pytest.mark.parametrize(("name", "by_path"), [("synth-pedes", False), ("ham-pedes", False), ("ham-pedes", True)])
def test_load_synth_pedes_and_ham_pedes(name: str, by_path: bool, load: Load, tmp_path: Path) -> None:
    annotation = "synthpedes_dataset.json" if name == "synth-pedes" else "HAM_PEDES.json"
    layouts.write_synth_pedes(tmp_path / "set", annotation, by_path)
    splits = load(name, tmp_path / "set")
    assert list(splits) == ["train", "validation"]  # one person is held out
    found = rows(splits)
    assert [row["file_path"] for row in found] == ["Part1/7/1.jpg", "Part1/7/2.jpg", "Part2/8/1.jpg", "Part2/8/2.jpg"]
    assert [row["person_id"] for row in found] == [7, 7, 8, 8]
    assert found[0]["captions"] == ["A man, 7, view 1.", "He wears pink shorts."]


def test_load_luperson_mllm_joins_captions_by_name(load: Load, tmp_path: Path, caplog: Any) -> None:
    layouts.write_luperson_mllm(tmp_path / "set")
    found = rows(load("luperson-mllm", tmp_path / "set"))
    assert [(row["file_path"], row["person_id"]) for row in found] == [("a.jpg", 0), ("b.jpg", 1), ("c.jpg", 2)]
    assert found[0]["captions"] == ["Td shikra a.", "Ts qwen a.", "Ts shikra a."]
    assert found[1]["captions"] == ["Td qwen b.", "Td shikra b.", "Ts qwen b.", "Ts shikra b."]
    assert "1 captions repeat their instruction: dropped" in caplog.text


@pytest.fixture
def source(load: Load, tmp_path: Path) -> DatasetDict:
    descriptions = layouts.write_descriptions(tmp_path / "d.jsonl")
    return load("cuhk-pedes", layouts.write_cuhk_pedes(tmp_path / "cuhk"), descriptions=descriptions)


def write_tars(splits: DatasetDict, folder: Path) -> None:
    """Writes each split as a WebDataset of two shards."""
    folder.mkdir()
    for name, split in splits.items():
        for shard in range(2):
            with tarfile.open(folder / f"{name}-{shard:03d}.tar", "w") as archive:
                for row in with_image_files(split.select(range(shard, len(split), 2))):
                    image = Path(row.pop("image")["path"])
                    fields = json.dumps(row).encode()
                    key = row["file_path"].replace("/", "_").removesuffix(".jpg")
                    for suffix, content in ((".jpg", image.read_bytes()), (".json", fields)):
                        member = tarfile.TarInfo(key + suffix)
                        member.size = len(content)
                        archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("form", ["parquet", "tar"])
def test_shards_round_trip(form: str, source: DatasetDict, load: Load, tmp_path: Path) -> None:
    write = save_parquet if form == "parquet" else write_tars
    write(source, tmp_path / "shards")
    for _ in range(2):  # the second load reads the index of the cache
        splits = load("shards", tmp_path / "shards")
        assert set(splits) == set(source)
        assert rows(splits) == rows(source)
        for name, split in splits.items():
            by_path = {row["file_path"]: row["image"] for row in with_image_files(source[name])}
            for row in with_image_files(split):
                assert row["image"]["bytes"] is None
                assert check_image(row["image"]) is None
                assert open_image(row["image"]).tobytes() == open_image(by_path[row["file_path"]]).tobytes()


@pytest.mark.parametrize("suffix", [".json", ".txt"])
def test_webdataset_without_numbers_has_one_person_an_image(suffix: str, load: Load, tmp_path: Path) -> None:
    content = {".json": b'{"caption": "A red coat."}', ".txt": b"A red coat.\n"}[suffix]
    layouts.write_image(tmp_path / "a.jpg")
    with tarfile.open(tmp_path / "00000.tar", "w") as archive:
        for key in ("a", "b", "c"):
            archive.add(tmp_path / "a.jpg", f"{key}.jpg")
            member = tarfile.TarInfo(key + suffix)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    found = rows(load("shards", tmp_path))
    assert [row["person_id"] for row in found] == [0, 1, 2]
    assert {tuple(row["captions"]) for row in found} == {("A red coat.",)}


def test_unusable_shards_are_refused(load: Load, tmp_path: Path) -> None:
    def table(columns: dict[str, Any]) -> Callable[[], None]:
        return lambda: pq.write_table(pa.table(columns), tmp_path / "train-0.parquet")

    image = [{"bytes": b"", "path": "a.jpg"}]
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: None, "there are no shards"),
        (table({"image": image}), "no column captions; the columns are image|no column caption; the columns are image"),
        (table({"image": ["a.jpg"], "captions": [["A coat."]]}), "the column image is string, not an image"),
        (lambda: (tmp_path / "train-0.parquet").write_bytes(b"PAR1"), "train-0.parquet: it cannot be read"),
        (lambda: (tmp_path / "train-0.parquet").rename(tmp_path / "train-0.tar"), "train-0.tar: no plain tar file"),
    ]
    for prepare, message in cases:
        prepare()
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            load("shards", tmp_path)


def test_image_of_a_missing_shard_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match=r"gone\.tar::0:7: there is no such file"):
        open_image({"bytes": None, "path": f"{tmp_path}/gone.tar::0:7"})
