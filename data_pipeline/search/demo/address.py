"""The address (URL query) that restores a search."""

from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

from .filters import range_in_text, to_range
from .session import RESULTS, Kind, Query, Settings

_LONGEST_ADDRESS = 30_000  # characters
_IS, _BETWEEN = "is.", "between."  # prefixes of the columns of menus and ranges


class Asked(NamedTuple):
    """The search of an address: kind, key and words of the query, names of marked images, and the settings."""

    kind: Kind
    key: str
    words: str
    right: list[str]
    wrong: list[str]
    settings: Settings


def to_address(query: Query, settings: Settings) -> str:
    """Returns the URL query, such as `?q=a+man&is.camera=3`, that `from_address` reads; defaults are left out."""
    default = Settings()
    named = {
        "changed": f"{settings.changed:g}" if settings.changed else None,
        "show": settings.count if settings.count != default.count else None,
        "group": 1 if settings.grouped else None,
        "detail": 1 if settings.in_detail else None,
        "where": settings.typed.strip() or None,
        "from": settings.first or None,
        "to": settings.last or None,
        "page": settings.page if settings.page > 1 else None,
        "words": query.words or None,
    }
    pairs = [(query.kind, query.key), *((name, value) for name, value in named.items() if value is not None)]
    pairs += [("right", name) for name in query.right] + [("wrong", name) for name in query.wrong]
    pairs += [(_IS + column, value) for column, values in settings.chosen.items() for value in values]
    pairs += [(_BETWEEN + column, range_in_text(bounds)) for column, bounds in settings.numbers.items()]
    return "?" + urlencode(pairs)


def from_address(address: str) -> Asked | None:
    """Reads an address; None without a query.

    Raises `ValueError` for an address that `to_address` does not write.
    """
    if len(address) > _LONGEST_ADDRESS:
        raise ValueError(f"the address has {len(address)} characters; the limit is {_LONGEST_ADDRESS}")
    pairs = parse_qsl(address.removeprefix("?"))
    named = dict(pairs)
    try:
        settings = Settings(
            changed=float(named.get("changed", 0)),
            count=int(named.get("show", RESULTS[1])),
            grouped="group" in named,
            in_detail="detail" in named,
            typed=named.get("where", ""),
            first=named.get("from", ""),
            last=named.get("to", ""),
            chosen=_by_column(pairs, _IS),
            numbers={name: to_range(name, texts[-1]) for name, texts in _by_column(pairs, _BETWEEN).items()},
            page=int(named.get("page", 1)),
        ).validated()
    except ValueError as error:
        raise ValueError(f"the address of this page: {error}") from None
    kinds: tuple[Kind, ...] = ("q", "like", "picture")
    right, wrong = ([value for name, value in pairs if name == mark] for mark in ("right", "wrong"))
    words = named.get("words", "")
    return next((Asked(kind, named[kind], words, right, wrong, settings) for kind in kinds if kind in named), None)


def _by_column(pairs: Sequence[tuple[str, str]], prefix: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        if name.startswith(prefix):
            found.setdefault(name.removeprefix(prefix), []).append(value)
    return found
