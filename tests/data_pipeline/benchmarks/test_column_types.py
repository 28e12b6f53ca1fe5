"""The type of a text column in a user's metadata."""

from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from data_pipeline.benchmarks.column_types import typed_column


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["7", None, " -12 ", "0"], [7, None, -12, 0]),
        (["7", "0.5", "-0.00125", "2.0", "1e-07", "1e+20"], [7.0, 0.5, -0.00125, 2.0, 1e-7, 1e20]),
        (["1.80", "-12.75", "0.00"], [Decimal("1.80"), Decimal("-12.75"), Decimal("0.00")]),
        (["true", "FALSE", None], [True, False, None]),
        (["2026-05-01", None], [date(2026, 5, 1), None]),
        (["2026-05-01T10:00", "2026-05-02 11:30:15"], [datetime(2026, 5, 1, 10), datetime(2026, 5, 2, 11, 30, 15)]),
        (["2026-05-01", "2026-05-01T10:00:00.25"], [datetime(2026, 5, 1), datetime(2026, 5, 1, 10, 0, 0, 250000)]),
        (
            ["2026-05-01T10:00:00Z", "2026-05-01T10:00:00+02:00"],
            [datetime(2026, 5, 1, hour, tzinfo=timezone.utc) for hour in (10, 8)],
        ),
        (["31.12.2025", "1.2.2025"], [date(2025, 12, 31), date(2025, 2, 1)]),
        (["12/31/2025", None, "01/02/2025"], [date(2025, 12, 31), None, date(2025, 1, 2)]),
        (["31-12-2025 9:05", "01-02-2025 10:00"], [datetime(2025, 12, 31, 9, 5), datetime(2025, 2, 1, 10)]),
        (["12/31/2025 2:30 PM"], [datetime(2025, 12, 31, 14, 30)]),
        (["2025/1/31", "2025/02/01"], [date(2025, 1, 31), date(2025, 2, 1)]),
        (["01.05.2026", "06.05.2026"], [date(2026, 5, 1), date(2026, 5, 6)]),  # dots: day first
        (["1 May 2026", "12 October 2026"], [date(2026, 5, 1), date(2026, 10, 12)]),
        (["May 1, 2026", "Oct 12, 2026"], [date(2026, 5, 1), date(2026, 10, 12)]),
        (["01.05.2026, 10:30", "2.5.2026, 9:05"], [datetime(2026, 5, 1, 10, 30), datetime(2026, 5, 2, 9, 5)]),
        (["05/05/2025", "06/06/2025"], [date(2025, 5, 5), date(2025, 6, 6)]),  # the same in both orders
    ],
)
def test_typed_column_finds_numbers_and_dates(cells: list[str | None], values: list[Any]) -> None:
    typed = typed_column(pa.chunked_array([cells[:1], cells[1:]], pa.string()))
    assert (typed.column.to_pylist(), typed.reason) == (values, "")
    assert set(map(type, typed.column.to_pylist())) == set(map(type, values))


@pytest.mark.parametrize(
    "cells",
    [
        *(["007", "8"], ["1", "01"], ["00.5", "1"], ["-01"], ["+49170"], ["0002"], ["0x1F"], ["1_000"], ["٣"]),
        *(["004E4", "12"], ["4E4", "5"], ["1e5"], ["1.5e3", "2.5"], ["2.", "7"], [".5", "7"], ["1.10", "1.2"]),
        *(["123456789012345678901"], ["12345678901234567890", "1.5"], ["0.1234567890123456789"], ["-0.00", "1.50"]),
        *(["1e999"], ["1,5", "2,5"], ["NA"], ["nan", "inf"], ["true", "1"], ["192.168.0.1"], ["10:30", "11:00"]),
        *([None, None], ["1.2.3"], ["12-34"], ["1/2"]),
    ],
)
def test_typed_column_keeps_values_that_would_change(cells: list[str | None]) -> None:
    typed = typed_column(pa.chunked_array([cells], pa.string()))
    assert (typed.column.to_pylist(), typed.reason) == (cells, "")


NO_FORM = "dates of one form; {cell} is not: write dates like 2026-12-31"


@pytest.mark.parametrize(
    ("cells", "reason", "odd"),
    [
        (["1", "2", "NA"], "2 of 3 values are numbers; {cell} is not: leave unknown cells empty", "NA"),
        (["2026-05-01"] * 10 + ["unknown", None], "10 of 11 values are dates; {cell} is not", "unknown"),
        (["2026-05-01"] * 10 + ["May 1 2026", "2026-05-02"], f"11 of 12 values are {NO_FORM}", "May 1 2026"),
        (["May 1 2026", "2026-05-01", "2026-05-02"], f"2 of 3 values are {NO_FORM}", "May 1 2026"),
        (["31.12.2025", "30.12.2025", "2026-01-01"], f"2 of 3 values are {NO_FORM}", "2026-01-01"),
        (["31/12/2025", "12/31/2025"], f"1 of 2 values are {NO_FORM}", "12/31/2025"),
        (["2026-05-01 10:00Z", "2026-05-01 10:00"], f"1 of 2 values are {NO_FORM}", "2026-05-01 10:00"),
        (["05/01/2026", "07/06/2026"], "day and month of {cell} are ambiguous: write dates like", "05/01/2026"),
        (["05-06-2025"], "day and month of {cell} are ambiguous", "05-06-2025"),
        (["31.12.25"], "{cell} is no valid date: write dates like", "31.12.25"),
        (["2026-02-30"], "{cell} is no valid date", "2026-02-30"),
    ],
)
def test_typed_column_explains_text_that_is_almost_typed(cells: list[str | None], reason: str, odd: str) -> None:
    typed = typed_column(pa.chunked_array([cells], pa.string()))
    assert typed.column.to_pylist() == cells
    assert reason in typed.reason
    assert typed.row is not None and cells[typed.row] == odd
    assert typed.is_date == ("numbers" not in reason)


def test_typed_column_keeps_digits_of_typed_formats() -> None:
    assert typed_column(pa.chunked_array([["12"]]), numbers=False).column.to_pylist() == ["12"]
    assert typed_column(pa.chunked_array([["2026-05-01"]]), numbers=False).column.to_pylist() == [date(2026, 5, 1)]
