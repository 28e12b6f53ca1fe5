"""Pushes a data set to a loopback Hub with the real client, and pulls it again."""

import base64
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from datasets import Image as ImageColumn
from huggingface_hub import DatasetCard
from PIL import Image

from data_pipeline import PERSON_FEATURES

from .benchmarks import layouts

ROOT = Path(__file__).parents[2]
CAPTIONS = ["", "  a man, in  red\n", "naïve — 一个女人", '"quoted", \\n and \u2028']
PUSH = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from datasets import load_from_disk
from data_pipeline.hub import push_person_dataset
push_person_dataset(load_from_disk(sys.argv[1]), "me/people", sys.argv[2])
"""
PULL = f"""
import base64, json, sys
sys.path.insert(0, {str(ROOT)!r})
from datasets import Image, load_dataset
from data_pipeline import load_person_dataset

def plain(splits):
    rows = {{}}
    for name, split in splits.items():
        assert split[0]["image"].size == (20, 40)
        rows[name] = [
            row | {{"image": base64.b64encode(row["image"]["bytes"]).decode()}}
            for row in split.cast_column("image", Image(decode=False))
        ]
    return rows

json.dump([plain(load_dataset("me/people")), plain(load_person_dataset("hub:me/people"))], open(sys.argv[1], "w"))
"""


def person_splits(folder: Path) -> DatasetDict:
    """Three splits with image files of three formats."""
    splits = DatasetDict()
    for person, name in enumerate(("train", "validation", "test")):
        rows = []
        for number, suffix in enumerate(("jpg", "png", "webp", "jpg")):
            path = folder / f"{name}-{number}.{suffix}"
            pixels = np.random.default_rng(10 * person + number).integers(0, 256, (40, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
            descriptions = ("a tall man", "a red coat") if number else (None, None)
            values = (str(path), person, number, -1, CAPTIONS[: number + 1], *descriptions)
            rows.append(dict(zip(PERSON_FEATURES, values, strict=True)))
        splits[name] = Dataset.from_list(rows, features=PERSON_FEATURES)
    return splits


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> DatasetDict:
    return person_splits(tmp_path_factory.mktemp("images"))


def run(hub: Any, folder: Path, program: str, *arguments: str) -> str:
    """Runs a program as a client of the Hub, in its own process, and returns its output."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=folder, env=hub.environment(folder / "home"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def pulled(hub: Any, splits: DatasetDict, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows that `load_dataset` and `load_person_dataset` read from the Hub, images as base64."""
    folder = tmp_path_factory.mktemp("hub")
    splits.save_to_disk(folder / "splits")
    run(hub, folder, PUSH, str(folder / "splits"), "icfg-pedes")
    run(hub, folder, PULL, str(folder / "rows.json"))
    return json.loads((folder / "rows.json").read_text())


def test_push_and_pull_keep_every_byte_and_caption(pulled: list[dict[str, Any]], splits: DatasetDict) -> None:
    for rows in pulled:
        assert list(rows) == ["train", "validation", "test"]
        for name, split in splits.items():
            there = split.cast_column("image", ImageColumn(decode=False))
            assert len(rows[name]) == len(there)
            for row, expected in zip(rows[name], there, strict=True):
                assert base64.b64decode(row.pop("image")) == Path(expected.pop("image")["path"]).read_bytes()
                row.pop("file_path", None)
                assert row == expected


def test_push_command_pushes_the_loaded_set(hub: Any, tmp_path: Path) -> None:
    folder = layouts.write_cuhk_pedes(tmp_path / "set")
    program = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom data_pipeline.commands.main import app\napp()"
    options = ["--data-dir", str(folder), "--cache-dir", str(tmp_path / "cache")]
    output = run(hub, tmp_path, program, "data", "push", "cuhk-pedes", "me/cuhk", *options)
    assert output.strip() == "me/cuhk: pushed; load it as hub:me/cuhk"
    files = hub.repositories["dataset", "me/cuhk"].files
    assert "| train | 6 | 12 | 24 | 0 | unknown | unknown |" in files["README.md"].decode()
    (shard,) = (content for path, content in files.items() if path.startswith("data/test"))
    row = pq.read_table(io.BytesIO(shard)).to_pylist()[0]
    assert row["image"]["bytes"] == (folder / "imgs" / row["file_path"]).read_bytes()


def test_dataset_card_has_the_statistics(hub: Any, pulled: list[dict[str, Any]]) -> None:
    text = hub.repositories["dataset", "me/people"].files["README.md"].decode()
    head = DatasetCard(text).data.to_dict()
    assert [split["name"] for split in head["dataset_info"]["splits"]] == ["train", "validation", "test"]
    assert "person-re-identification" in head["tags"]
    for name in ("train", "validation", "test"):
        assert f"| {name} | 1 | 4 | 10 | 3 | 4 | unknown |" in text
    assert "non-commercial research" in text
    assert "Not counted: the data has no annotation" in text
    assert not any(mark in text for mark in ("{{", "{%", "undefined", "\n\n\n"))
