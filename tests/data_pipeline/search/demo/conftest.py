"""The page without a browser, and a demo of crops of videos by a model with a matching head."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from data_pipeline.detection.crops import crop_people
from data_pipeline.detection.detector import PersonDetector
from data_pipeline.search import PersonGallery, build_index

from ...detection.small_videos import Walk, save_detector, write_video
from ..conftest import ServedDemo, serve
from .page_events import SENTENCE, controls

if TYPE_CHECKING:
    from data_pipeline.search.demo.page import SearchPage
    from data_pipeline.search.demo.session import Session

VIDEOS = {"gate/a.mp4": [Walk(3, 0.0), Walk(11, 0.5, -1)], "hall/b.mp4": [Walk(38, 0.0, 1, 2.0)]}


@pytest.fixture(scope="session")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only crops of `VIDEOS`, which are in the folder `videos` beside them."""
    pytest.importorskip("av", reason="videos need PyAV: pip install -e '.[video]'")
    folder = tmp_path_factory.mktemp("seen")
    for name, walks in VIDEOS.items():
        write_video(folder / "videos" / name, walks, 3.2, creation_time="2026-05-02T10:00:00Z")
    detector = PersonDetector.load(save_detector(folder / "detector"), "cpu")
    crop_people(folder / "videos", detector, folder / "crops", show_progress=False)
    return folder / "crops"


@pytest.fixture(scope="session")
def video_demo(crops: Path, matching_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedDemo]:
    """A demo of the crops, by a model with a matching head."""
    pytest.importorskip("gradio", reason="the demo needs gradio: pip install -e '.[demo]'")
    folder = tmp_path_factory.mktemp("video_demo")
    build_index(folder / "index", crops, matching_folder, device="cpu", show_progress=False)
    with serve(folder / "index", crops, folder) as served:
        yield served


@pytest.fixture(scope="module")
def page(exact: PersonGallery) -> "SearchPage":
    pytest.importorskip("gradio", reason="the demo needs gradio: pip install -e '.[demo]'")
    from data_pipeline.search.demo.page import SearchPage

    return SearchPage(exact)


@pytest.fixture
def session(page: "SearchPage") -> "Session":
    """A session after one search."""
    session = page.new_session()
    page.ask(session, SENTENCE, *controls(page))
    return session
