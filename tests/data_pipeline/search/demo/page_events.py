"""Events of the demo page without a browser, and what the answers show."""

import html.parser
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from data_pipeline.search.demo.filters import RANGES
from data_pipeline.search.demo.session import Session

if TYPE_CHECKING:
    from data_pipeline.search.demo.page import SearchPage

SENTENCE = "a young woman in a red coat and blue jeans"


def controls(page: "SearchPage", **given: Any) -> list[Any]:
    """The values of the controls, in their order."""
    values = {"changed": 0, "count": 24, "grouped": False, "in_detail": False, "typed": "", "first": "", "last": ""}
    chosen, numbers = given.pop("chosen", {}), given.pop("numbers", {})
    session = page.new_session()
    bounds = [numbers.get(column, "") for column in session.ranges]
    bounds += [""] * (RANGES - len(bounds))
    return [*(values | given).values(), *bounds, *(chosen.get(column, []) for column in session.menus)]


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 32, 3), dtype=np.uint8))


def event(**data: Any) -> Any:
    """An event that a gradio component triggers with data."""
    return SimpleNamespace(_data=data)


def texts(page: "SearchPage", answer: dict[Any, Any]) -> SimpleNamespace:
    """The HTML of the answer's components by name; "" for components that do not change."""
    names = ("problem", "status", "grid", "large", "maps", "details", "tray", "header", "marks")
    written = {name: answer.get(getattr(page.layout, name), "") for name in names}
    return SimpleNamespace(**{name: html if isinstance(html, str) else "" for name, html in written.items()})


def address_of(page: "SearchPage", answer: dict[Any, Any]) -> str:
    """The address that an answer adds to the history."""
    elements = Tags(texts(page, answer).status).elements
    return next(str(attributes["data-address"]) for _, attributes in elements if "data-address" in attributes)


def rows(session: Session) -> list[int]:
    return [hit.row for hit in session.hits]


class Tags(html.parser.HTMLParser):
    """Collects the elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def rows(self, kind: str) -> list[int]:
        """The rows of the elements of a class."""
        return [int(str(given["data-row"])) for _, given in self.elements if given.get("class") == kind]
