"""Crops of tracks with their metadata, resumed runs and bad input."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from data_pipeline.commands.main import app
from data_pipeline.detection.crops import METADATA, CropOptions, crop_people
from data_pipeline.detection.detector import PersonDetector, overlaps

from .conftest import WALKS
from .small_videos import RATE, Walk, draw_frame, write_video


def contents(folder: Path) -> dict[str, bytes]:
    """Returns the crops and the metadata file below a folder."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*.jp*") if f.name[0] != "."}


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / METADATA).read_text().splitlines()]


def crop(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["crop", *map(str, arguments), "--device", "cpu"])


@pytest.fixture
def videos(drawn_videos: Path, tmp_path: Path) -> Path:
    """A copy of the videos that a test may change."""
    return Path(shutil.copytree(drawn_videos, tmp_path / "videos"))


def test_crop_people_writes_one_track_for_each_walk(
    drawn_videos: Path, detector: PersonDetector, tmp_path: Path
) -> None:
    report = crop_people(drawn_videos, detector, tmp_path / "crops", show_progress=False)
    rows = rows_of(tmp_path / "crops")
    walks = [(name, walk) for name, all_of in WALKS.items() for walk in all_of]
    assert (report.tracks, report.crops, report.sources, report.read) == (len(walks), 3 * len(walks), 3, 3)
    found: dict[str, set[int]] = {}
    for row in rows:
        _, truth = draw_frame(WALKS[row["source"]], row["frame"] / RATE)
        box = np.array([row["box_x"], row["box_y"], row["box_x"] + row["box_w"], row["box_y"] + row["box_h"]])
        found.setdefault(row["track_id"], set()).update(
            person for person, drawn in truth.items() if overlaps(box[None], drawn[None])[0, 0] > 0.85
        )
        assert row["seconds"] == row["frame"] / RATE and row["camera_id"] == Path(row["source"]).parent.name
        assert row["time"] == f"2026-05-02T10:00:{row['seconds']:06.3f}+00:00"
        with Image.open(tmp_path / "crops" / row["file_name"]) as image:
            assert np.subtract(image.size, (row["box_w"], row["box_h"])) == pytest.approx([5, 9], abs=3)
    assert sorted(map(sorted, found.values())) == sorted([walk.person] for _, walk in walks)


def test_second_run_reads_only_changed_sources(videos: Path, detector: PersonDetector, tmp_path: Path) -> None:
    crops = tmp_path / "crops"
    crop_people(videos, detector, crops)
    before = contents(crops)
    assert crop_people(videos, detector, crops).read == 0
    write_video(videos / "gate/b.mp4", [Walk(6, 0.2), Walk(2, 4.0)], 6.0)
    (crops / rows_of(crops)[0]["file_name"]).unlink()
    report = crop_people(videos, detector, crops)
    assert (report.read, report.tracks) == (2, 6)
    after = contents(crops)
    assert {name for name in before.keys() & after.keys() if before[name] != after[name]} <= {
        METADATA,
        *(name for name in before if name.startswith("gate/b.mp4/")),
    }
    assert crop_people(videos, detector, crops, CropOptions(crops_per_track=1)).crops == 6


def test_sources_that_are_gone_lose_their_crops(videos: Path, detector: PersonDetector, tmp_path: Path) -> None:
    crops = tmp_path / "crops"
    crop_people(videos, detector, crops)
    before = contents(crops)
    (videos / "hall/c.mp4").unlink()
    with pytest.raises(ValueError, match=r"crops of 1 of 3 sources, which are gone \(hall/c.mp4\).*--allow-removals"):
        crop_people(videos, detector, crops)
    assert contents(crops) == before
    assert crop_people(videos, detector, crops, allow_removals=True).tracks == 3
    assert not (crops / "hall/c.mp4").exists()


def test_still_images_have_crops_without_tracks(
    detector: PersonDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)  # images need no PyAV
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(3):
        draw_frame([Walk(2, 0.0), Walk(3, 1.2)] if number else [], 2.0)[0].save(folder / f"{number}.png")
    (folder / "3.jpg").write_bytes(b"no image")
    report = crop_people(folder, detector, tmp_path / "crops", CropOptions(camera="7"), batch_size=2)
    assert (report.crops, report.tracks, report.notes) == (4, 0, ["3.jpg: no image of a known format"])
    assert rows_of(tmp_path / "crops")[0].keys().isdisjoint({"track_id", "frame", "seconds", "time"})
    assert {row["camera_id"] for row in rows_of(tmp_path / "crops")} == {"7"}


def test_broken_video_is_a_note_and_the_others_are_cropped(videos: Path, detector_folder: Path, tmp_path: Path) -> None:
    content = (videos / "gate/a.mp4").read_bytes()
    (videos / "gate/a.mp4").write_bytes(content[: len(content) // 2])
    result = crop(videos, "--detector", detector_folder, "--output", tmp_path / "crops")
    assert result.stderr.count("note: ") == 1 and "note: gate/a.mp4: Invalid data" in result.stderr
    assert result.stdout.endswith("crops: 9 crops, 3 tracks, 3 sources (3 read, 0 unchanged)\n")
    (videos / "gate/a.mp4").write_bytes(content)
    result = crop(videos, "--detector", detector_folder, "--output", tmp_path / "crops")
    assert result.stdout.endswith("crops: 15 crops, 5 tracks, 3 sources (1 read, 2 unchanged)\n")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": "none"}, "no such file or folder"),
        ({"images": "empty"}, "there are no videos and no images in it"),
        ({"output": "videos/crops"}, "choose a folder outside"),
        ({"output": "detector"}, "the folder contains other files"),
        ({"--person-label": "persn"}, "there is no label 'persn'; did you mean Person?"),
        ({"--start-time": "noon"}, "--start-time noon: no time"),
        ({"--start-time": "2026-05-02T10:00:00"}, "has 3 files; name one"),
        ({"--per-second": "0"}, "must be above 0"),
    ],
)
def test_crop_names_bad_input_in_one_line(
    drawn_videos: Path, detector_folder: Path, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    for name, target in (("videos", drawn_videos), ("detector", detector_folder)):
        os.symlink(target, tmp_path / name)
    places = {"images": "videos", "output": "crops"} | changes
    options = [part for name, value in changes.items() if name.startswith("--") for part in (name, value)]
    result = crop(
        *(tmp_path / places["images"], "--output", tmp_path / places["output"]),
        *("--detector", detector_folder, *options),
    )
    assert result.exit_code == 1 and message in result.stderr and result.stderr.count("\n") == 1


def test_missing_pyav_is_one_line(
    drawn_videos: Path, detector_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    result = crop(drawn_videos, "--detector", detector_folder, "--output", tmp_path / "crops")
    assert "av is not installed: pip install -e " in result.stderr and result.stderr.count("\n") == 1
