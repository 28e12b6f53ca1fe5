"""`bdam demo` in a headless Chromium, in desktop and phone size."""

import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the demo needs gradio: pip install -e '.[demo]'")
selenium = pytest.importorskip("selenium", reason="driving a browser needs selenium: pip install selenium")

from selenium import webdriver  # noqa: E402
from selenium.common.exceptions import StaleElementReferenceException  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

SENTENCE = "a young woman in a red coat and blue jeans"
PATIENCE = 30  # seconds
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Page:
    """The demo in a browser window."""

    def __init__(self, address: str, downloads: Path, width: int, height: int) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for flag in (*FLAGS, f"--user-data-dir={downloads / 'profile'}", f"--window-size={width},{height}"):
            options.add_argument(flag)
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get(address)
        self.until(lambda: self.all("#sentence textarea") and self.all("#hits .empty"))

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def one(self, selector: str) -> Any:
        return self.until(lambda: self.all(selector))[0]

    def text(self, selector: str) -> str:
        return " ".join(element.text for element in self.all(selector))

    def until(self, holds: Callable[[], Any]) -> Any:
        """Waits until `holds` returns a true value, and returns it; elements may be replaced meanwhile."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                if found := holds():
                    return found
            except StaleElementReferenceException:
                pass
            time.sleep(0.05)
        raise AssertionError(f"timeout; the status is {self.text('#status')!r}")

    def press(self, *keys: str) -> None:
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def order(self) -> list[str]:
        return [card.get_attribute("data-row") for card in self.all("#hits .card")]

    def search(self, sentence: str) -> list[str]:
        """Types a sentence and waits for its hits."""
        box = self.one("#sentence textarea")
        box.send_keys(Keys.CONTROL, "a")
        self.driver.execute_cdp_cmd("Input.insertText", {"text": sentence})
        box.send_keys(Keys.ENTER)
        self.until(lambda: sentence[:100] in self.text("#status b") and self.order())
        return self.order()


@pytest.fixture(scope="module")
def open_page(demo: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Page]]:
    """Opens browser windows, which are closed after the tests."""
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    pages: list[Page] = []

    def open_one(width: int = 1280, height: int = 900) -> Page:
        pages.append(Page(demo.address, tmp_path_factory.mktemp("browser"), width, height))
        return pages[-1]

    yield open_one
    for page in pages:
        page.driver.quit()


@pytest.fixture(scope="module")
def desk(open_page: Callable[..., Page]) -> Page:
    return open_page()


@pytest.fixture
def page(desk: Page) -> Page:
    """The desktop window, reloaded."""
    desk.driver.refresh()
    desk.until(lambda: desk.all("#sentence textarea") and desk.all("#hits .empty"))
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
    assert page.driver.switch_to.active_element == page.one("#sentence textarea")
    page.one("#hits .card").send_keys(Keys.ARROW_RIGHT)
    focused = page.driver.switch_to.active_element
    assert focused.get_attribute("data-row") == page.order()[1]
    focused.send_keys(Keys.ENTER)
    page.until(lambda: "Hit 2" in page.text("#detail h2"))
    assert page.one("#detail .large").size["height"] > 200
    page.until(lambda: len(page.all("#detail .maps img")) == 2)
    page.press(Keys.ARROW_RIGHT)
    page.until(lambda: "Hit 3" in page.text("#detail h2"))
    page.press(Keys.ESCAPE)
    page.until(lambda: not page.all("#detail"))
    page.until(lambda: page.driver.switch_to.active_element.get_attribute("data-row") == page.order()[2])


def test_more_like_this_ranks_the_image_first(page: Page) -> None:
    page.search(SENTENCE)
    chosen = page.order()[4]
    page.all("#hits .card")[4].click()
    page.one("#like").click()
    page.until(lambda: "like this image" in page.text("#status"))
    page.until(lambda: page.order()[:1] == [chosen])
    assert not page.all("#detail")


def test_filter_selects_images_and_shows_errors(page: Page) -> None:
    page.search(SENTENCE)
    where = filter_box(page)
    where.send_keys("person_id == 2", Keys.ENTER)
    page.until(lambda: len(page.order()) == 6)
    assert all("person 2" in card.text for card in page.all("#hits .caption"))
    where.send_keys(" and camera == 99", Keys.ENTER)
    page.until(lambda: "No image matches the filter" in page.text("#hits"))
    where.send_keys(" and camra == 1", Keys.ENTER)
    page.until(lambda: "did you mean camera" in page.text("#status .error"))


def test_export_downloads_a_zip_file(page: Page) -> None:
    page.search(SENTENCE)
    page.one("#export").click()
    downloads = Path(page.driver.capabilities["chrome"]["userDataDir"]).parent
    file = page.until(lambda: list(downloads.glob("hits*.zip")))[0]
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
    page.until(lambda: "the sentence is empty" in page.text("#status .error"))
    page.one("#sentence textarea").send_keys("穿红色外套的女人", Keys.ENTER)
    page.until(lambda: "the model's vocabulary has no word of" in page.text("#status .error"))
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
    phone.one("#close").click()
    phone.until(lambda: not phone.all("#detail"))
