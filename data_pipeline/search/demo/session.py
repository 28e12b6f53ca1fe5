"""State of a browser window."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from numpy.typing import NDArray

from modeling_bdam.evaluation.calibration import Kind as CalibratedKind

from ..gallery import PersonHit
from ..index.manifest import Manifest
from ..search_record import SearchRecord
from .filters import RANGES, Range, to_range

RESULTS = (12, 24, 48, 96)
MOST_PAGES = 20
COMPARED = 32  # hits that the matching head orders again
Kind = Literal["q", "like", "picture"]


@dataclass(frozen=True)
class Query:
    """An embedded query, which is searched again when the clothing weight or a filter changes."""

    kind: Kind
    key: str  # the sentence, the name of an image of the index, or the digest of an uploaded picture
    title: str  # shown above the hits
    vector: NDArray  # float32 [dimensions]
    remarks: tuple[str, ...] = ()  # notes, such as words that the model cannot read
    picture: str | None = None  # `data:` URL
    digest: str | None = None  # SHA-256 of the picture, copies of it are no hits
    words: str = ""  # sentence that describes the clothes of the person of a picture
    calibrated_as: CalibratedKind | None = None
    # Relevance feedback
    original: NDArray | None = None  # the vector before the marked images moved it
    right: tuple[str, ...] = ()  # names of the marked images
    wrong: tuple[str, ...] = ()

    @property
    def sentence(self) -> str | None:
        """The sentence that the matching head compares with images; None for a picture only."""
        return self.key if self.kind == "q" else self.words or None

    @property
    def marks(self) -> dict[str, bool]:
        """Whether an image is right, by the name of each marked one."""
        return {**dict.fromkeys(self.right, True), **dict.fromkeys(self.wrong, False)}


@dataclass(frozen=True)
class Settings:
    """The controls beside the query."""

    changed: float = 0  # percent by which clothes count less
    count: int = RESULTS[1]  # images on a page
    grouped: bool = False
    in_detail: bool = False  # re-ranks the first hits by the matching head
    typed: str = ""  # filter expression
    first: str = ""  # day or minute
    last: str = ""  # day or minute, included
    chosen: dict[str, list[str]] = field(default_factory=dict)  # values of each menu by column
    numbers: dict[str, Range] = field(default_factory=dict)  # bounds of each range by column
    page: int = 1

    @classmethod
    def checked(cls, values: Sequence[Any], menus: Sequence[str], ranges: Sequence[str]) -> "Settings":
        """Validates the values that a client sent; `menus` and `ranges` are their columns. Raises `ValueError`."""
        changed, count, grouped, in_detail, typed, first, last, *filters = values
        bounds, lists = filters[:RANGES], filters[RANGES:]
        return cls(
            changed,
            count,
            bool(grouped),
            bool(in_detail),
            typed or "",
            first or "",
            last or "",
            {column: list(menu) for column, menu in zip(menus, lists, strict=False) if menu},
            {column: to_range(column, text) for column, text in zip(ranges, bounds, strict=False) if text},
        ).validated()

    def validated(self) -> "Settings":
        """Returns these settings; raises `ValueError` for a value that no control has."""
        if isinstance(self.changed, bool) or not isinstance(self.changed, int | float) or not 0 <= self.changed <= 100:
            raise ValueError("the slider goes from 0 to 100")
        if self.count not in RESULTS:
            raise ValueError(f"show {', '.join(map(str, RESULTS))} images")
        if not 1 <= self.page <= MOST_PAGES:
            raise ValueError(f"there are at most {MOST_PAGES} pages of hits: narrow the search by a filter")
        if not all(isinstance(text, str) for text in (self.typed, self.first, self.last)):
            raise ValueError("a filter is text")
        return self

    @property
    def filters(self) -> tuple[dict[str, list[str]], dict[str, Range], str, str, str]:
        """The filters: values of the menus and bounds by column, first and last time, expression."""
        return self.chosen, self.numbers, self.first, self.last, self.typed

    @property
    def compared(self) -> "Settings":
        """The settings without the page and spaces, which a change of a control does not affect."""
        return replace(self, page=1, typed=self.typed.strip())

    @property
    def first_rank(self) -> int:
        """Rank of the first hit of the page."""
        return (self.page - 1) * self.count + 1

    def without_filters(self) -> "Settings":
        """Returns these settings on the first page without any filter."""
        return replace(self, typed="", first="", last="", chosen={}, numbers={}, page=1)


@dataclass
class Session:
    """State of one browser window. Events may run at the same time; only the answer of the latest is shown."""

    manifest: Manifest | None = None  # of the index that the page shows
    menus: tuple[str, ...] = ()  # columns of the menus
    ranges: tuple[str, ...] = ()  # columns of the ranges
    turn: int = 0  # number of the latest event
    source: Callable[[], Query] | None = None  # of the latest question, which may not be embedded yet
    asked: Any = None  # the latest question and settings, answered or refused
    # The shown search
    answered: Callable[[], Query] | None = None
    query: Query | None = None
    settings: Settings = field(default_factory=Settings)
    hits: list[PersonHit] = field(default_factory=list)
    record: SearchRecord | None = None
    shown: PersonHit | None = None  # the opened image
    marks: dict[str, bool] = field(default_factory=dict)  # whether a hit is right, by its name; not searched yet
    # Kept until the window is closed
    pictures: dict[str, Query] = field(default_factory=dict)  # uploaded pictures by digest, for the way back
    tray: dict[str, PersonHit] = field(default_factory=dict)  # kept hits by name

    def sent_hit(self, event: Any) -> PersonHit | None:
        """Returns the hit of the row that an event of the page has, or None for any other row."""
        row = sent(event, "row")
        return next((hit for hit in self.hits if hit.row == row and not isinstance(row, bool)), None)


def sent(event: Any, key: str) -> Any:
    """Returns a value that the page sent with an event, or None."""
    return event._data.get(key) if isinstance(event._data, dict) else None
