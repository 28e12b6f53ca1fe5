"""`bdam data`, as a user types it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from data_pipeline import load_person_dataset
from data_pipeline.commands.main import app

from .benchmarks.layouts import write_cuhk_pedes, write_json_lines, write_names


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_cuhk_pedes(tmp_path / "set")


def bdam(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def inspect(folder: Path, *options: object) -> Result:
    cache = folder.parent / "cache"
    return bdam("inspect", "cuhk-pedes", "--data-dir", folder, "--cache-dir", cache, *options)


def break_images(folder: Path, count: int = 2) -> list[str]:
    """Empties some images; their paths as the annotation names them."""
    files = sorted((folder / "imgs").glob("*/*.jpg"))[:count]
    for file in files:
        file.write_bytes(b"")
    return [file.relative_to(folder / "imgs").as_posix() for file in files]


def test_the_table_has_a_column_for_each_split(folder: Path) -> None:
    result = inspect(folder)
    assert result.exit_code == 0, result.output
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.splitlines() if "│" in line]
    assert ["images", "12", "3", "4"] in cells and ["people", "6", "2", "2"] in cells
    assert ["words a caption", "4 … 6.5 … 9", "4 … 6.5 … 9", "3 … 4 … 9"] in cells
    assert "note: CUHK-PEDES: counts differ from the published ones" in result.stdout
    assert "every image can be read" in result.stdout


def test_json_is_the_only_thing_on_standard_output(folder: Path, tmp_path: Path) -> None:
    descriptions = write_json_lines(
        tmp_path / "descriptions.jsonl",
        [
            {
                "file_path": "cam_a/00001_0.jpg",
                "identity_description": "A woman.",
                "clothing_description": "A coat.",
                "caption": "A woman in a coat.",
            }
        ],
    )
    result = inspect(folder, "--descriptions", descriptions, "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["splits"]["train"]["described_images"] == document["splits"]["train"]["styled_images"] == 1
    assert document["splits"]["train"]["width"] == {"smallest": 16, "median": 16, "largest": 16}
    assert any("have no descriptions" in note for note in document["notes"])


def test_broken_images_are_listed_and_the_exit_status_says_so(folder: Path) -> None:
    broken = break_images(folder, 12)
    result = inspect(folder)
    assert result.exit_code == 1
    assert "12 images cannot be read" in result.stdout and "2 more" in result.stdout
    listed = [line.strip() for line in result.stdout.splitlines() if line.endswith(": zero bytes")]
    assert len(listed) == 10 and {line.removesuffix(": zero bytes") for line in listed} <= set(broken)
    document = json.loads(inspect(folder, "--json").stdout)
    assert sorted(image["file"] for image in document["unreadable"]) == sorted(broken)


def test_missing_images_do_not_keep_a_set_from_being_inspected(folder: Path) -> None:
    (folder / "imgs/cam_a/00001_0.jpg").unlink()
    with pytest.raises(FileNotFoundError):
        load_person_dataset("cuhk-pedes", folder, cache_dir=folder.parent / "cache")
    result = inspect(folder)
    assert result.exit_code == 1
    assert "cam_a/00001_0.jpg: there is no such file" in result.stdout


def test_skipped_images_are_no_failure(folder: Path) -> None:
    broken = break_images(folder)
    result = inspect(folder, "--skip-unreadable", "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert sum(split["images"] for split in document["splits"].values()) == 17
    assert sorted(image["file"] for image in document["unreadable"]) == sorted(broken)


def test_the_sheet_is_drawn_of_a_broken_set_too(folder: Path, tmp_path: Path) -> None:
    break_images(folder)
    result = inspect(folder, "--sheet", tmp_path / "sheet.png")
    assert f"contact sheet: {tmp_path / 'sheet.png'}" in result.stdout
    with Image.open(tmp_path / "sheet.png") as sheet:
        colors = np.asarray(sheet).reshape(-1, 3)
    assert ((colors == (255, 228, 225)).all(-1)).sum() > 10_000  # the cards of the two


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "cuhk-pede", "--data-dir", "."], "did you mean cuhk-pedes?"),
        (["inspect", "cuhk-pedes", "--data-dir", "nowhere"], "nowhere: there is no such folder"),
        (["inspect", "cuhk-pedes"], "name the folder"),
        (["convert", "cuhk-pedes", "--data-dir", "nowhere", "--to-parquet", "out"], "there is no such folder"),
    ],
)
def test_a_mistake_is_one_line_and_status_1(arguments: list[str], message: str) -> None:
    result = bdam(*arguments)
    assert result.exit_code == 1
    assert not result.stdout and len(result.stderr.splitlines()) == 1
    assert message in result.stderr


def test_images_alone_and_the_parquet_of_them_are_inspected(tmp_path: Path) -> None:
    write_names(tmp_path / "mine", ["a.jpg", "b.png"])
    options = ["--cache-dir", tmp_path / "cache"]
    result = bdam("convert", "folder", "--data-dir", tmp_path / "mine", "--to-parquet", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    assert "The set that the library `bdam-reid` calls `folder`" in (tmp_path / "out" / "README.md").read_text()
    for name, place in (("folder", "mine"), ("parquet", "out")):
        result = bdam("inspect", name, "--data-dir", tmp_path / place, "--json", *options)
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["splits"]["test"]["images"] == 2


def test_every_data_set_is_listed_with_where_to_get_it() -> None:
    listed = json.loads(bdam("list", "--json").stdout)
    assert {"cuhk-pedes", "market-1501", "folder", "parquet", "synthetic"} <= set(listed)
    text = bdam("list").stdout
    assert all(f"{name}: {entry['title']}, from {entry['origin']}" in text for name, entry in listed.items())
