"""SQL filters over the metadata, from untrusted users."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_pipeline.benchmarks.metadata_file import REASON
from data_pipeline.search import filter_process
from data_pipeline.search.metadata_table import MetadataTable

COLUMNS = {
    "path": ["a.jpg", "b.jpg", "it's.jpg", "d.jpg"],
    "_size": [1, 2, 3, 4],
    "camera": [1, 3, None, 3],
    "time": [datetime(2026, 4, 1), datetime(2026, 5, 2), None, datetime(2026, 4, 30, 23, 59)],
    "my column": ["x", "y", None, 'quo"te'],
}


@pytest.fixture(scope="module")
def table() -> Iterator[MetadataTable]:
    table = MetadataTable(pa.table(COLUMNS))
    yield table
    table.close()


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("camera == 3 and time > '2026-05-01'", [1]),
        ("camera = 3", [1, 3]),
        ("not camera == 3", [0]),
        ("camera is null", [2]),
        ("camera in (1, 2) or path like 'it''s%'", [0, 2]),
        ("time between '2026-04-01' and '2026-05-01'", [0, 3]),
        ("\"my column\" == 'y'", [1]),
        ("hour(time) = 23", [3]),
        ("true", [0, 1, 2, 3]),
        ("false", []),
    ],
)
def test_select_returns_matching_rows(table: MetadataTable, where: str, rows: list[int]) -> None:
    selected = table.select(where)
    assert selected.dtype == np.int64
    assert selected.tolist() == rows


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("camra == 3", "no column 'camra'; the columns are path, camera, time, my column; did you mean camera?"),
        ("camera ==", "syntax error"),
        ("time > 'yesterday'", "yesterday"),
        ("camera == 'three'", "three"),
        ("camera == 3; drop table gallery", "the filter 'camera == 3; drop table gallery': "),
        ("1) union select 1 --", "syntax error"),
        ("(select count(*) from read_csv('/etc/passwd')) > 0", "disabled"),
        ("(select content from read_text('/etc/passwd')) like '%root%'", "disabled"),
        ("path in (select * from '/etc/passwd')", "the filter"),
        ("(select count(*) from glob('/*')) > 0", "disabled"),
        ("getenv('HOME') is null", "getenv does not exist"),
        ("true; COPY gallery TO '/tmp/gallery.csv'", "is not an expression list"),
        ("max(camera) = 3", "aggregate"),
    ],
)
def test_select_refuses_sql_injection_in_one_line(table: MetadataTable, where: str, message: str) -> None:
    with pytest.raises(ValueError, match="the filter") as caught:
        table.select(where)
    assert message.lower() in str(caught.value).lower()
    assert "\n" not in str(caught.value)
    assert table.select("true").tolist() == [0, 1, 2, 3]


TEXT = {
    "badge": ["007", "12A"],
    "seen": ["05/01/2026", "06/01/2026"],
    "note": ["x", "2026-05-01"],
    "camera": [1, 2],
    "lit": [True, False],
    "my column": ["a", "b"],
    "time": [datetime(2026, 5, 1), datetime(2026, 5, 2)],
}


@pytest.fixture(scope="module")
def texts() -> Iterator[MetadataTable]:
    """A table with text columns of which one has dates, with the reason why it is text."""
    table = pa.table({"path": ["a.jpg", "b.jpg"], **TEXT})
    place = table.schema.get_field_index("seen")
    field = pa.field("seen", pa.string(), metadata={REASON: "is text: 10 of 12 values are dates; line 8 'x' is not"})
    texts = MetadataTable(table.set_column(place, field, table["seen"]))
    yield texts
    texts.close()


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("camera == 1 or 2", "2 is a number, no condition: write comparisons"),
        ("camera == 1 and (time > '2026-05-01' or 3)", "3 is a number, no condition"),
        ("camera == (1 or 2)", "camera is a number, so it cannot be compared with true, false or a condition"),
        ("true == camera", "camera is a number, so it cannot be compared with true"),
        ("camera", "camera is a number, no condition"),
        ("1/0", "(1 / 0) is a number, no condition"),
        ("not camera", "camera is a number, no condition"),
        ("camera + 1", "(camera + 1) is a number"),
        ("(camera == 1) | 2", "the filter"),
        ("case when camera == 1 then 1 else 0 end", "is a number, no condition"),
        ("badge", "badge is text, no condition"),
        ("'yes'", "'yes' is text, no condition"),
        ("time", '"time" is a time, no condition'),
        ("null", "NULL is a value, no condition"),
        ("badge == 7", "badge is text, so it cannot be compared with a number: put the number in single quotes, '7'"),
        ("7 < badge", "badge is text, so it cannot be compared with a number"),
        ("badge in ('007', 12)", "badge is text, so it cannot be compared with a number"),
        ("badge between 1 and 20", "badge is text, so it cannot be compared with a number"),
        ("lit and (camera == 1 or badge == camera)", "badge is text, so it cannot be compared with a number"),
        ("seen > '2026-05-06'", "seen is text: 10 of 12 values are dates; line 8 'x' is not, so it cannot be compared"),
        ("seen == '2026-05-06'", "seen is text: 10 of 12 values are dates"),
        ("SEEN > date '2026-05-06'", "10 of 12 values are dates"),
        ("seen between '2026-05-01' and '2026-06-01'", "10 of 12 values are dates"),
        ("seen > time", "10 of 12 values are dates"),
        ("note >= '2026-05-06'", "note is text, so it cannot be compared with a date"),
        ("note < '06.05.2026'", "note is text, so it cannot be compared with a date"),
        ('badge == "12A"', "no column '12A'"),
        ('badge == "12A"', "a text is written in single quotes: '12A'"),
        ("my column == 'a'", 'put the name of the column in double quotes: "my column"'),
        ("true) or (true", "syntax error"),
    ],
)
def test_select_refuses_filters_that_mislead(texts: MetadataTable, where: str, message: str) -> None:
    for filters in (where, [where], ["camera == 1", where]):
        with pytest.raises(ValueError, match="the filter") as caught:
            texts.select(filters)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("badge == '007'", [0]),
        ("badge like '12%' or badge is null", [1]),
        ("note == '2026-05-01'", [1]),
        ("lit", [0]),
        ("not lit and camera in (1, 2)", [1]),
        ("camera == '2'", [1]),
        ("badge > '0'", [0, 1]),
        ("try_cast(badge as integer) == 7", [0]),
        ("len(list_filter([1, 2], lambda x: x > 1 and x < 3)) == camera", [0]),
        ("camera == (select max(c) from (select 2 as c) where c > 1 and c < 3)", [1]),
        (["camera == 1 or camera == 2", "camera == 2"], [1]),
        (["camera == 1", "camera == 2"], []),
        ([], [0, 1]),
    ],
)
def test_select_joins_conditions(texts: MetadataTable, where: str | list[str], rows: list[int]) -> None:
    assert texts.select(where).tolist() == rows


@pytest.mark.parametrize("machine", ["Asia/Tokyo", "America/New_York", "UTC"])
@pytest.mark.parametrize(
    ("zone", "where", "rows"),
    [
        ("UTC", "time >= '2026-05-06'", [1, 2]),
        ("Europe/Berlin", "time >= '2026-05-06'", [0, 1, 2]),
        ("America/New_York", "time >= '2026-05-06'", [2]),
        ("America/New_York", "hour(time) = 23", [1]),
        ("Europe/Berlin", "time == '2026-05-06 00:30'", [0]),
        ("UTC", "time == '2026-05-06T00:30:00+02:00'", [0]),
    ],
)
def test_select_reads_times_in_the_zone_of_the_index(
    machine: str, zone: str, where: str, rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", machine)
    time.tzset()
    times = [datetime(2026, 5, 5, 22, 30), datetime(2026, 5, 6, 3), datetime(2026, 5, 6, 12)]
    columns = {"path": ["a", "b", "c"], "time": pa.array(times, pa.timestamp("us", "UTC"))}
    table = MetadataTable(pa.table(columns), zone)
    assert table.has_zones
    assert table.select(where).tolist() == rows
    assert str(table.rows(np.array([1]))[0]["time"].tzinfo) == zone
    table.close()
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            "(select count(*) from range(1000000000000) as numbers(n) where n % 7 = 3) > camera",
            "it took longer than 0.3",
        ),
        ("sleep_ms(60000) is null", "it took longer than 0.3 s"),
        ("len(list_sort(range(300000000))) > 0", "it needs more than 64 MiB of memory"),
        ("length(repeat(path, 200000000)) > 0", "it needs more than 64 MiB of memory"),
        ("(select list(a.range) from range(100000000) a) is null", "it needs more than 64 MiB of memory"),
        ("(" * 100_000 + "1" + ")" * 100_000, "(…': "),
        ("x" * 100_000, "xxx…"),
        (
            "exists(with recursive t as (select 1 x union all select x + 1 from t) select 1 from t where x < 0)",
            "it took longer than 0.3",
        ),
        ("levenshtein(repeat('a', 100000), repeat('b', 100000)) > 0", "it took longer than 0.3"),
        ("length((select string_agg(repeat(path, 10000000), '') from gallery)) > 0", "it needs more than 64 MiB"),
    ],
)
def test_select_limits_time_and_memory_of_a_filter(monkeypatch: pytest.MonkeyPatch, where: str, message: str) -> None:
    table = MetadataTable(pa.table(COLUMNS))
    monkeypatch.setattr(filter_process, "TIME_LIMIT", 0.3 if "0.3" in message else 10.0)
    monkeypatch.setattr(filter_process, "MEMORY_LIMIT", 64 * 2**20)
    with pytest.raises(ValueError, match="the filter") as caught:
        table.select(where)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert table.select("camera == 3").tolist() == [1, 3]
    table.close()


def test_select_serves_others_after_a_slow_filter(table: MetadataTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filter_process, "TIME_LIMIT", 0.5)
    with ThreadPoolExecutor(4) as pool:
        slow = pool.submit(table.select, "sleep_ms(60000) is null")
        found = [pool.submit(table.select, f"camera == {number % 4}") for number in range(40)]
        assert [len(future.result(timeout=10)) for future in found] == [0, 1, 0, 2] * 10
        with pytest.raises(ValueError, match="longer"):
            slow.result(timeout=10)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_filter_process_ends_with_its_parent(tmp_path: Path) -> None:
    """The parent is a script without `if __name__ == "__main__"`, killed in the middle of a filter."""
    script = tmp_path / "script.py"
    script.write_text(
        "import threading, time\n"
        "import pyarrow as pa\n"
        "from data_pipeline.search import filter_process\n"
        "filter_process.TIME_LIMIT = 0.2\n"
        "table = filter_process.FilterProcess(lambda: pa.table({'_row': [0]}).to_reader())\n"
        "table.select(['true'])\n"
        "threading.Thread(target=table.select, args=[['sleep_ms(60000) is null']], daemon=True).start()\n"
        "print(table._process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    folder = str(Path(filter_process.__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": folder}
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, 0)
        parent.send_signal(signal.SIGKILL)
    for _ in range(40):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail(f"process {child} runs on")


def test_filter_process_ends_with_its_table() -> None:
    for end in (lambda table: table.close(), lambda table: table.__dict__.clear()):
        table = MetadataTable(pa.table(COLUMNS))
        table.select("true")
        process = table._filters._process
        assert process is not None
        end(table)
        assert process.wait(5) != 0


def test_filter_process_that_cannot_start_is_an_os_error(table: MetadataTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(OSError, match="the process for filters, /bin/false, did not start"):
        MetadataTable(pa.table(COLUMNS)).select("true")


def test_rows_keeps_order_and_hides_internal_columns(table: MetadataTable) -> None:
    rows = table.rows(np.array([2, 0]))
    assert rows[0] == {"path": "it's.jpg", "camera": None, "time": None, "my column": None}
    assert rows[1]["path"] == "a.jpg"


def test_values_are_the_most_frequent_ones_sorted(table: MetadataTable) -> None:
    assert table.values("camera", 10) == [1, 3]
    assert table.values("camera", 1) == [3]
    assert table.values("my column", 10) == ['quo"te', "x", "y"]
    with pytest.raises(ValueError, match="no column 'cam'"):
        table.values("cam", 10)
