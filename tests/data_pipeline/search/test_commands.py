"""`bdam index` and `bdam search` as a user runs them."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from data_pipeline.commands.main import app

SENTENCE = "a young woman in a red coat and blue jeans"


def bdam(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def index(photos: Path, model_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "index"
    result = bdam("index", "--model", model_folder, "--images", photos, "--index", folder, "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{folder}: 24 images (24 embedded, 0 kept, 0 removed), exact search\n"
    return folder


def test_a_folder_is_indexed_searched_and_drawn(index: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "found.png"
    result = bdam(
        *("search", "--index", index, SENTENCE, "--top-k", 3, "--clothing-weight", 0.3),
        *("--where", "camera > 1 and time > '2026-05-02'", "--sheet", sheet, "--json"),
    )
    assert result.exit_code == 0, result.stderr
    hits = json.loads(result.stdout)
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    assert hits[0]["score"] >= hits[1]["score"] >= hits[2]["score"]
    assert all(hit["score"] == pytest.approx(hit["identity_score"] + hit["clothing_score"]) for hit in hits)
    assert all(hit["metadata"]["camera"] > 1 and Path(hit["path"]).is_file() for hit in hits)
    assert Image.open(sheet).size[1] > 240


def test_a_table_and_groups_are_printed(index: Path) -> None:
    result = bdam("search", "--index", index, SENTENCE, "--top-k", 4, "--same-person")
    assert result.exit_code == 0, result.stderr
    assert all(word in result.stdout for word in ("rank", "identity", "clothing", "person_id"))
    groups = json.loads(bdam("search", "--index", index, SENTENCE, "--same-person", "--json").stdout)
    assert len({group["person_id"] for group in groups}) == len(groups)
    assert sorted(hit["rank"] for group in groups for hit in group["hits"]) == list(range(1, 21))


def test_a_picture_is_searched_for(index: Path, photos: Path) -> None:
    query = sorted(photos.rglob("*.jpg"))[4]
    hits = json.loads(bdam("search", "--index", index, "--image", query, "--top-k", 1, "--json").stdout)
    assert hits[0]["path"] == str(query)


def test_what_was_skipped_and_whole_frames_are_told(index: Path, photos: Path, model_folder: Path) -> None:
    (photos / "text.png").write_text("no picture")
    Image.new("RGB", (64, 36)).save(photos / "frame.png")
    update = ("index", "--model", model_folder, "--images", photos, "--index", index, "--device", "cpu")
    result = bdam(*update)
    assert "1 images cannot be read and were skipped:\n  text.png: no image of a known format" in result.stderr
    assert "1 images are wider than high; a gallery wants crops" in result.stderr
    assert "25 images (1 embedded, 24 kept, 0 removed)" in result.stdout
    report = json.loads(bdam(*update, "--json").stdout)
    assert report["images"] == 25
    assert report["unreadable"] == [["text.png", "no image of a known format"]]


def test_more_hits_than_images_and_foreign_words_are_remarked(index: Path) -> None:
    result = bdam("search", "--index", index, "eine Frau im roten Mantel mit grauen Haaren", "--top-k", 99, "--json")
    assert result.exit_code == 0
    assert len(json.loads(result.stdout)) == 24
    assert "asked for 99 images; there are 24" in result.stderr
    assert "does not know most words" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a sentence, or a picture with --image"),
        (["", "--json"], "the sentence is empty"),
        (["穿红色外套的女人"], "the model knows no word of"),
        ([SENTENCE, "--top-k", 0], "top_k must be at least 1"),
        ([SENTENCE, "--where", "camra = 1"], "did you mean camera"),
        ([SENTENCE, "--sheet", "sheet.gif"], "the sheet is written as .png"),
        (["--image", "nowhere.jpg"], "nowhere.jpg: there is no such file"),
        ([SENTENCE, "--model", "nowhere"], "model nowhere: no such folder"),
    ],
)
def test_a_mistake_is_one_line_and_a_status(index: Path, arguments: list[object], message: str) -> None:
    result = bdam("search", "--index", index, *arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_a_missing_index_and_an_unknown_data_set_are_one_line(model_folder: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (("search", "--index", tmp_path / "nowhere", SENTENCE), "no index is here"),
        (
            ("index", "--model", model_folder, "--images", "rstpried", "--index", tmp_path / "i"),
            "did you mean rstpreid",
        ),
        (("index", "--model", model_folder, "--images", "./nowhere", "--index", tmp_path / "i"), "no such folder"),
        (("index", "--model", model_folder, "--images", "hub:a/b/c", "--index", tmp_path / "i"), "no such data set"),
    ):
        result = bdam(*arguments)
        assert result.exit_code == 1
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
