"""Finds the one type of a text column: whole or decimal numbers, booleans, dates, timestamps, or text."""

import re
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

_WHOLE = r"-?[1-9]\d*|0"  # not 007, which is a name
_DECIMAL = r"-?(0|[1-9]\d{0,14})(\.\d{1,15})?"  # no 4E4, which is a name
_PYTHON_FLOAT = r"-?\d(\.\d+)?e[+-]\d{2,3}"  # of Python and pandas, for large and small numbers
_LOOKS_LIKE_DATE = (
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([T ].*)?|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d\d)([T ,].*)?|\d{8}T\d{4,6}Z?"
    r"|(\d{1,2}\.? )?(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.? \d{1,2}(, ?| )\d{2,4}.*"
    r"|\d{1,2}[-. ](?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?[-. ]\d{2,4}.*"
)
_ISO_TYPES = (
    *(pa.date32(), pa.timestamp("s"), pa.timestamp("us"), pa.timestamp("ns")),
    *(pa.timestamp(unit, "UTC") for unit in ("s", "us", "ns")),  # cells with a time zone
)
_SAMPLE = 100  # cells in which to look for forms of dates
_NO_DATE = "is text, since {cell} is no valid date: write dates like 2026-12-31"
# Dots separate day, month and year in one order; slashes and hyphens separate them in two.
_ORDERS = {
    ".": ("%d.%m.%Y", "%Y.%m.%d"),
    "/": ("%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d"),
    "-": ("%d-%m-%Y", "%m-%d-%Y", "%Y-%m-%d"),
}
_WORDS = ("%d %B %Y", "%d %b %Y", "%d-%b-%Y", "%d. %B %Y", "%B %d, %Y", "%b %d, %Y", "%B %d %Y", "%b %d %Y")
_CLOCKS = (
    *("", " %I:%M %p", " %I:%M:%S %p", "T%H:%M:%S%z", " %H:%M%z", " %H:%M:%S%z"),
    *(gap + clock for gap in (" ", "T", ", ") for clock in ("%H:%M", "%H:%M:%S", "%H:%M:%S.%f")),
)


@dataclass(frozen=True)
class ColumnType:
    """A typed column.

    Attributes:
        column: the values.
        reason: why the column is text although most of its values are numbers or dates, or ""; `{cell}` is the cell in
            `row`.
        row: row of the first cell that differs from the others, or None.
        is_date: whether the other values are dates.
    """

    column: pa.ChunkedArray | pa.Array
    reason: str = ""
    row: int | None = None
    is_date: bool = False


def typed_column(cells: pa.ChunkedArray, numbers: bool = True) -> ColumnType:
    """Finds the type that all cells of a string column have.

    A column is one of numbers only if each number is written as it would be shown: identifiers such as 007, 4E4, 1.10
    or one of more than 64 bits would otherwise change. Decimal numbers with the same count of decimal places become
    an exact decimal type. National dates become dates if exactly one order of day, month and year is possible for the
    whole column.

    Args:
        cells: strings; missing cells are null.
        numbers: whether to look for numbers and booleans; not in a format that has its own.
    """
    trimmed = pc.utf8_trim_whitespace(cells)
    if cells.null_count == len(cells):
        return ColumnType(cells)
    if numbers:
        if _all_match(trimmed, "(?i)true|false"):
            return ColumnType(trimmed.cast(pa.bool_()))
        if (typed := _numbers(trimmed)) is not None:
            return ColumnType(typed)
    dated = _match(trimmed, _LOOKS_LIKE_DATE)
    if pc.all(dated).as_py():
        return _dates(cells, trimmed)
    return _almost(cells, trimmed, dated, numbers)


def _numbers(cells: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Returns the cells as numbers if each of them round-trips to the same text, else None."""
    try:
        if _all_match(cells, _WHOLE):
            return cells.cast(pa.int64())
        if not _all_match(cells, f"{_DECIMAL}|{_PYTHON_FLOAT}"):
            return None
        known = cells.drop_null().unique().to_pylist()
        if all(repr(float(cell)) in (cell, f"{cell}.0") for cell in known):
            return cells.cast(pa.float64())
        places = {len(cell.partition(".")[2]) for cell in known}
        has_minus_zero = any(cell.startswith("-") and float(cell) == 0 for cell in known)
        if len(places) == 1 and not has_minus_zero and _all_match(cells, _DECIMAL):
            digits = max(len(cell.lstrip("-").replace(".", "")) for cell in known)
            return cells.cast(pa.decimal128(digits, places.pop()))
    except pa.ArrowInvalid:  # more than 64 bits
        pass
    return None


def _all_match(cells: pa.ChunkedArray, pattern: str) -> bool:
    return bool(pc.all(_match(cells, pattern)).as_py())  # ignores nulls


def _match(cells: pa.ChunkedArray, pattern: str) -> pa.ChunkedArray:
    return pc.match_substring_regex(cells, f"^({pattern})$")


def _dates(cells: pa.ChunkedArray, trimmed: pa.ChunkedArray) -> ColumnType:
    # ISO 8601
    for kind in _ISO_TYPES:
        try:
            return ColumnType(trimmed.cast(kind))
        except pa.ArrowInvalid:
            continue

    # National forms: parsed in each order
    distinct = trimmed.drop_null().unique().to_pylist()
    readings: list[dict[str, datetime]] = []
    kind = pa.date32()
    for form in _forms(distinct[0]):
        try:
            reading = {cell: datetime.strptime(cell, form) for cell in distinct}
        except ValueError:
            continue
        kind = pa.timestamp("us") if "%M" in form else kind
        if reading not in readings:
            readings.append(reading)
    if len(readings) == 1:
        times = pa.array(map(readings[0].get, trimmed.to_pylist()), pa.timestamp("us"))
        return ColumnType(times.cast(kind))
    if readings:
        reason = "is text, since day and month of {cell} are ambiguous: write dates like 2026-12-31"
        return ColumnType(cells, reason, trimmed.to_pylist().index(distinct[0]), is_date=True)
    return _no_common_form(cells, trimmed.to_pylist(), distinct)


def _no_common_form(cells: pa.ChunkedArray, values: list[str | None], distinct: list[str]) -> ColumnType:
    """Names the first cell that differs in form from most."""
    forms = {form for cell in distinct[:_SAMPLE] for form in _forms(cell) if _parses(cell, form)}
    fitting = [{cell for cell in distinct if _parses(cell, form)} for form in forms]
    best = max(fitting, key=lambda fit: (len(fit), distinct[0] in fit), default=set())
    if not best:
        return ColumnType(cells, _NO_DATE, values.index(distinct[0]), is_date=True)
    row, count = next(row for row, value in enumerate(values) if value is not None and value not in best), len(values)
    reason = f"is text: {sum(value in best for value in values)} of {count - values.count(None)} values are dates"
    return ColumnType(cells, f"{reason} of one form; {{cell}} is not: write dates like 2026-12-31", row, is_date=True)


def _forms(cell: str) -> list[str]:
    """Returns the forms that a date may have, for `strptime`."""
    numeric = re.match(r"\d+([-/.])\d", cell)
    return [day + clock for day in (_ORDERS[numeric[1]] if numeric else _WORDS) for clock in _CLOCKS]


def _parses(cell: str, form: str) -> bool:
    try:
        datetime.strptime(cell, form)
    except ValueError:
        return False
    return True


def _almost(cells: pa.ChunkedArray, trimmed: pa.ChunkedArray, dated: pa.ChunkedArray, numbers: bool) -> ColumnType:
    """Explains a column that is text because of a few cells, such as NA."""
    kinds = {"dates": dated}
    if numbers:
        kinds["numbers"] = _match(trimmed, r"[+-]?[\d.,]+([eE][+-]?\d+)?")
    count = len(cells) - cells.null_count
    for name, matches in kinds.items():
        found = pc.sum(matches).as_py() or 0
        if count / 2 <= found < count and (found > count / 2 or name == "dates"):
            reason = f"is text: {found} of {count} values are {name}; {{cell}} is not: leave unknown cells empty"
            return ColumnType(cells, reason, matches.to_pylist().index(False), is_date=name == "dates")
    return ColumnType(cells)
