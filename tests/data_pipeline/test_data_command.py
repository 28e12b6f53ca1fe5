"""`bdam data` through its command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from data_pipeline import load_person_dataset
from data_pipeline.commands.main import app

from .benchmarks.layouts import PATHS, write_cuhk_pedes, write_descriptions, write_names


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_cuhk_pedes(tmp_path / "set")


def bdam(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def inspect(folder: Path, *options: object) -> Result:
    cache = folder.parent / "cache"
    return bdam("inspect", "cuhk-pedes", "--data-dir", folder, "--cache-dir", cache, *options)


def break_images(folder: Path, count: int = 2) -> list[str]:
    """Empties some images and returns their paths in the annotation."""
    files = sorted((folder / "imgs").glob("*/*.jpg"))[:count]
    for file in files:
        file.write_bytes(b"")
    return [file.relative_to(folder / "imgs").as_posix() for file in files]


def test_inspect_table_has_a_column_per_split(folder: Path) -> None:
    result = inspect(folder)
    assert result.exit_code == 0, result.output
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.splitlines() if "│" in line]
    assert ["images", "12", "3", "4"] in cells and ["people", "6", "2", "2"] in cells
    assert ["words per caption", "4 … 6.5 … 9", "4 … 6.5 … 9", "3 … 4 … 9"] in cells
    assert "note: CUHK-PEDES: counts differ from the published ones" in result.stdout
    assert "every image can be read" in result.stdout


def test_inspect_json_is_the_only_output(folder: Path, tmp_path: Path) -> None:
    descriptions = write_descriptions(tmp_path / "descriptions.jsonl", PATHS[:1], caption="A woman in a coat.")
    result = inspect(folder, "--descriptions", descriptions, "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["splits"]["train"]["described_images"] == document["splits"]["train"]["styled_images"] == 1
    assert document["splits"]["train"]["width"] == {"smallest": 16, "median": 16, "largest": 16}
    assert any("have no descriptions" in note for note in document["notes"])


def test_inspect_lists_unreadable_images_and_exits_with_1(folder: Path) -> None:
    broken = break_images(folder, 12)
    result = inspect(folder)
    assert result.exit_code == 1
    assert "12 images cannot be read" in result.stdout and "2 more" in result.stdout
    listed = [line.strip() for line in result.stdout.splitlines() if line.endswith(": zero bytes")]
    assert len(listed) == 10 and {line.removesuffix(": zero bytes") for line in listed} <= set(broken)
    document = json.loads(inspect(folder, "--json").stdout)
    assert sorted(image["file"] for image in document["unreadable"]) == sorted(broken)


def test_inspect_accepts_missing_images(folder: Path) -> None:
    (folder / "imgs/cam_a/00001_0.jpg").unlink()
    with pytest.raises(FileNotFoundError):
        load_person_dataset("cuhk-pedes", folder, cache_dir=folder.parent / "cache")
    result = inspect(folder)
    assert result.exit_code == 1
    assert "cam_a/00001_0.jpg: there is no such file" in result.stdout


def test_inspect_skip_unreadable_exits_with_0(folder: Path) -> None:
    broken = break_images(folder)
    result = inspect(folder, "--skip-unreadable", "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert sum(split["images"] for split in document["splits"].values()) == 17
    assert sorted(image["file"] for image in document["unreadable"]) == sorted(broken)


def test_inspect_sheet_marks_unreadable_images(folder: Path, tmp_path: Path) -> None:
    break_images(folder)
    result = inspect(folder, "--sheet", tmp_path / "sheet.png")
    assert f"contact sheet: {tmp_path / 'sheet.png'}" in result.stdout
    with Image.open(tmp_path / "sheet.png") as sheet:
        colors = np.asarray(sheet).reshape(-1, 3)
    assert ((colors == (255, 228, 225)).all(-1)).sum() > 10_000  # the cards of the two images


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "cuhk-pede", "--data-dir", "."], "did you mean cuhk-pedes?"),
        (["inspect", "cuhk-pedes", "--data-dir", "nowhere"], "nowhere: there is no such folder"),
        (["inspect", "cuhk-pedes"], "pass its folder"),
        (["convert", "cuhk-pedes", "--data-dir", "nowhere", "--to-parquet", "out"], "there is no such folder"),
    ],
)
def test_data_errors_are_one_line_and_status_1(arguments: list[str], message: str) -> None:
    result = bdam(*arguments)
    assert result.exit_code == 1
    assert not result.stdout and len(result.stderr.splitlines()) == 1
    assert message in result.stderr


def test_convert_and_inspect_a_gallery(tmp_path: Path) -> None:
    write_names(tmp_path / "mine", ["a.jpg", "b.png"])
    options = ["--cache-dir", tmp_path / "cache"]
    result = bdam("convert", "folder", "--data-dir", tmp_path / "mine", "--to-parquet", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    card = (tmp_path / "out" / "README.md").read_text()
    assert "The source is the data set `folder` of the library `bdam-reid`" in card
    for name, place in (("folder", "mine"), ("parquet", "out")):
        result = bdam("inspect", name, "--data-dir", tmp_path / place, "--json", *options)
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["splits"]["test"]["images"] == 2


def test_list_names_every_set_and_its_source() -> None:
    listed = json.loads(bdam("list", "--json").stdout)
    assert {"cuhk-pedes", "market-1501", "folder", "parquet", "synthetic"} <= set(listed)
    text = bdam("list").stdout
    assert all(f"{name}: {entry['title']}, from {entry['origin']}" in text for name, entry in listed.items())
