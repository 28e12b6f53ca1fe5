"""Filters of the demo: menus of frequent values, a time range, and the SQL conditions that the controls form."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta

from ..gallery import PersonGallery
from ..metadata_table import quoted_column, quoted_value

MENUS = 6
_VALUES_PER_MENU, _VALUE_LENGTH = 50, 40
_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT")
_DISCRETE_TYPES = ("VARCHAR", "BOOLEAN", *_NUMBERS)
_TIMES = ("TIMESTAMP", "DATE")


def menus(gallery: PersonGallery) -> dict[str, list[str]]:
    """Returns the values, as text, of each column with 2 to 50 short ones, such as cameras; at most six columns."""
    found: dict[str, list[str]] = {}
    for column, kind in gallery.columns.items():
        if kind not in _DISCRETE_TYPES or column == "path" or len(found) == MENUS:
            continue
        values = [str(value) for value in gallery.values(column, _VALUES_PER_MENU + 1)]
        if 1 < len(values) <= _VALUES_PER_MENU and max(map(len, values)) <= _VALUE_LENGTH:
            found[column] = values
    return found


def time_column(gallery: PersonGallery) -> str | None:
    """Returns the first column of timestamps or dates, or None."""
    return next((name for name, kind in gallery.columns.items() if kind.startswith(_TIMES)), None)


def time_label(gallery: PersonGallery) -> str:
    """Returns the name of the time column, with the time zone if its times have offsets; "" without one."""
    zone = f" ({gallery.time_zone})" if gallery.has_zones else ""
    return f"{time_column(gallery) or ''}{zone}"


def card_columns(gallery: PersonGallery) -> list[str]:
    """Returns the columns that each card shows in full: cameras and times, by name or type."""
    return [
        name
        for name, kind in gallery.columns.items()
        if name.lower().startswith("cam") or kind.startswith(_TIMES) or name.lower() in ("time", "date", "timestamp")
    ]


def example(gallery: PersonGallery) -> str:
    """Returns a valid filter over the index's own columns, which at least one image matches; "" without metadata."""
    parts: list[str] = []
    for column, kind in gallery.columns.items():
        values = (
            [] if column == "path" or not kind.startswith((*_DISCRETE_TYPES, *_TIMES)) else gallery.values(column, 1)
        )
        if not values or len(str(values[0])) > _VALUE_LENGTH or len(parts) == 2:
            continue
        name = column if column.isidentifier() and column.islower() else quoted_column(column)
        if isinstance(values[0], date | datetime):
            parts.append(f"{name} >= '{values[0]:%Y-%m-%d}'")
        else:
            parts.append(f"{name} == {values[0] if kind in _NUMBERS else quoted_value(values[0])}")
    return " or ".join(parts)


def conditions(column: str | None, chosen: Mapping[str, Sequence[str]], first: str, last: str, typed: str) -> list[str]:
    """Returns the conditions that the controls form, each a separate SQL expression; all of them must hold.

    Values and column names are quoted, so that a value cannot become a part of the expression (SQL injection).

    Args:
        column: the time column, which `first` and `last` bound.
        chosen: the chosen values of each menu by column; no value means no filter.
        first: first day, YYYY-MM-DD, or "".
        last: last day, which is included, or "".
        typed: an expression that the user typed, or "".

    Raises:
        ValueError: a bound is no date, or the first day is after the last.
    """
    found = [
        f"CAST({quoted_column(menu)} AS VARCHAR) IN ({', '.join(map(quoted_value, values))})"
        for menu, values in chosen.items()
        if values
    ]
    days = [None if not day else _day(day) for day in (first, last)]
    if days[0] and days[1] and days[0] > days[1]:
        raise ValueError(f"the first day, {first}, is after the last day, {last}: exchange them")
    if column is not None and days[0]:
        found.append(f"{quoted_column(column)} >= DATE '{days[0]}'")
    if column is not None and days[1]:
        found.append(f"{quoted_column(column)} < DATE '{days[1] + timedelta(days=1)}'")
    return [*found, *([typed.strip()] if typed.strip() else [])]


def in_words(time: str, chosen: Mapping[str, Sequence[str]], first: str, last: str, typed: str) -> list[str]:
    """Returns one short text for each active filter; arguments as `conditions`, with the label of the time column."""
    found = [f"{menu}: {', '.join(values)}" for menu, values in chosen.items() if values]
    bounds = [f"{word} {day}" for word, day in (("from", first), ("to", last)) if day]
    found += [f"{time} {' '.join(bounds)}"] if time and bounds else []
    return [*found, *([typed.strip()] if typed.strip() else [])]


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is not a day such as 2026-05-31") from None
