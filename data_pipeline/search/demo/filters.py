"""Filter menus of the demo, and the SQL expression that they and a typed expression form."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..gallery import PersonGallery
from ..metadata_table import quoted_column

_VALUES_PER_MENU, _MENUS, _VALUE_LENGTH = 50, 6, 40
_DISCRETE_TYPES = ("VARCHAR", "BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT")


def menus(gallery: PersonGallery) -> dict[str, list[str]]:
    """Returns the values, as text, of each column with 2 to 50 short ones, such as cameras; at most six columns."""
    found: dict[str, list[str]] = {}
    for column, kind in gallery.columns.items():
        if kind not in _DISCRETE_TYPES or column == "path" or len(found) == _MENUS:
            continue
        values = [str(value) for value in gallery.values(column, _VALUES_PER_MENU + 1)]
        if 1 < len(values) <= _VALUES_PER_MENU and max(map(len, values)) <= _VALUE_LENGTH:
            found[column] = values
    return found


def time_column(gallery: PersonGallery) -> str | None:
    """Returns the first column of timestamps or dates, or None."""
    return next((name for name, kind in gallery.columns.items() if kind.startswith(("TIMESTAMP", "DATE"))), None)


def expression(chosen: Mapping[str, Sequence[Any]], column: str | None, first: Any, last: Any, typed: str) -> str:
    """Builds the expression for `where`; "" without any filter.

    Values and column names are quoted, so that a value cannot become a part of the expression (SQL injection).

    Args:
        chosen: the chosen values of each menu by column; no value means no filter.
        column: the time column, which `first` and `last` bound; either bound may be empty.
        typed: an expression that the user typed.
    """
    parts = [
        f"CAST({quoted_column(menu)} AS VARCHAR) IN ({', '.join(map(_quoted, values))})"
        for menu, values in chosen.items()
        if values
    ]
    if column is not None:
        bounds = ((">=", first), ("<=", last))
        parts += [f"{quoted_column(column)} {sign} {_quoted(bound)}" for sign, bound in bounds if bound]
    if typed.strip():
        parts.append(f"({typed})" if parts else typed)
    return " AND ".join(parts)


def _quoted(value: Any) -> str:
    return "'" + str(value).replace("'", "''") + "'"
