"""`bdam demo` of crops of videos in a headless Chromium: source, marks, filters, saved searches, re-ranking."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

pytest.importorskip("gradio", reason="the demo needs gradio: pip install -e '.[demo]'")
pytest.importorskip("selenium", reason="driving a browser needs selenium: pip install selenium")

from selenium.webdriver.common.keys import Keys

from ..conftest import ServedDemo
from .browser import Page, windows

SENTENCE = "a young woman in a red coat and blue jeans"


@pytest.fixture(scope="module")
def desk(video_demo: ServedDemo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with windows(video_demo.address, tmp_path_factory.mktemp("browser")) as open_one:
        yield open_one()


@pytest.fixture
def page(desk: Page) -> Page:
    """The window, reloaded, with the hits of a sentence."""
    desk.open(desk.driver.current_url.partition("?")[0])
    desk.search(SENTENCE)
    return desk


def open_filters(page: Page) -> None:
    page.one("#filters > button").click()
    page.until(lambda: page.one("#where").is_displayed())


def test_panel_shows_the_frame_and_plays_the_seconds_around(page: Page) -> None:
    page.one("#hits .card").click()
    page.until(lambda: page.all("#detail .frame") and page.all("#detail video"))
    assert "Where it was seen" in page.text("#detail h3") and not page.one("#detail .unplayable").is_displayed()
    page.until(lambda: page.driver.execute_script("return document.querySelector('#detail video').videoWidth") == 256)
    page.press("v")
    playing = "const video = document.querySelector('#detail video'); return !video.paused && video.currentTime > 0.3"
    page.until(lambda: page.driver.execute_script(playing))
    page.press("v")
    page.until(lambda: page.driver.execute_script("return document.querySelector('#detail video').paused"))
    page.until(lambda: page.all("#detail .maps img"))
    assert page.audit() == []


def test_panel_says_that_a_video_is_gone(page: Page, video_demo: ServedDemo) -> None:
    videos = video_demo.photos.parent / "videos"
    videos.rename(videos.with_name("moved"))
    try:
        page.one("#hits .card").click()
        page.until(lambda: "is gone: it was moved or deleted" in page.text("#detail .note"))
        assert not page.all("#detail video")
    finally:
        videos.with_name("moved").rename(videos)


def test_clip_serves_parts_of_opened_videos_only(page: Page, video_demo: ServedDemo, tmp_path: Path) -> None:
    page.one("#hits .card").click()
    video = page.until(lambda: page.all("#detail video"))[0]
    address = video.get_attribute("src").partition("#")[0]
    source = page.text("#detail .heading ~ *, #detail dl")
    file = next(file for file in (video_demo.photos.parent / "videos").rglob("*.mp4") if file.name in source)
    with httpx.Client() as client:
        part = client.get(address, headers={"Range": "bytes=10-29"})
        assert part.status_code == 206 and part.content == file.read_bytes()[10:30]
        assert client.get(address, headers={"Host": "evil.example"}).status_code == 403
        base = address.rpartition("/")[0]
        for path in ("x", "%2e%2e/%2e%2e/etc/passwd", "/etc/passwd", "../config", str(file), "é"):
            assert client.get(f"{base}/{path}").status_code in (404, 405) or path == "../config"
        # The file is replaced by a link to a file outside of the folder
        kept = Path(shutil.move(file, tmp_path / "kept.mp4"))
        try:
            file.symlink_to(kept)
            assert client.get(address).status_code == 404
        finally:
            file.unlink(missing_ok=True)
            shutil.move(kept, file)
        assert client.get(address).status_code == 200


def test_marks_move_the_query_and_are_restored(page: Page) -> None:
    before = page.order()
    page.all("#hits .card")[-1].send_keys("r")
    page.until(lambda: "1 right, 0 wrong · not yet searched" in page.text("#marks p"))
    page.all("#hits .mark[data-mark=wrong]")[0].click()
    page.until(lambda: "1 right, 1 wrong" in page.text("#marks p"))
    assert page.all("#hits .mark[data-mark=wrong]")[0].get_attribute("aria-pressed") == "true"
    page.one("#marks [name=apply]").click()
    page.until(lambda: "moved by marks: 1 right, 1 wrong" in page.text("#status"))
    moved = page.until(lambda: page.order() != before and page.order())
    assert moved[0] == before[-1]
    assert page.audit() == []
    page.driver.refresh()
    page.until(lambda: page.order() == moved and "moved by marks" in page.text("#status"))
    page.until(lambda: page.one("#hits .mark[aria-pressed=true]").get_attribute("data-row") == moved[0])
    page.one("#marks [name=clear]").click()
    page.until(lambda: page.order() == before and not page.text("#marks"))


def test_filters_bound_numbers_and_minutes(page: Page) -> None:
    count = len(page.order())
    open_filters(page)
    page.one("#bounds input[type=number]").send_keys("1", Keys.TAB)
    page.until(lambda: "seconds from 1" in page.text("#status .active"))
    assert 0 < len(page.order()) < count and "between." in page.driver.current_url
    assert page.audit() == []
    page.one("#status .clear").click()
    page.until(lambda: len(page.order()) == count)
    page.one("#from input").send_keys("05022026", Keys.TAB)
    page.until(lambda: "time (UTC) from 2026-05-02" in page.text("#status .active"))
    page.all("#from input")[1].send_keys("1000PM")
    page.until(lambda: "from 2026-05-02 22:00" in page.text("#status .active") and not page.order())


def test_saved_search_is_opened_in_another_visit(page: Page) -> None:
    open_filters(page)
    page.one("#where textarea, #where input").send_keys("camera_id == 'hall'", Keys.ENTER)
    found = page.until(lambda: "hall" in page.text("#status .active") and page.order())
    page.one("#saved > button").click()
    name = page.until(lambda: [box for box in page.all("#saved form input") if box.is_displayed()])[0]
    name.send_keys("<b>red</b> coat, hall", Keys.ENTER)
    page.until(lambda: "Saved: <b>red</b> coat, hall" in page.text("#saved output"))
    assert page.audit() == []
    page.open(page.driver.current_url.partition("?")[0])
    page.one("#saved > button").click()
    page.until(lambda: [button for button in page.all("#saved [name=open]") if button.is_displayed()])[0].click()
    page.until(lambda: page.order() == found)
    assert page.one("#sentence textarea").get_attribute("value") == SENTENCE
    page.one("#saved [name=delete]").click()
    page.until(lambda: not page.all("#saved li"))
    assert page.driver.execute_script("return Object.values(localStorage).filter((text) => text.includes('red'))") == []


def test_compare_in_detail_orders_the_hits_again(page: Page) -> None:
    before = page.order()
    assert not page.one("#in-detail input").is_selected()
    slow = {"offline": False, "latency": 600, "downloadThroughput": -1, "uploadThroughput": -1}
    page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", slow)
    page.one("#in-detail input").click()
    page.until(lambda: "Comparing the first images in detail" in page.text("#busy"))
    page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {**slow, "latency": 0})
    page.until(lambda: f"the first {len(before)} compared in detail" in page.text("#status"))
    assert page.order() != before and "detail" in page.text("#hits .match-number")
    page.until(lambda: not page.text("#busy"))
    assert page.audit() == []
    page.one("#in-detail input").click()
    page.until(lambda: page.order() == before)
