"""The demo's menus of filters, and the expression that they and a typed one make."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..gallery import PersonGallery

_VALUES_OF_A_MENU, _MENUS, _LENGTH_OF_A_VALUE = 50, 6, 40
_COUNTABLE = ("VARCHAR", "BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT")


@dataclass(frozen=True)
class Menu:
    """A column of few values, and these as text."""

    column: str
    values: list[str]


def menus(gallery: PersonGallery) -> list[Menu]:
    """A menu for each column of few and short values, such as cameras; columns of one value tell nothing."""
    found: list[Menu] = []
    for column, kind in gallery.columns.items():
        if kind not in _COUNTABLE or column == "path" or len(found) == _MENUS:
            continue
        values = [str(value) for value in gallery.values(column, _VALUES_OF_A_MENU + 1)]
        if 1 < len(values) <= _VALUES_OF_A_MENU and max(map(len, values)) <= _LENGTH_OF_A_VALUE:
            found.append(Menu(column, values))
    return found


def time_column(gallery: PersonGallery) -> str | None:
    """The first column of times or dates, if there is one."""
    return next((name for name, kind in gallery.columns.items() if kind.startswith(("TIMESTAMP", "DATE"))), None)


def expression(chosen: Mapping[str, Sequence[Any]], column: str | None, first: Any, last: Any, typed: str) -> str:
    """An expression for `where`; empty if nothing is filtered.

    Args:
        chosen: by column, the values of a menu that were chosen; none chosen means any.
        column: that `first` and `last` are bounds of, either of which may be empty.
        typed: an expression in the user's own words.
    """
    parts = [
        f"CAST({_name(menu)} AS VARCHAR) IN ({', '.join(map(_text, values))})"
        for menu, values in chosen.items()
        if values
    ]
    if column is not None:
        parts += [f"{_name(column)} {sign} {_text(bound)}" for sign, bound in ((">=", first), ("<=", last)) if bound]
    if typed.strip():
        parts.append(f"({typed})" if parts else typed)
    return " AND ".join(parts)


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def _text(value: Any) -> str:
    return "'" + str(value).replace("'", "''") + "'"
