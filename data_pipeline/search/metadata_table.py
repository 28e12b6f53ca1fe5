"""The table of an index: a row of metadata an image, and which rows an expression selects."""

import difflib
import re
import threading
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

ROW = "_row"
_TIME_LIMIT = 10.0  # seconds; an expression over a million rows takes milliseconds
_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    # A filter is an expression over this one table, whoever typed it: no files, no network, no extensions.
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "memory_limit": "4GB",
}


class MetadataTable:
    """Metadata of the images, kept by duckdb; safe to use from several threads.

    Args:
        table: `path` and the metadata columns, in the order of the vectors; columns that begin with `_` are the
            index's own.
    """

    def __init__(self, table: pa.Table) -> None:
        self._database = duckdb.connect(":memory:", config=_SETTINGS)
        numbered = table.append_column(ROW, pa.array(np.arange(len(table))))
        self._database.register("arriving", numbered)
        self._database.execute("CREATE TABLE gallery AS SELECT * FROM arriving")
        self._database.unregister("arriving")
        self._database.execute("SET lock_configuration = true")
        described = self._database.execute("DESCRIBE gallery").fetchall()
        self.columns: dict[str, str] = {row[0]: row[1] for row in described if not row[0].startswith("_")}

    def select(self, where: str) -> np.ndarray:
        """The rows that an expression holds for, int64, ascending; a comparison with an unknown value holds for none.

        Args:
            where: an expression in SQL (duckdb's), such as `camera == 3 and time > '2026-05-01'`.

        Raises:
            ValueError: it is no such expression; the message says where, or names the columns.
        """
        cursor = self._database.cursor()
        alarm = threading.Timer(_TIME_LIMIT, cursor.interrupt)
        alarm.start()
        try:
            # Parsed as one expression: there is no way out of it into another statement.
            chosen = cursor.table("gallery").filter(duckdb.SQLExpression(where)).project(ROW)
            return np.sort(np.asarray(chosen.fetchnumpy()[ROW], dtype=np.int64))
        except duckdb.Error as error:
            raise ValueError(f"the filter {where!r}: {self._explain(str(error))}") from None
        finally:
            alarm.cancel()
            cursor.close()

    def rows(self, numbers: np.ndarray) -> list[dict[str, Any]]:
        """What the table says of some rows, in their order, without the index's own columns."""
        cursor = self._database.cursor()
        try:
            names = ", ".join(_quoted(name) for name in [ROW, *self.columns])
            cursor.execute(f"SELECT {names} FROM gallery WHERE {ROW} IN (SELECT unnest(?))", [numbers.tolist()])
            found = {row[0]: dict(zip(self.columns, row[1:], strict=True)) for row in cursor.fetchall()}
        finally:
            cursor.close()
        return [found[number] for number in numbers.tolist()]

    def values(self, column: str, limit: int) -> list[Any]:
        """The values of a column that occur, the most frequent `limit` of them, sorted.

        Raises:
            ValueError: there is no such column.
        """
        if column not in self.columns:
            raise ValueError(self._no_column(column))
        name = _quoted(column)
        cursor = self._database.cursor()
        try:
            cursor.execute(
                f"SELECT value FROM (SELECT {name} AS value, count(*) AS images FROM gallery WHERE {name} IS NOT NULL "
                "GROUP BY value ORDER BY images DESC, value LIMIT ?) ORDER BY value",
                [limit],
            )
            return [row[0] for row in cursor.fetchall()]
        finally:
            cursor.close()

    def close(self) -> None:
        """Frees the table."""
        self._database.close()

    def _explain(self, error: str) -> str:
        """duckdb's message as one line."""
        if "Interrupted" in error:
            return f"it took longer than {_TIME_LIMIT:g} s"
        unknown = re.search(r'Referenced column "([^"]*)" not found', error)
        if unknown:
            return self._no_column(unknown[1])
        first = error.strip().splitlines()[0] if error.strip() else "no expression"
        return re.sub(r"^\w+ Error: ", "", first)

    def _no_column(self, name: str) -> str:
        close = difflib.get_close_matches(name, self.columns, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"there is no column {name!r}: {hint}The index has {', '.join(self.columns)}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
