"""`bdam index` and `bdam search`."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from data_pipeline.commands.main import app

from ..benchmarks.layouts import write_market_1501

SENTENCE = "a young woman in a red coat and blue jeans"


def bdam(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def found(*arguments: object) -> list[dict]:
    result = bdam("search", "--index", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def index(drawn_photos: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands") / "index"
    result = bdam("index", "--model", model_folder, "--images", drawn_photos, "--index", folder, "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{folder}: 24 images (24 embedded, 0 kept, 0 removed), exact search\n"
    return folder


def test_search_filters_weights_and_draws_a_sheet(index: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "found.png"
    options = ("--top-k", 3, "--clothing-weight", 0.3, "--where", "camera > 1 and time > '2026-05-02'")
    hits = found(index, SENTENCE, *options, "--sheet", sheet)
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    assert hits[0]["score"] >= hits[1]["score"] >= hits[2]["score"]
    assert all(hit["score"] == pytest.approx(hit["identity_score"] + hit["clothing_score"]) for hit in hits)
    assert all(hit["metadata"]["camera"] > 1 and Path(hit["path"]).is_file() for hit in hits)
    assert Image.open(sheet).size[1] > 240


def test_search_prints_a_table_and_groups_by_person(index: Path) -> None:
    result = bdam("search", "--index", index, SENTENCE, "--top-k", 4, "--same-person")
    assert result.exit_code == 0, result.stderr
    assert all(word in result.stdout for word in ("rank", "identity", "clothing", "person_id"))
    groups = found(index, SENTENCE, "--same-person")
    assert len({group["person_id"] for group in groups}) == len(groups)
    assert sorted(hit["rank"] for group in groups for hit in group["hits"]) == list(range(1, 21))


def test_search_by_picture_finds_its_file(index: Path, drawn_photos: Path) -> None:
    query = sorted(drawn_photos.rglob("*.jpg"))[4]
    assert found(index, "--image", query, "--top-k", 1)[0]["path"] == str(query)


def test_index_reports_unreadable_images_and_whole_frames(photos: Path, model_folder: Path, tmp_path: Path) -> None:
    arguments = ("--model", model_folder, "--images", photos, "--index", tmp_path / "index", "--device", "cpu")
    assert bdam("index", *arguments).exit_code == 0
    (photos / "text.png").write_text("no picture")
    Image.new("RGB", (64, 36)).save(photos / "frame.png")
    result = bdam("index", *arguments)
    assert "1 images cannot be read and were skipped:\n  text.png: no image of a known format" in result.stderr
    assert "1 images are wider than high; a gallery should contain crops" in result.stderr
    assert "25 images (1 embedded, 24 kept, 0 removed)" in result.stdout
    report = json.loads(bdam("index", *arguments, "--json").stdout)
    assert report["images"] == 25
    assert report["unreadable"] == [["text.png", "no image of a known format"]]


def test_index_excludes_follows_links_and_moves(photos: Path, model_folder: Path, tmp_path: Path) -> None:
    folder, arguments = tmp_path / "linked", ["--model", model_folder, "--index", tmp_path / "index", "--device", "cpu"]
    folder.mkdir()
    for place in photos.iterdir():
        (folder / place.name).symlink_to(place)
    (folder / "broken.jpg").symlink_to("nowhere.jpg")
    arguments += ["--images", folder]
    result = bdam("index", *arguments)
    assert result.exit_code == 1
    assert " links lead out of the folder, such as camera_" in result.stderr and "--follow-links" in result.stderr
    result = bdam("index", *arguments, "--moved-from", photos)
    assert "there is no index, so no vectors to keep; leave out moved_from" in result.stderr
    arguments += ["--follow-links", "--exclude", "camera_1", "--exclude", "0_*"]
    result = bdam("index", *arguments)
    assert "images cannot be read and were skipped:\n  broken.jpg: a broken link\n" in result.stderr
    assert "files and folders by exclude" in result.stderr
    assert not {"\r", "%"} & set(result.stderr), "a progress bar without a terminal"
    listed = json.loads(bdam("index", *arguments, "--json").stdout)
    assert listed["embedded"] == 0 and 0 < listed["images"] < 20
    result = bdam("index", *arguments, "--moved-from", folder / "elsewhere")
    assert "no image of the index was in it" in result.stderr


def test_index_of_a_data_set_lists_missing_images(model_folder: Path, tmp_path: Path) -> None:
    folder = write_market_1501(tmp_path / "market")
    (folder / "query/0001_c1s1_001051_00.jpg").unlink()
    (folder / "query/0001_c1s1_001051_00.jpg").symlink_to("nowhere.jpg")
    arguments = ["--model", model_folder, "--index", tmp_path / "index", "--device", "cpu", "--data-dir", folder]
    result = bdam("index", *arguments, "--images", "market-1501", "--exclude", "bounding_box_train")
    assert "4 images (4 embedded, 0 kept, 0 removed)" in result.stdout


def test_search_notes_few_images_and_foreign_words(index: Path) -> None:
    result = bdam("search", "--index", index, "eine Frau im roten Mantel mit grauen Haaren", "--top-k", 99, "--json")
    assert result.exit_code == 0
    assert len(json.loads(result.stdout)) == 24
    assert "asked for 99 images; there are 24" in result.stderr
    assert "most words of the sentence are unknown" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "--index", "{index}"], "give a sentence, or a picture with --image"),
        (["search", "--index", "{index}", "", "--json"], "the sentence is empty"),
        (["search", "--index", "{index}", "穿红色外套的女人"], "the model's vocabulary has no word of"),
        (["search", "--index", "{index}", SENTENCE, "--top-k", "0"], "top_k must be at least 1"),
        (["search", "--index", "{index}", SENTENCE, "--where", "camra = 1"], "did you mean camera"),
        (["search", "--index", "{index}", SENTENCE, "--sheet", "sheet.gif"], "the sheet is written as .png"),
        (["search", "--index", "{index}", "--image", "nowhere.jpg"], "nowhere.jpg: there is no such file"),
        (["search", "--index", "{index}", SENTENCE, "--model", "nowhere"], "model nowhere: no such folder"),
        (["search", "--index", "nowhere", SENTENCE], "there is no index"),
        (["index", "--model", "x", "--images", "rstpried", "--index", "{new}"], "did you mean rstpreid"),
        (["index", "--model", "{model}", "--images", "./nowhere", "--index", "{new}"], "no such folder"),
        (["index", "--model", "x", "--images", "hub:a/b/c", "--index", "{new}"], "no such data set"),
    ],
)
def test_commands_print_errors_in_one_line(
    index: Path, model_folder: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = bdam(*(text.format(index=index, model=model_folder, new=tmp_path / "new") for text in arguments))
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
