"""The metadata table of an index in duckdb: SQL filters, rows by number, frequent values."""

import re
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from modeling_bdam.files import did_you_mean

from .filter_process import LOCKED, ROW, FilterProcess

_SHOWN = 200  # characters of a filter, or of duckdb's error, in an error message


class MetadataTable:
    """Metadata of the images in an in-memory database; thread-safe.

    Args:
        table: `path` and the metadata columns, in the order of the vectors; columns that begin with `_` are internal.

    Attributes:
        columns: duckdb type of each public column.
    """

    def __init__(self, table: pa.Table) -> None:
        self._database = duckdb.connect(":memory:", config=LOCKED)
        self._database.register("source", table.append_column(ROW, pa.array(np.arange(len(table)))))
        self._database.execute("CREATE TABLE gallery AS SELECT * FROM source")
        self._database.unregister("source")
        self._database.execute("SET lock_configuration = true")
        described = self._database.execute("DESCRIBE gallery").fetchall()
        self.columns: dict[str, str] = {row[0]: row[1] for row in described if not row[0].startswith("_")}
        database = self._database  # the process must not refer to this object, which ends it
        self._filters = FilterProcess(lambda: database.cursor().table("gallery").to_arrow_reader())

    def select(self, where: str) -> np.ndarray:
        """Returns the rows that match an expression, int64, ascending; comparisons with null do not match.

        SQL injection: the text is parsed as one expression, so that it cannot become another statement. It is evaluated
        in a child process with no access to files or the network, which is killed after ten seconds or 1 GiB.

        Args:
            where: SQL expression of duckdb, such as `camera == 3 and time > '2026-05-01'`.

        Raises:
            ValueError: the expression is invalid, too slow or needs too much memory; the message says why, or lists
                the columns.
            OSError: the child process cannot be started.
        """
        try:
            return self._filters.select(where)
        except ValueError as error:
            raise ValueError(f"the filter {_cut(where)!r}: {self._explain(str(error))}") from None

    def rows(self, numbers: np.ndarray) -> list[dict[str, Any]]:
        """Returns the public columns of the given rows, in their order."""
        names = ", ".join(map(quoted_column, [ROW, *self.columns]))
        with self._database.cursor() as cursor:
            cursor.execute(f"SELECT {names} FROM gallery WHERE {ROW} IN (SELECT unnest(?))", [numbers.tolist()])
            found = {row[0]: dict(zip(self.columns, row[1:], strict=True)) for row in cursor.fetchall()}
        return [found[number] for number in numbers.tolist()]

    def values(self, column: str, limit: int) -> list[Any]:
        """Returns the `limit` most frequent values of a column, sorted; raises `ValueError` for an unknown column."""
        if column not in self.columns:
            raise ValueError(self._no_column(column))
        name = quoted_column(column)
        with self._database.cursor() as cursor:
            cursor.execute(
                f"SELECT value FROM (SELECT {name} AS value, count(*) AS images FROM gallery WHERE {name} IS NOT NULL "
                "GROUP BY value ORDER BY images DESC, value LIMIT ?) ORDER BY value",
                [limit],
            )
            return [row[0] for row in cursor.fetchall()]

    def close(self) -> None:
        """Frees the table and ends the child process."""
        self._filters.close()
        self._database.close()

    def _explain(self, error: str) -> str:
        """Shortens an error message of duckdb to one line."""
        unknown = re.search(r'Referenced column "([^"]*)" not found', error)
        if unknown:
            return self._no_column(_cut(unknown[1]))
        first = error.strip().splitlines()[0] if error.strip() else "no expression"
        return _cut(re.sub(r"^\w+ Error: ", "", first))

    def _no_column(self, name: str) -> str:
        columns = ", ".join(self.columns)
        return f"there is no column {name!r}; the columns are {columns}{did_you_mean(name, self.columns)}"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def quoted_column(name: str) -> str:
    """Quotes a column name for SQL."""
    return '"' + name.replace('"', '""') + '"'
