"""`bdam demo` in a headless Chromium, in desktop and phone size."""

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the demo needs gradio: pip install -e '.[demo]'")
pytest.importorskip("selenium", reason="driving a browser needs selenium: pip install selenium")

from selenium.webdriver.common.keys import Keys

from .browser import Page, windows

SENTENCE = "a young woman in a red coat and blue jeans"


@pytest.fixture(scope="module")
def open_page(demo: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Page]]:
    with windows(demo.address, tmp_path_factory.mktemp("browser")) as open_one:
        yield open_one


@pytest.fixture(scope="module")
def desk(open_page: Callable[..., Page]) -> Page:
    return open_page()


@pytest.fixture
def page(desk: Page) -> Page:
    """The desktop window, reloaded."""
    desk.open(desk.driver.current_url.partition("?")[0])
    return desk


def filter_box(page: Page) -> Any:
    page.one("#filters button").click()
    return page.until(lambda: [box for box in page.all("#where textarea, #where input") if box.is_displayed()])[0]


def scores(page: Page) -> list[float]:
    return [float(element.text) for element in page.all("#hits .card .top span:last-child")]


def test_sentence_shows_ranked_images(page: Page) -> None:
    assert len(page.search(SENTENCE)) == 24
    assert scores(page) == sorted(scores(page), reverse=True)
    widths = page.driver.execute_script(
        "return [...document.querySelectorAll('.picture img')].map(i => i.naturalWidth)"
    )
    assert min(widths) > 0
    assert "body" in page.text("#hits .numbers") and "clothes" in page.text("#hits .numbers")


def test_slider_changes_the_order_and_back(page: Page) -> None:
    first = page.search(SENTENCE)
    slider = page.one("#clothes input[type=range]")
    slider.send_keys(Keys.END)
    page.until(lambda: "clothing weight 0.00" in page.text("#status"))
    changed = page.until(lambda: page.order() != first and page.order())
    assert all(element.text == "clothes 0.00" for element in page.all("#hits .clothes-number"))
    slider.send_keys(Keys.HOME)
    page.until(lambda: page.order() == first)
    assert changed != first


def test_keyboard_opens_and_closes_an_image_with_maps(page: Page) -> None:
    page.search(SENTENCE)
    page.one("#search").send_keys("")  # moves the focus
    page.press("/")
    assert page.focused() == page.one("#sentence textarea")
    page.one("#hits .card").send_keys(Keys.ARROW_RIGHT)
    focused = page.focused()
    assert focused.get_attribute("data-row") == page.order()[1]
    focused.send_keys(Keys.ENTER)
    page.until(lambda: "Hit 2" in page.text("#detail h2"))
    assert page.one("#detail .large").size["height"] > 200
    assert page.one("#detail").get_attribute("role") == "dialog"
    page.until(lambda: page.focused() == page.one("#close"))
    assert [card.get_attribute("aria-expanded") for card in page.all("#hits .card")[:3]] == ["false", "true", "false"]
    page.until(lambda: len(page.all("#detail .maps img")) == 2)
    page.press(Keys.ARROW_RIGHT)
    page.until(lambda: "Hit 3" in page.text("#detail h2"))
    page.press(Keys.ESCAPE)
    page.until(lambda: not page.all("#detail"))
    page.until(lambda: page.focused().get_attribute("data-row") == page.order()[2])


def test_more_like_this_leaves_out_the_image_itself(page: Page) -> None:
    before = page.search(SENTENCE)
    chosen = before[4]
    page.all("#hits .card")[4].click()
    page.one("#like").click()
    page.until(lambda: "like the image" in page.text("#status"))
    page.until(lambda: page.order() not in ([], before))
    assert chosen not in page.order()
    assert not page.all("#detail")


def test_filter_selects_images_and_shows_errors(page: Page) -> None:
    page.search(SENTENCE)
    where = filter_box(page)
    where.send_keys("person_id == 2", Keys.ENTER)
    page.until(lambda: len(page.order()) == 6)
    assert all("person 2" in card.text for card in page.all("#hits .caption"))
    page.one("#filters button").click()
    assert "person_id == 2" in page.text("#status .active") and "1 active" in page.text("#filters")
    where = filter_box(page)
    where.send_keys(" and camera == 99", Keys.ENTER)
    page.until(lambda: "No image matches the filter" in page.text("#hits"))
    where.send_keys(" and camra == 1", Keys.ENTER)
    page.until(lambda: "did you mean camera" in page.text("#problem .error"))
    assert len(page.all(".error")) == 1 and not page.all(".toast-body")
    page.one("#status .clear").click()
    page.until(lambda: len(page.order()) == 24)
    assert where.get_attribute("value") == "" and not page.all(".error, #status .active")


def test_emptied_filter_field_is_no_filter(page: Page) -> None:
    """Each entry is one search, also if Enter is pressed and the field is left."""
    page.search(SENTENCE)
    where = filter_box(page)
    before = page.turn()
    where.send_keys("person_id == 2", Keys.ENTER, Keys.TAB)
    page.until(lambda: len(page.order()) == 6)
    where.send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.DELETE, Keys.TAB)
    page.until(lambda: len(page.order()) == 24)
    assert page.turn() == before + 2


def test_last_question_wins_on_a_slow_network(page: Page) -> None:
    page.search(SENTENCE)
    slow = {"offline": False, "latency": 400, "downloadThroughput": -1, "uploadThroughput": -1}
    page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", slow)
    for person in ("man", "boy", "girl", "woman"):
        page.ask(f"a {person} in a green coat")
    page.until(lambda: "a woman in a green coat" in page.text("#status b"))
    order = page.order()
    page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {**slow, "latency": 0})
    page.driver.refresh()
    page.until(lambda: page.order())
    assert "a woman in a green coat" in page.text("#status b") and page.order() == order


def test_day_is_one_search_and_its_end_is_included(page: Page) -> None:
    page.search(SENTENCE)
    filter_box(page)
    before = page.turn()
    page.one("#from input").send_keys("05202026")
    page.until(lambda: "time from 2026-05-20" in page.text("#status .active"))
    page.one("#to input").send_keys("05212026")
    page.until(lambda: "to 2026-05-21" in page.text("#status .active"))
    assert len(page.order()) == 2 and page.turn() == before + 2
    assert all("time 2026-05-2" in card.text for card in page.all("#hits .caption"))


def test_history_and_address_restore_a_search(page: Page) -> None:
    first = page.search(SENTENCE)
    page.all("#hits .card")[4].click()
    page.one("#like").click()
    page.until(lambda: "like the image" in page.text("#status"))
    like = page.until(lambda: page.order() != first and page.order())
    page.driver.back()
    page.until(lambda: page.order() == first)
    assert page.one("#sentence textarea").get_attribute("value") == SENTENCE
    page.driver.forward()
    page.until(lambda: page.order() == like)
    page.one("#status .back").click()
    page.until(lambda: page.order() == first)
    filter_box(page).send_keys("person_id == 2", Keys.ENTER)
    page.until(lambda: len(page.order()) == 6)
    found, address = page.order(), page.driver.current_url
    page.driver.get("about:blank")
    page.open(address)
    page.until(lambda: page.order() == found)
    assert filter_box(page).get_attribute("value") == "person_id == 2"


def test_keyboard_turns_pages_and_keeps_images(page: Page) -> None:
    page.search(SENTENCE)
    page.one("#hits .card").send_keys("k")
    page.until(lambda: len(page.all("#tray .drop")) == 1)
    page.press("n")
    page.until(lambda: "hits 25 to 25" in page.text("#status") and len(page.order()) == 1)
    page.until(lambda: page.focused().get_attribute("data-row") == page.order()[0])
    page.press("k")
    page.until(lambda: len(page.all("#tray .drop")) == 2)
    page.press("p")
    page.until(lambda: len(page.order()) == 24)
    assert page.one("#hits .keep input").is_selected()
    page.one("#export-tray").click()
    downloads = Path(page.driver.capabilities["chrome"]["userDataDir"]).parent
    page.until(lambda: [file for file in downloads.glob("hits*.zip") if len(zipfile.ZipFile(file).namelist()) == 4])
    page.all("#tray .drop")[0].click()
    page.until(lambda: len(page.all("#tray .drop")) == 1 and not page.one("#hits .keep input").is_selected())


def test_export_downloads_a_zip_file(page: Page) -> None:
    page.search(SENTENCE)
    downloads = Path(page.driver.capabilities["chrome"]["userDataDir"]).parent
    before = set(downloads.glob("hits*.zip"))  # of other tests
    page.one("#export").click()
    file = page.until(lambda: list(set(downloads.glob("hits*.zip")) - before))[0]
    with zipfile.ZipFile(file) as archive:
        assert len([name for name in archive.namelist() if name.startswith("images/")]) == 24


def send(page: Page, file: Path) -> None:
    page.one("input[type=file]").send_keys(str(file))


def test_uploaded_picture_finds_its_person(page: Page, demo: Any) -> None:
    send(page, sorted(demo.photos.rglob("*.jpg"))[0])
    page.until(lambda: "like this picture" in page.text("#status") and page.order())
    assert page.all("#status img")
    assert scores(page)[0] > 0.99


def test_upload_of_50_mb_is_refused_with_a_message(page: Page, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4100, 4100, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "big.bmp")
    assert (tmp_path / "big.bmp").stat().st_size > 50_000_000
    send(page, tmp_path / "big.bmp")
    page.until(lambda: "10" in page.text(".toast-body, .toast-wrap, [data-testid=toast-body]"))
    assert page.search(SENTENCE)


def test_errors_and_notes_are_shown_in_the_status(page: Page) -> None:
    page.one("#search").click()
    page.until(lambda: "the sentence is empty" in page.text("#problem .error"))
    page.one("#sentence textarea").send_keys("穿红色外套的女人", Keys.ENTER)
    page.until(lambda: "the model's vocabulary has no word of" in page.text("#problem .error"))
    page.search("word " * 1000)
    assert "the model reads the first 32" in page.text("#status .note")


def test_names_are_escaped_and_run_no_script(page: Page) -> None:
    page.search(SENTENCE)
    filter_box(page).send_keys("path like '%onerror%'", Keys.ENTER)
    page.until(lambda: len(page.order()) == 1)
    assert "${window.hit=1}" in page.text("#hits .caption")
    page.one("#hits .card").click()
    page.until(lambda: "onerror='window.hit=1'>{{7*7}}.jpg" in page.text("#detail dd"))
    assert page.driver.execute_script("return window.hit === undefined")


def test_page_loads_no_external_resource_and_logs_no_error(page: Page, demo: Any) -> None:
    page.search(SENTENCE)
    loaded = page.driver.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert {name for name in loaded if not name.startswith((demo.address, "data:", "blob:"))} == set()
    assert [entry for entry in page.driver.get_log("browser") if "Uncaught" in entry["message"]] == []


def test_phone_layout_fits_the_screen_width(open_page: Callable[..., Page]) -> None:
    phone = open_page(360, 780)
    phone.search(SENTENCE)

    def fits() -> bool:
        return phone.driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")

    assert fits()
    left = [card.location["x"] for card in phone.all("#hits .card")]
    assert len(set(left)) == 2
    for selector in ("#search", "#picture", "#clothes input[type=range]"):
        assert phone.one(selector).is_displayed()
    phone.all("#hits .card")[0].click()
    phone.until(lambda: phone.all("#detail .maps img"))
    assert fits()
    assert phone.one("#detail").size["width"] <= 360
    opened = "#hits .card[aria-expanded=true]"
    phone.until(lambda: phone.box(opened)["top"] >= 0 and phone.box(opened)["bottom"] <= phone.box("#detail")["top"])
    phone.one("#close").click()
    phone.until(lambda: not phone.all("#detail"))


def test_panel_covers_neither_controls_nor_hits(page: Page) -> None:
    page.search(SENTENCE)
    page.one("#hits .card").click()
    page.until(lambda: page.all("#detail .maps img"))
    left = page.box("#detail")["left"]
    covered = "return [...document.querySelectorAll('#ask *, #clothes *, #filters *, #status *, #hits .cell *')]"
    covered += ".filter((element) => element.getBoundingClientRect().right > arguments[0] + 1).map((e) => e.outerHTML)"
    page.until(lambda: page.driver.execute_script(covered, left) == [])


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (1280, "light"),
        (390, "dark"),
        pytest.param(1280, "dark", marks=pytest.mark.slow),
        pytest.param(390, "light", marks=pytest.mark.slow),
    ],
)
def test_accessibility_audit_finds_no_violation(open_page: Callable[..., Page], width: int, scheme: str) -> None:
    """axe-core, which includes a contrast of at least 4.5, in each state of the page."""
    page = open_page(width, 844)
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    page.driver.refresh()
    page.until(lambda: page.all("#hits .empty") and not page.all(".loading"))
    assert page.audit() == []
    page.search(SENTENCE)
    assert page.one("#filters > button").get_attribute("aria-expanded") == "false"
    where = filter_box(page)
    page.one("#saved > button").click()
    page.until(lambda: page.one("#saved form").is_displayed())
    toggles = page.all("#filters > button, #saved > button")
    assert [toggle.get_attribute("aria-expanded") for toggle in toggles] == ["true", "true"]
    where.send_keys("person_id == 2", Keys.ENTER)
    page.until(lambda: page.text("#status .active"))
    assert page.audit() == []
    where.send_keys(" and camra == 1", Keys.ENTER)
    page.until(lambda: page.text("#problem .error"))
    assert [page.one(name).get_attribute("role") for name in ("#problem", "#status")] == ["alert", "status"]
    page.one("#hits .card").click()
    page.until(lambda: page.all("#detail .maps img"))
    page.press("k")
    page.until(lambda: page.all("#tray .drop"))
    page.press("w")
    page.until(lambda: page.all("#hits .mark[aria-pressed=true]"))
    assert page.audit() == []
