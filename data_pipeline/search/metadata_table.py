"""The metadata table of an index: SQL filters of duckdb, rows by number, frequent values."""

import re
import threading
from collections.abc import Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from modeling_bdam.files import did_you_mean

from ..benchmarks.metadata_file import REASON
from .filter_process import FilterProcess
from .filter_server import LOCKED, ROW

_SHOWN, _ERROR = 200, 400  # characters of a filter and of duckdb's error in an error message


class MetadataTable:
    """Metadata of the images in an in-memory database; thread-safe.

    Args:
        table: `path` and the metadata columns, in the order of the vectors; columns that begin with `_` are internal.
        time_zone: IANA name of the zone in which times with a zone are shown and compared with dates.

    Attributes:
        has_zones: whether a column has times with a zone.
    """

    def __init__(self, table: pa.Table, time_zone: str = "UTC") -> None:
        self._time_zone = time_zone
        self._source = table.append_column(ROW, _integers(np.arange(len(table))))
        self._shown = _shown(table, time_zone)
        self.has_zones = any(_zone(kept.type) is not None for kept in self._shown.schema)
        self._opening = threading.Lock()
        self._opened: duckdb.DuckDBPyConnection | None = None
        fields = {kept.name: kept.metadata or {} for kept in self._shown.schema}
        reasons = {name: kept[REASON.encode()].decode() for name, kept in fields.items() if REASON.encode() in kept}
        source = self._source  # the process must not refer to this object, which ends it
        self._filters = FilterProcess(lambda: source.to_reader(), time_zone, reasons)

    @property
    def columns(self) -> dict[str, str]:
        """The duckdb type of each public column."""
        described = self._database.cursor().execute("DESCRIBE gallery").fetchall()
        return {row[0]: row[1] for row in described if not row[0].startswith("_")}

    @property
    def fields(self) -> dict[str, str]:
        """The SQL of each text in a column of objects, by its name, such as `identity_attributes.gender`."""
        return {
            f"{kept.name}.{field.name}": f"{quoted_column(kept.name)}.{quoted_column(field.name)}"
            for kept in self._shown.schema
            if pa.types.is_struct(kept.type)
            for field in kept.type
            if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
        }

    def select(self, where: str | Sequence[str]) -> np.ndarray:
        """Returns the rows that match a filter, int64, ascending; comparisons with null do not match.

        SQL injection: each text is parsed as one expression, so that it cannot become another statement or close a
        parenthesis of another expression. It is evaluated in a child process with no access to files or the network,
        which is killed after ten seconds or 1 GiB.

        Args:
            where: SQL expression of duckdb, such as `camera == 3 and time > '2026-05-01'`, or several that must all
                hold.

        Raises:
            ValueError: an expression is invalid, no condition, compares text with a number or a date, is too slow or
                needs too much memory; the message says why, or lists the columns.
            OSError: the child process cannot be started.
        """
        expressions = [where] if isinstance(where, str) else list(where)
        try:
            return self._filters.select(expressions)
        except ValueError as error:
            shown = _cut(" AND ".join(expressions), _SHOWN)
            raise ValueError(f"the filter {shown!r}: {self._explain(str(error), ' '.join(expressions))}") from None

    def rows(self, numbers: np.ndarray) -> list[dict[str, Any]]:
        """Returns the public columns of the given rows, in their order."""
        return self._shown.take(_integers(numbers)).to_pylist()

    def row_of(self, path: str) -> int:
        """Returns the row of an image; raises `ValueError` if there is none."""
        row = pc.index(self._shown["path"], path).as_py()
        if row < 0:
            raise ValueError(f"the index no longer has the image {path}")
        return int(row)

    def values(self, column: str, limit: int) -> list[Any]:
        """Returns the `limit` most frequent values of a column or of one of `fields`, sorted.

        Raises `ValueError` for an unknown column.
        """
        name = self._sql(column)
        return [
            row[0]
            for row in self._rows(
                f"SELECT value FROM (SELECT {name} AS value, count(*) AS images FROM gallery WHERE {name} IS NOT NULL "
                "GROUP BY value ORDER BY images DESC, value LIMIT ?) ORDER BY value",
                [limit],
            )
        ]

    def bounds(self, column: str) -> tuple[Any, Any]:
        """Returns the smallest and the largest value of a column, None without values; raises as `values`."""
        name = self._sql(column)
        return self._rows(f"SELECT min({name}), max({name}) FROM gallery", [])[0]

    def _sql(self, column: str) -> str:
        if column in self.columns:
            return quoted_column(column)
        if column not in self.fields:
            raise ValueError(self._no_column(column))
        return self.fields[column]

    def _rows(self, query: str, values: list[Any]) -> list[Any]:
        with self._database.cursor() as cursor:
            return cursor.execute(query, values).fetchall()

    def close(self) -> None:
        """Frees the table and ends the child process."""
        self._filters.close()
        if self._opened is not None:
            self._opened.close()

    @property
    def _database(self) -> duckdb.DuckDBPyConnection:
        """The table in duckdb, which is loaded with the first use: a search without a filter does not need it."""
        with self._opening:
            if self._opened is None:
                database = duckdb.connect(":memory:", config=LOCKED)
                database.register("source", self._source)
                database.execute("CREATE TABLE gallery AS SELECT * FROM source")
                database.unregister("source")
                database.execute(f"SET GLOBAL TimeZone = '{self._time_zone}'")
                database.execute("SET lock_configuration = true")
                self._opened = database
        return self._opened

    def _explain(self, error: str, where: str) -> str:
        """Shortens an error message of duckdb to one line."""
        unknown = re.search(r'Referenced column "([^"]*)" not found', error)
        if unknown:
            value = unknown[1]
            hint = f"; a text is written in single quotes: '{_cut(value, _SHOWN)}'" if f'"{value}"' in where else ""
            return self._no_column(_cut(value, _SHOWN)) + hint
        first = error.strip().splitlines()[0] if error.strip() else "no expression"
        to_quote = [name for name in self.columns if not name.isidentifier() and name in where.replace(f'"{name}"', "")]
        hint = f"; put the name of the column in double quotes: {quoted_column(to_quote[0])}" if to_quote else ""
        return _cut(re.sub(r"^[\w ]+ Error: ", "", first), _ERROR) + hint

    def _no_column(self, name: str) -> str:
        columns = ", ".join(self.columns)
        return f"there is no column {name!r}; the columns are {columns}{did_you_mean(name, self.columns)}"


def _shown(table: pa.Table, time_zone: str) -> pa.Table:
    """Returns the public columns, with times in microseconds and in one zone."""
    table = table.select([name for name in table.column_names if not name.startswith("_")])
    for place, kept in enumerate(table.schema):
        if pa.types.is_timestamp(kept.type):
            kind = pa.timestamp("us", None if kept.type.tz is None else time_zone)
            table = table.set_column(place, kept.with_type(kind), table[place].cast(kind, safe=False))
    return table


def _integers(values: np.ndarray) -> pa.Array:
    """Converts an array to Arrow; `pa.array` would import pandas."""
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(values.astype(np.int64))])


def _zone(kind: pa.DataType) -> str | None:
    return kind.tz if pa.types.is_timestamp(kind) else None


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}…"


def quoted_column(name: str) -> str:
    """Quotes a column name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def quoted_value(value: object) -> str:
    """Quotes a value for SQL; duckdb converts it to the type of the column that it is compared with."""
    return "'" + str(value).replace("'", "''") + "'"
