"""The metadata table of an index in duckdb: SQL filters, rows by number, frequent values."""

import re
import threading
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from modeling_bdam.files import did_you_mean

ROW = "_row"
_TIME_LIMIT = 10.0  # seconds; an expression over a million rows takes milliseconds
_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    # Filters come from untrusted users: no files, no network, no extensions
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "memory_limit": "4GB",
}


class MetadataTable:
    """Metadata of the images in an in-memory database; thread-safe.

    Args:
        table: `path` and the metadata columns, in the order of the vectors; columns that begin with `_` are internal.

    Attributes:
        columns: duckdb type of each public column.
    """

    def __init__(self, table: pa.Table) -> None:
        self._database = duckdb.connect(":memory:", config=_SETTINGS)
        self._database.register("source", table.append_column(ROW, pa.array(np.arange(len(table)))))
        self._database.execute("CREATE TABLE gallery AS SELECT * FROM source")
        self._database.unregister("source")
        self._database.execute("SET lock_configuration = true")
        described = self._database.execute("DESCRIBE gallery").fetchall()
        self.columns: dict[str, str] = {row[0]: row[1] for row in described if not row[0].startswith("_")}

    def select(self, where: str) -> np.ndarray:
        """Returns the rows that match an expression, int64, ascending; comparisons with null do not match.

        SQL injection: the text is parsed as one expression, so that it cannot become another statement; the database
        has no access to files or the network; and a query is interrupted after ten seconds.

        Args:
            where: SQL expression of duckdb, such as `camera == 3 and time > '2026-05-01'`.

        Raises:
            ValueError: the expression is invalid; the message says why, or lists the columns.
        """
        cursor = self._database.cursor()
        alarm = threading.Timer(_TIME_LIMIT, cursor.interrupt)
        alarm.start()
        try:
            chosen = cursor.table("gallery").filter(duckdb.SQLExpression(where)).project(ROW)
            return np.sort(np.asarray(chosen.fetchnumpy()[ROW], dtype=np.int64))
        except duckdb.Error as error:
            raise ValueError(f"the filter {where!r}: {self._explain(str(error))}") from None
        finally:
            alarm.cancel()
            cursor.close()

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
        """Frees the table."""
        self._database.close()

    def _explain(self, error: str) -> str:
        """Shortens an error message of duckdb to one line."""
        if "Interrupted" in error:
            return f"it took longer than {_TIME_LIMIT:g} s"
        unknown = re.search(r'Referenced column "([^"]*)" not found', error)
        if unknown:
            return self._no_column(unknown[1])
        first = error.strip().splitlines()[0] if error.strip() else "no expression"
        return re.sub(r"^\w+ Error: ", "", first)

    def _no_column(self, name: str) -> str:
        columns = ", ".join(self.columns)
        return f"there is no column {name!r}; the columns are {columns}{did_you_mean(name, self.columns)}"


def quoted_column(name: str) -> str:
    """Quotes a column name for SQL."""
    return '"' + name.replace('"', '""') + '"'
