"""The type of a text column in a user's metadata."""

from datetime import date, datetime, timezone
from typing import Any

import pyarrow as pa
import pytest

from data_pipeline.benchmarks.column_types import typed_column


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["7", None, " -12 ", "0"], [7, None, -12, 0]),
        (["7", ".5", "-1.25e-3", "2."], [7.0, 0.5, -0.00125, 2.0]),
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
        (["05.05.2025", "06.06.2025"], [date(2025, 5, 5), date(2025, 6, 6)]),  # the same in both orders
    ],
)
def test_typed_column_finds_numbers_and_dates(cells: list[str | None], values: list[Any]) -> None:
    typed, note = typed_column(pa.chunked_array([cells[:1], cells[1:]], pa.string()))
    assert (typed.to_pylist(), note) == (values, "")
    assert set(map(type, typed.to_pylist())) == set(map(type, values))


@pytest.mark.parametrize(
    ("cells", "note"),
    [
        (["007", "8"], ""),
        (["1", "01"], ""),
        (["00.5", "1"], ""),
        (["-01"], ""),
        (["+49170"], ""),
        (["12345678901234567890", "1"], ""),
        (["12345678901234567890", "1.5"], ""),
        (["1e999"], ""),
        (["1,5", "2,5"], ""),
        (["0x1F"], ""),
        (["1_000"], ""),
        (["٣"], ""),
        (["NA"], ""),
        (["nan", "inf"], ""),
        (["true", "1"], ""),
        (["192.168.0.1"], ""),
        (["10:30", "11:00"], ""),
        ([None, None], ""),
        (["1", "2", "NA"], "is text, since 'NA' is no number: leave a cell empty if its value is unknown"),
        (["05.06.2025", "07.06.2025"], "day and month are ambiguous, such as '05.06.2025': write dates like"),
        (["31/12/2025", "12/31/2025"], "its dates have no common, valid form"),
        (["31.12.2025", "2026-01-01"], "its dates have no common, valid form"),
        (["31.12.25"], "its dates have no common, valid form"),
        (["2026-02-30"], "its dates have no common, valid form"),
        (["2026-05-01 10:00Z", "2026-05-01 10:00"], "its dates have no common, valid form"),
    ],
)
def test_typed_column_keeps_text(cells: list[str | None], note: str) -> None:
    typed, found = typed_column(pa.chunked_array([cells], pa.string()))
    assert typed.to_pylist() == cells
    assert note in found
    assert bool(note) == bool(found)


def test_typed_column_keeps_digits_of_typed_formats() -> None:
    assert typed_column(pa.chunked_array([["12"]]), numbers=False)[0].to_pylist() == ["12"]
    assert typed_column(pa.chunked_array([["2026-05-01"]]), numbers=False)[0].to_pylist() == [date(2026, 5, 1)]
