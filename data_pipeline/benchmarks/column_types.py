"""Finds the one type of a text column: whole or decimal numbers, booleans, dates, timestamps, or text."""

from datetime import datetime
from itertools import product

import pyarrow as pa
import pyarrow.compute as pc

_WHOLE = r"-?[1-9]\d*|0"  # not 007, which is a name
_DECIMAL = r"-?((0|[1-9]\d{0,14})(\.\d*)?|\.\d+)([eE][+-]?[12]?\d?\d)?"  # up to 15 digits are exact in float64
_LOOKS_LIKE_DATE = r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([T ].*)?|\d{1,2}([-/.])\d{1,2}[-/.](\d{4}|\d\d)( .*)?"
_ISO_TYPES = (
    *(pa.date32(), pa.timestamp("s"), pa.timestamp("us"), pa.timestamp("ns")),
    *(pa.timestamp(unit, "UTC") for unit in ("s", "us", "ns")),  # cells with a time zone
)
_ORDERS = ("%d{0}%m{0}%Y", "%m{0}%d{0}%Y", "%Y{0}%m{0}%d")
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")


def typed_column(cells: pa.ChunkedArray, numbers: bool = True) -> tuple[pa.ChunkedArray | pa.Array, str]:
    """Returns a string column in the type that all its cells have, and a note for the user, or "".

    Text that differs from the number in it stays text, such as an identifier with a leading zero or of more than 64
    bits. National dates become dates if exactly one order of day, month and year is possible for the whole column.

    Args:
        cells: strings; missing cells are null.
        numbers: whether to look for numbers and booleans; not in a format that has its own.
    """
    trimmed = pc.utf8_trim_whitespace(cells)
    if cells.null_count == len(cells):
        return cells, ""
    if numbers:
        for pattern, kind in ((_WHOLE, pa.int64()), (_DECIMAL, pa.float64()), ("(?i)true|false", pa.bool_())):
            if _all_match(trimmed, pattern):
                try:
                    return trimmed.cast(kind), ""
                except pa.ArrowInvalid:  # more than 64 bits
                    return cells, ""
    if _all_match(trimmed, _LOOKS_LIKE_DATE):
        return _dates(cells, trimmed)
    return cells, _almost_numbers(trimmed) if numbers else ""


def _all_match(cells: pa.ChunkedArray, pattern: str) -> bool:
    return bool(pc.all(_match(cells, pattern)).as_py())  # ignores nulls


def _match(cells: pa.ChunkedArray, pattern: str) -> pa.ChunkedArray:
    return pc.match_substring_regex(cells, f"^({pattern})$")


def _dates(cells: pa.ChunkedArray, trimmed: pa.ChunkedArray) -> tuple[pa.ChunkedArray | pa.Array, str]:
    # ISO 8601
    for kind in _ISO_TYPES:
        try:
            return trimmed.cast(kind), ""
        except pa.ArrowInvalid:
            continue

    # National forms: parsed in each order
    distinct = trimmed.drop_null().unique().to_pylist()
    separator = next(character for character in distinct[0] if character in "-/.")
    readings: list[dict[str, datetime]] = []
    kind = pa.date32()
    for order, clock in product(_ORDERS, _CLOCKS):
        try:
            reading = {cell: datetime.strptime(cell, order.format(separator) + clock) for cell in distinct}
        except ValueError:
            continue
        kind = pa.timestamp("us") if clock else kind
        if reading not in readings:
            readings.append(reading)
    if len(readings) == 1:
        return pa.array(map(readings[0].get, trimmed.to_pylist()), pa.timestamp("us")).cast(kind), ""
    reason = "day and month are ambiguous" if readings else "its dates have no common, valid form"
    return cells, f"is text, since {reason}, such as {distinct[0]!r}: write dates like 2026-12-31"


def _almost_numbers(cells: pa.ChunkedArray) -> str:
    """Returns a note on a column that is text because of a few words, such as NA."""
    known = cells.drop_null()
    words = known.filter(pc.invert(_match(known, r"[+-]?[\d.,]+([eE][+-]?\d+)?")))
    if not 0 < len(words) < len(known) / 2:
        return ""
    return f"is text, since {words[0].as_py()!r} is no number: leave a cell empty if its value is unknown"
