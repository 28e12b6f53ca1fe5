"""A folder of videos with known walks, and a detector that finds the walkers."""

from pathlib import Path

import pytest

from data_pipeline.detection.detector import PersonDetector

from .small_videos import Walk, save_detector, write_video

WALKS = {
    "gate/a.mp4": [Walk(3, 0.3), Walk(32, 4.0, -1)],
    "gate/b.mp4": [Walk(38, 0.2)],
    "hall/c.mp4": [Walk(11, 0.2, -1), Walk(54, 1.6, -1)],
}


@pytest.fixture(scope="session")
def drawn_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only videos with `WALKS`."""
    pytest.importorskip("av", reason="videos need PyAV: pip install -e '.[video]'")
    folder = tmp_path_factory.mktemp("videos")
    for name, walks in WALKS.items():
        seconds = max(walk.start + walk.seconds for walk in walks)
        write_video(folder / name, walks, seconds, creation_time="2026-05-02T10:00:00Z")
    return folder


@pytest.fixture(scope="session")
def detector_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="session")
def detector(detector_folder: Path) -> PersonDetector:
    return PersonDetector.load(detector_folder, "cpu")
