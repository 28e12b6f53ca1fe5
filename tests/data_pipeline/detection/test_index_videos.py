"""`bdam index --detector`: from a folder of videos to an answer, and a run that is killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from data_pipeline.commands.main import app

from ..search.conftest import make_model
from .conftest import WALKS
from .small_videos import draw_frame

ROOT = Path(__file__).parents[3]


def bdam(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments), "--device", "cpu"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), seed=3)


@pytest.fixture(scope="module")
def arguments(drawn_videos: Path, detector_folder: Path, model: Path) -> list[str]:
    return ["index", "--images", str(drawn_videos), "--detector", str(detector_folder), "--model", str(model)]


@pytest.fixture(scope="module")
def index(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos") / "index"
    result = bdam(*arguments, "--index", folder)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{folder}: 15 images (15 embedded, 0 kept, 0 removed), exact search\n"
    assert f"note: 15 crops of 5 tracks are in {folder}-crops\n" in result.stderr
    return folder


def found(index: Path, *options: object) -> list[dict]:
    result = bdam("search", "--index", index, *options, "--json")
    assert result.exit_code == 0, result.stderr
    return [{name: hit[name] for name in ("name", "score", "metadata")} for hit in json.loads(result.stdout)]


def test_search_by_picture_returns_the_right_track_first(index: Path, tmp_path: Path) -> None:
    """The queries are from frames that were not searched; the weights of the model are random."""
    for name, walks in WALKS.items():
        for number, walk in enumerate(walks, start=1):
            frame, boxes = draw_frame([walk], round(walk.start + walk.seconds / 2) + 0.1)
            frame.crop(tuple(boxes[walk.person] + [-2, -4, 2, 4])).save(tmp_path / "query.png")
            first = found(index, "--image", tmp_path / "query.png", "--top-k", 1)[0]
            assert first["metadata"]["track_id"] == f"{name}#{number}"


def test_search_filters_by_camera_and_time(index: Path) -> None:
    where = "camera_id == 'hall' and time < '2026-05-02T10:00:02Z' and box_h > 60"
    hits = found(index, "a man in a blue jacket", "--where", where)
    assert hits and all(hit["metadata"]["source"] == "hall/c.mp4" and hit["metadata"]["seconds"] < 2 for hit in hits)


def test_killed_run_resumes_to_the_same_index(arguments: list[str], index: Path, tmp_path: Path) -> None:
    """The process is killed in the second video."""
    target = tmp_path / "index"
    environment = os.environ | {"KILLED_AT_BATCH": "7", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.data_pipeline.detection.small_videos", *arguments, "--index", str(target)]
    killed = subprocess.run([*command, "--device", "cpu"], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    crops = target.with_name("index-crops")
    assert len((crops / ".sources.jsonl").read_text().splitlines()) == 1
    assert bdam(*arguments, "--index", target).exit_code == 0
    assert found(target, "a man in a blue jacket") == found(index, "a man in a blue jacket")
    assert {f.relative_to(crops) for f in crops.rglob("*")} == {
        f.relative_to(f"{index}-crops") for f in Path(f"{index}-crops").rglob("*")
    }


def test_index_names_the_detector_for_videos_and_frames(
    drawn_videos: Path, arguments: list[str], model: Path, tmp_path: Path
) -> None:
    result = bdam("index", "--images", drawn_videos, "--model", model, "--index", tmp_path / "index")
    assert result.exit_code == 1 and "videos and no images; add --detector MODEL" in result.stderr
    (tmp_path / "frames").mkdir()
    draw_frame([], 0.0)[0].save(tmp_path / "frames/empty.png")
    result = bdam("index", "--images", tmp_path / "frames", "--model", model, "--index", tmp_path / "index")
    assert "1 frames (wider than high)" in result.stderr and "--detector MODEL crops the people" in result.stderr
    arguments = [*arguments[:1], "--images", str(tmp_path / "frames"), *arguments[3:], "--index", str(tmp_path / "new")]
    assert "no person found by " in bdam(*arguments).stderr
    assert "run `bdam crop` first" in bdam(*arguments, "--add").stderr
