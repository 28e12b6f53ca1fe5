"""Filters of the demo: menus of frequent values, ranges of numbers and times, and the SQL conditions that they form."""

import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

from ..gallery import PersonGallery
from ..metadata_table import quoted_column, quoted_value

MENUS, RANGES = 12, 8
_VALUES_PER_MENU, _VALUE_LENGTH = 50, 40
_NUMBERS_PER_MENU = 12  # a column with more numbers has a range, unless it is one of ids
_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT")
_FRACTIONS = ("FLOAT", "DOUBLE", "DECIMAL")
_DISCRETE_TYPES = ("VARCHAR", "BOOLEAN", *_NUMBERS)
_TIMES = ("TIMESTAMP", "DATE")

Range = tuple[float | None, float | None]


def menus(gallery: PersonGallery) -> dict[str, list[str]]:
    """Returns the values, as text, of each column or attribute with a few short ones, such as cameras."""
    found: dict[str, list[str]] = {}
    for column, kind in [*gallery.columns.items(), *((name, "VARCHAR") for name in gallery.fields)]:
        if kind not in _DISCRETE_TYPES or column == "path" or len(found) == MENUS:
            continue
        most = _NUMBERS_PER_MENU if kind in _NUMBERS and not column.endswith("id") else _VALUES_PER_MENU
        values = [str(value) for value in gallery.values(column, most + 1)]
        if 1 < len(values) <= most and max(map(len, values)) <= _VALUE_LENGTH:
            found[column] = values
    return found


def ranges(gallery: PersonGallery, listed: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns the smallest and largest number of each column of several numbers that has no menu (`listed`)."""
    found: dict[str, tuple[Any, Any]] = {}
    for column, kind in gallery.columns.items():
        if kind.startswith((*_NUMBERS, *_FRACTIONS)) and "[" not in kind and column not in listed:
            low, high = gallery.bounds(column)
            if low != high and len(found) < RANGES:
                found[column] = low, high
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


def conditions(
    gallery: PersonGallery,
    chosen: Mapping[str, Sequence[str]],
    numbers: Mapping[str, Range],
    first: str,
    last: str,
    typed: str,
) -> list[str]:
    """Returns the conditions that the controls form, each a separate SQL expression; all of them must hold.

    Values and column names are quoted, so that a value cannot become a part of the expression (SQL injection).

    Args:
        gallery: gives the time column, which `first` and `last` bound, and the attributes.
        chosen: the chosen values of each menu by column; no value means no filter.
        numbers: lower and upper bound by column, both included; None for no bound.
        first: first day, YYYY-MM-DD, or first minute, YYYY-MM-DDTHH:MM, or "".
        last: last day or minute, which is included, or "".
        typed: an expression that the user typed, or "".

    Raises:
        ValueError: a bound is no date, or a lower bound is above the upper one.
    """
    fields = gallery.fields if chosen else {}
    found = [
        f"CAST({fields.get(menu) or quoted_column(menu)} AS VARCHAR) IN ({', '.join(map(quoted_value, values))})"
        for menu, values in chosen.items()
        if values
    ]
    for name, (low, high) in numbers.items():
        if low is not None and high is not None and low > high:
            raise ValueError(f"{name}: the lower bound, {low:g}, is above the upper one, {high:g}: exchange them")
        bounds = ((">=", low), ("<=", high))
        found += [f"{quoted_column(name)} {sign} {bound!r}" for sign, bound in bounds if bound is not None]
    column, start, end = time_column(gallery), _moment(first), _moment(last)
    if start and end and start[0] > end[0]:
        raise ValueError(f"the first time, {first}, is after the last one, {last}: exchange them")
    if column is not None and start:
        found.append(f"{quoted_column(column)} >= {_literal(start[0])}")
    if column is not None and end:
        found.append(f"{quoted_column(column)} < {_literal(end[1])}")
    return [*found, *([typed.strip()] if typed.strip() else [])]


def in_words(
    time: str, chosen: Mapping[str, Sequence[str]], numbers: Mapping[str, Range], first: str, last: str, typed: str
) -> list[str]:
    """Returns one short text for each active filter; arguments as `conditions`, with the label of the time column."""
    found = [f"{menu}: {', '.join(values)}" for menu, values in chosen.items() if values]
    bounds = {name: [("from", low), ("to", high)] for name, (low, high) in numbers.items()}
    if time:
        bounds[time] = [("from", first.replace("T", " ") or None), ("to", last.replace("T", " ") or None)]  # type: ignore[list-item]
    for name, pair in bounds.items():
        words = " ".join(f"{word} {bound}" for word, bound in pair if bound is not None)
        found += [f"{name} {words}"] if words else []
    return [*found, *([typed.strip()] if typed.strip() else [])]


def to_range(column: str, text: Any) -> Range:
    """Reads the bounds of a column, such as `3..20.5` or `3..`; raises `ValueError` for another text."""
    low, dots, high = text.partition("..") if isinstance(text, str) else ("", "", "")
    try:
        if dots:
            return _number(low), _number(high)
    except ValueError:
        pass
    raise ValueError(f"{column}: a bound must be a number such as 3 or 20.5")


def range_in_text(bounds: Range | None) -> str:
    """Returns the text that `to_range` reads; "" for None."""
    return "" if bounds is None else "..".join("" if bound is None else f"{bound}" for bound in bounds)


def _number(text: str) -> float | None:
    value = float(text or 0)
    if not math.isfinite(value):
        raise ValueError(text)
    return None if not text else int(value) if value.is_integer() else value


def _moment(text: str) -> tuple[datetime, datetime] | None:
    """Returns the start of a day or minute, and that of the next one; None for ""."""
    for form, length in (("%Y-%m-%d", timedelta(days=1)), ("%Y-%m-%dT%H:%M", timedelta(minutes=1))):
        try:
            start = datetime.strptime(text, form)
            return start, start + length
        except (ValueError, OverflowError):
            pass
    if text:
        raise ValueError(f"{text[:40]!r} is not a day such as 2026-05-31, or a minute such as 2026-05-31T18:30")
    return None


def _literal(moment: datetime) -> str:
    """Returns a moment in SQL, a whole day as a date."""
    return f"DATE '{moment:%Y-%m-%d}'" if moment.time() == datetime.min.time() else f"TIMESTAMP '{moment}'"
