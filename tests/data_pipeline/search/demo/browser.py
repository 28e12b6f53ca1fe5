"""A browser window with the demo, driven by selenium."""

import importlib.resources
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

selenium = pytest.importorskip("selenium", reason="driving a browser needs selenium: pip install selenium")

from selenium import webdriver  # noqa: E402
from selenium.common.exceptions import StaleElementReferenceException  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

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
        self.open(address)

    def open(self, address: str) -> None:
        self.driver.get(address)
        self.until(lambda: self.all("#sentence textarea") and self.all("#hits .empty, #hits .card"))

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
        raise AssertionError(f"timeout; the page says {self.text('#problem')!r} and {self.text('#status')!r}")

    def press(self, *keys: str) -> None:
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def order(self) -> list[str]:
        return [card.get_attribute("data-row") for card in self.all("#hits .card")]

    def ask(self, sentence: str) -> None:
        """Types a sentence and Enter."""
        box = self.one("#sentence textarea")
        box.send_keys(Keys.CONTROL, "a")
        self.driver.execute_cdp_cmd("Input.insertText", {"text": sentence})
        box.send_keys(Keys.ENTER)

    def turn(self) -> int:
        """The number of searches so far."""
        return int(self.one("#status [data-turn]").get_attribute("data-turn"))

    def box(self, selector: str) -> dict[str, float]:
        """The rectangle of an element in the viewport."""
        return self.driver.execute_script("return arguments[0].getBoundingClientRect().toJSON()", self.one(selector))

    def focused(self) -> Any:
        return self.driver.switch_to.active_element

    def search(self, sentence: str) -> list[str]:
        """Types a sentence and waits for its hits."""
        self.ask(sentence)
        self.until(lambda: sentence[:100] in self.text("#status b") and self.order())
        return self.order()

    def audit(self) -> list[str]:
        """The violations that axe-core finds, which include a contrast below 4.5."""
        pytest.importorskip("axe_core_python", reason="the audit needs axe-core: pip install axe-core-python")
        if not self.driver.execute_script("return Boolean(window.axe)"):
            script = importlib.resources.files("axe_core_python") / "axe.min.js"
            self.driver.execute_script(script.read_text(encoding="utf-8"))
        found = self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1]; axe.run(document).then(done, (error) => done(String(error)))"
        )
        assert len(found["passes"]) > 15
        return [f"{rule['id']}: {node['html']}" for rule in found["violations"] for node in rule["nodes"]]


@contextmanager
def windows(address: str, folder: Path) -> Iterator[Callable[..., Page]]:
    """Yields a function that opens windows of a width and height, which are closed at the end."""
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    pages: list[Page] = []

    def open_one(width: int = 1280, height: int = 900) -> Page:
        (folder / str(len(pages))).mkdir()
        pages.append(Page(address, folder / str(len(pages)), width, height))
        return pages[-1]

    yield open_one
    for page in pages:
        page.driver.quit()
