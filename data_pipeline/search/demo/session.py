"""State of a browser window, and the address (URL query) that restores its search."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode

from numpy.typing import NDArray

from modeling_bdam.evaluation.calibration import Kind as CalibratedKind

from ..gallery import PersonHit
from ..index.manifest import Manifest
from ..search_record import SearchRecord

RESULTS = (12, 24, 48, 96)
MOST_PAGES = 20
_LONGEST_ADDRESS = 30_000  # characters
_COLUMN = "is."  # prefix of a menu's column in an address
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


@dataclass(frozen=True)
class Settings:
    """The controls beside the query."""

    changed: float = 0  # percent by which clothes count less
    count: int = RESULTS[1]  # images on a page
    grouped: bool = False
    typed: str = ""  # filter expression
    first: str = ""  # day
    last: str = ""  # day, included
    chosen: dict[str, list[str]] = field(default_factory=dict)  # values of each menu by column
    page: int = 1

    @classmethod
    def checked(cls, values: Sequence[Any], columns: Sequence[str]) -> "Settings":
        """Validates the values that a client sent; `columns` are those of the menus. Raises `ValueError`."""
        changed, count, grouped, typed, first, last, *menus = values
        chosen = {column: list(menu) for column, menu in zip(columns, menus, strict=False) if menu}
        settings = cls(changed, count, bool(grouped), typed or "", first or "", last or "", chosen)
        return settings.validated()

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
    def filters(self) -> tuple[dict[str, list[str]], str, str, str]:
        """The filters: values of the menus by column, first day, last day, expression."""
        return self.chosen, self.first, self.last, self.typed

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
        return replace(self, typed="", first="", last="", chosen={}, page=1)


@dataclass
class Session:
    """State of one browser window. Events may run at the same time; only the answer of the latest is shown."""

    manifest: Manifest | None = None  # of the index that the page shows
    menus: tuple[str, ...] = ()  # columns of the menus
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
    # Kept until the window is closed
    pictures: dict[str, Query] = field(default_factory=dict)  # uploaded pictures by digest, for the way back
    tray: dict[str, PersonHit] = field(default_factory=dict)  # kept hits by name


def to_address(query: Query, settings: Settings) -> str:
    """Returns the URL query, such as `?q=a+man&is.camera=3`, that `from_address` reads; defaults are left out."""
    default = Settings()
    named = {
        "changed": f"{settings.changed:g}" if settings.changed else None,
        "show": settings.count if settings.count != default.count else None,
        "group": 1 if settings.grouped else None,
        "where": settings.typed.strip() or None,
        "from": settings.first or None,
        "to": settings.last or None,
        "page": settings.page if settings.page > 1 else None,
        "words": query.words or None,
    }
    pairs = [(query.kind, query.key), *((name, value) for name, value in named.items() if value is not None)]
    pairs += [(_COLUMN + column, value) for column, values in settings.chosen.items() for value in values]
    return "?" + urlencode(pairs)


def from_address(address: str) -> tuple[Kind, str, str, Settings] | None:
    """Reads an address: kind, key and words of the query, and the settings; None without a query.

    Raises `ValueError` for an address that `to_address` does not write.
    """
    if len(address) > _LONGEST_ADDRESS:
        raise ValueError(f"the address has {len(address)} characters; the limit is {_LONGEST_ADDRESS}")
    pairs = parse_qsl(address.removeprefix("?"))
    named = dict(pairs)
    chosen: dict[str, list[str]] = {}
    for name, value in pairs:
        if name.startswith(_COLUMN):
            chosen.setdefault(name.removeprefix(_COLUMN), []).append(value)
    try:
        settings = Settings(
            changed=float(named.get("changed", 0)),
            count=int(named.get("show", RESULTS[1])),
            grouped="group" in named,
            typed=named.get("where", ""),
            first=named.get("from", ""),
            last=named.get("to", ""),
            chosen=chosen,
            page=int(named.get("page", 1)),
        ).validated()
    except ValueError as error:
        raise ValueError(f"the address of this page: {error}") from None
    kinds: tuple[Kind, ...] = ("q", "like", "picture")
    words = named.get("words", "")
    return next(((kind, named[kind], words, settings) for kind in kinds if kind in named), None)
