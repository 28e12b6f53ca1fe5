"""`bdam index` and `bdam search`."""

import codecs
import csv
import hashlib
import io
import json
import math
import os
import shutil
import zipfile
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from data_pipeline.commands.main import app
from data_pipeline.search import PersonGallery
from data_pipeline.search.hits import likelihood_in_words

from ..benchmarks.layouts import write_market_1501

SENTENCE = "a young woman in a red coat and blue jeans"


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


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
    assert found(index, "--image", query, "--top-k", 1, "--include-self")[0]["path"] == str(query)
    hits = found(index, "--image", query)
    assert len(hits) == 20
    assert str(query) not in [hit["path"] for hit in hits]


def test_search_composes_a_picture_and_words(index: Path, drawn_photos: Path, tmp_path: Path) -> None:
    query = sorted(drawn_photos.rglob("*.jpg"))[4]
    words = ("--image", query, SENTENCE, "--without", "a backpack")
    with PersonGallery.open(index) as gallery:
        for identity_from in ("image", "text"):
            expected = gallery.search_composed(query, SENTENCE, identity_from=identity_from, without="a backpack")
            hits = found(index, *words, "--identity-from", identity_from, "--export", tmp_path / "hits.zip")
            assert [hit["row"] for hit in hits] == [hit.row for hit in expected]
    search = json.loads(zipfile.ZipFile(tmp_path / "hits.zip").read("hits.json"))["search"]
    assert search["query"] == f"{query}, {SENTENCE}, identity of the words, without a backpack"
    assert search["picture_sha256"] == hashlib.sha256(query.read_bytes()).hexdigest()


def test_search_shows_likelihood_and_absence(drawn_photos: Path, model_folder: Path, tmp_path: Path) -> None:
    model, index = Path(shutil.copytree(model_folder, tmp_path / "model")), tmp_path / "index"
    config = json.loads((model / "config.json").read_text())
    curve = {"slopes": [9.0], "intercepts": [0.0], "thresholds": [0.9], "growths": [0.0]}
    calibration = {"images": 24, "clothing_weights": [1.0], "text": curve}
    (model / "config.json").write_text(json.dumps(config | {"score_calibration": calibration}))
    assert bdam("index", "--model", model, "--images", drawn_photos, "--index", index, "--device", "cpu").exit_code == 0
    hits = found(index, SENTENCE)
    assert all(hit["is_weak"] and hit["likelihood"] == pytest.approx(sigmoid(4.5 * hit["score"])) for hit in hits)
    result = bdam("search", "--index", index, SENTENCE, "--top-k", 3)
    best = likelihood_in_words(hits[0]["likelihood"])
    assert result.stderr.splitlines()[-1] == f"Probably not in this gallery (the best hit is {best})"
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert [line[1] for line in lines] == ["likelihood", *(likelihood_in_words(hit["likelihood"]) for hit in hits[:3])]
    shown = found(index, SENTENCE, "--min-likelihood", hits[5]["likelihood"])
    assert [hit["row"] for hit in shown] == [hit["row"] for hit in hits[:6]]


def test_index_reports_unreadable_images_and_whole_frames(photos: Path, model_folder: Path, tmp_path: Path) -> None:
    arguments = ("--model", model_folder, "--images", photos, "--index", tmp_path / "index", "--device", "cpu")
    assert bdam("index", *arguments).exit_code == 0
    (photos / "text.png").write_text("no picture")
    Image.effect_noise((64, 36), 60).save(photos / "frame.png")
    Image.new("RGB", (32, 64), "red").save(photos / "flat.png")
    result = bdam("index", *arguments)
    assert "  flat.png: a picture of one color\n  text.png: no image of a known format" in result.stderr
    assert "25 images (1 embedded, 24 kept, 0 removed)" in result.stdout
    for _ in range(2):  # each run has the note
        assert "the index has 1 frames (wider than high); a gallery should contain crops" in result.stderr
        result = bdam("index", *arguments)
    report = json.loads(bdam("index", *arguments, "--json").stdout)
    assert report["images"] == 25
    assert report["unreadable"][1] == ["text.png", "no image of a known format"]


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
    assert "words that the model may not know: " in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "--index", "{index}"], "give a sentence, a picture with --image, or both"),
        (["search", "--index", "{index}", "", "--json"], "the sentence is empty"),
        (["search", "--index", "{index}", "穿红色外套的女人"], "the model's vocabulary has no word of"),
        (["search", "--index", "{index}", SENTENCE, "--top-k", "0"], "top_k must be at least 1"),
        (["search", "--index", "{index}", SENTENCE, "--where", "camra = 1"], "did you mean camera"),
        (["search", "--index", "{index}", SENTENCE, "--sheet", "sheet.gif"], "the sheet is written as .png"),
        (["search", "--index", "{index}", SENTENCE, "--sheet", "nowhere/sheet.png"], "there is no folder nowhere"),
        (["search", "--index", "{index}", SENTENCE, "--export", "hits.csv"], "the export is written as .zip"),
        (["search", "--index", "{index}", SENTENCE, "--export", "nowhere/hits.zip"], "there is no folder nowhere"),
        (["search", "--index", "{index}", SENTENCE, "--rerank", "4"], "the model has no matching head, so it cannot"),
        (["search", "--index", "{index}", "--image", "{photo}", "--rerank", "4"], "rerank needs a sentence for the"),
        (["search", "--index", "{index}", SENTENCE, "--device", "foo"], "the device 'foo' cannot be used here"),
        (["search", "--index", "{index}", SENTENCE, "--device", "cuda:9"], "the device 'cuda:9' cannot be used here"),
        (["search", "--index", "{index}", "a red \udce4 coat"], "has a broken character at position 7"),
        (["search", "--index", "{index}", SENTENCE, "--where", "camera == 1 or 2"], "2 is a number, no condition"),
        (["search", "--index", "{index}", SENTENCE, "--where", "true) or (true"], "syntax error"),
        (["search", "--index", "{index}", "--image", "{pipe}"], "a pipe, socket or device"),
        (["search", "--index", "{index}", "--image", "nowhere.jpg"], "nowhere.jpg: there is no such file"),
        (["search", "--index", "{index}", SENTENCE, "--model", "nowhere"], "model nowhere: no such folder"),
        (["search", "--index", "nowhere", SENTENCE], "there is no index"),
        (["index", "--model", "x", "--images", "rstpried", "--index", "{new}"], "did you mean rstpreid"),
        (["index", "--model", "{model}", "--images", "./nowhere", "--index", "{new}"], "no such folder"),
        (["index", "--model", "{model}", "--images", "gone", "--index", "{new}"], "gone: there is no such folder, and"),
        (["index", "--model", "{model}", "--images", "{pipe}", "--index", "{new}"], "give the folder of the images"),
        (["index", "--model", "x", "--images", "hub:a/b/c", "--index", "{new}"], "no such data set"),
    ],
)
def test_commands_print_errors_in_one_line(
    index: Path, model_folder: Path, drawn_photos: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    places = {"index": index, "model": model_folder, "new": tmp_path / "new", "pipe": tmp_path / "pipe.jpg"}
    places["photo"] = next(drawn_photos.rglob("*.jpg"))
    result = bdam(*(text.format(**places) for text in arguments))
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_search_exports_the_facts_of_the_search(photos: Path, model_folder: Path, tmp_path: Path) -> None:
    index, zipped = tmp_path / "index", tmp_path / "hits.zip"
    result = bdam("index", "--model", model_folder, "--images", photos, "--index", index, "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    first, second, third = (Path(hit["path"]) for hit in found(index, SENTENCE, "--top-k", 3))
    first.unlink()
    second.write_bytes(second.read_bytes() + b" ")
    options = ("--top-k", 3, "--clothing-weight", 0.3, "--where", "camera > 0", "--where", "person_id >= 0")
    hits = found(index, SENTENCE, *options, "--export", zipped)
    with zipfile.ZipFile(zipped) as archive:
        exported = json.loads(archive.read("hits.json"))
        content = archive.read("hits.csv")
    search, manifest = exported["search"], json.loads((index / "manifest.json").read_text())
    assert (search["query"], search["picture_sha256"]) == (SENTENCE, None)
    assert search["where"] == ["camera > 0", "person_id >= 0"]
    assert (search["clothing_weight"], search["top_k"], search["images"]) == (0.3, 3, 24)
    for name in ("model", "weights", "config", "generation", "time_zone", "package_version"):
        assert search[name] == manifest[name]
    assert datetime.fromisoformat(search["time"]).utcoffset() == timedelta(0)
    assert content.startswith(codecs.BOM_UTF8)
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))
    assert [row["file"] for row in rows] == [hit["name"] for hit in hits]
    status = {row["file"]: row["file_status"] for row in rows}
    expected = {first: "missing", second: "changed", third: "unchanged"}
    for file, wanted in expected.items():
        assert status.get(file.relative_to(photos).as_posix(), wanted) == wanted
    assert set(status.values()) == {"missing", "changed", "unchanged"}


def test_search_exports_the_digest_of_the_picture(index: Path, drawn_photos: Path, tmp_path: Path) -> None:
    query = sorted(drawn_photos.rglob("*.jpg"))[4]
    found(index, "--image", query, "--export", tmp_path / "hits.zip", "--top-k", 2)
    search = json.loads(zipfile.ZipFile(tmp_path / "hits.zip").read("hits.json"))["search"]
    assert search["query"] == str(query)
    assert search["picture_sha256"] == hashlib.sha256(query.read_bytes()).hexdigest()
    assert search["clothing_weight"] == json.loads((index / "manifest.json").read_text())["clothing_weight"]


def test_search_prints_whole_paths_and_values_to_a_pipe(photos: Path, model_folder: Path, tmp_path: Path) -> None:
    long = tmp_path / ("deep" * 20) / ("folder" * 20)
    long.parent.mkdir()
    photos.rename(long)
    (long / "metadata.csv").write_text(
        "file_name,note\n"
        + "".join(f"{file.relative_to(long)},{'long text ' * 20}\n" for file in sorted(long.rglob("*.jpg")))
    )
    assert bdam("index", "--model", model_folder, "--images", long, "--index", tmp_path / "i").exit_code == 0
    lines = bdam("search", "--index", tmp_path / "i", SENTENCE, "--top-k", 3).stdout.splitlines()
    assert lines[0].split("\t") == ["rank", "score", "identity", "clothing", "image", "metadata"]
    for line in lines[1:]:
        assert Path(line.split("\t")[4]).is_file()
        assert line.endswith(("long text " * 20).strip())


def test_search_draws_a_sheet_with_missing_images_in_any_script(
    photos: Path, model_folder: Path, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    assert bdam("index", "--model", model_folder, "--images", photos, "--index", index).exit_code == 0
    Path(found(index, SENTENCE, "--top-k", 1)[0]["path"]).unlink()
    for sentence in (SENTENCE, f"{SENTENCE} żółć Ω Ж"):
        found(index, sentence, "--top-k", 3, "--sheet", tmp_path / "sheet.png")
        assert Image.open(tmp_path / "sheet.png").size[1] > 240
