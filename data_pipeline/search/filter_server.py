"""The child process that evaluates filters: `FilterProcess` runs this file as a script.

It imports only the standard library, duckdb, numpy and pyarrow.
"""

import faulthandler
import json
import re
import signal
import sys
from collections.abc import Iterator
from typing import IO, Any

import duckdb
import numpy as np
import pyarrow as pa

ROW = "_row"
LOCKED: dict[str, str | bool | int | float | list[str]] = {
    # No files, no network, no extensions, no spilling to disk, no variables of Python
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "temp_directory": "",
    "threads": 1,
}
_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL", "U")
_TIMES = ("DATE", "TIME")  # also TIMESTAMP
_EQUALITIES = ("COMPARE_EQUAL", "COMPARE_NOTEQUAL", "COMPARE_IN", "COMPARE_NOT_IN", "COMPARE_DISTINCT_FROM")
_DATE = re.compile(r"\s*(\d{4}-\d{1,2}-\d{1,2}|\d{1,2}[./-]\d{1,2}[./-]\d{2,4})")

Node = dict[str, Any]
"""A node of the syntax tree of duckdb."""


class FilterCheck:
    """Checks the syntax tree of an expression for mistakes that duckdb evaluates without an error.

    1. A number, or another value that is no condition, as a whole filter or beside AND, OR and NOT: `camera == 1 or 2`
       would select each row, because duckdb converts numbers to booleans.
    2. A comparison of text with a number or a date: duckdb would compare letter by letter.
    3. A comparison of a number with a boolean: duckdb would read true as 1.

    Args:
        database: has the table `gallery`.
        reasons: for each text column that has dates or numbers, why it is text.
    """

    def __init__(self, database: duckdb.DuckDBPyConnection, reasons: dict[str, str]) -> None:
        self._database = database
        self._reasons = {name.lower(): reason for name, reason in reasons.items()}
        self._statement = self._parse("1")

    def check(self, expression: str) -> None:
        """Raises `ValueError` for a mistake, or an exception of duckdb for invalid SQL."""
        duckdb.SQLExpression(expression)  # refuses several statements and expressions
        pending = [(self._parse(expression)["statements"][0]["node"]["select_list"][0], True)]
        while pending:
            node, is_condition = pending.pop()
            joins = node["class"] == "CONJUNCTION" or node["type"] == "OPERATOR_NOT"
            if is_condition and not joins and (found := self._kind(node)) not in ("BOOLEAN", ""):
                kind = {"number": "a number", "text": "text", "time": "a time"}.get(found, "a value")
                raise ValueError(
                    f"{self._text(node)} is {kind}, no condition: write comparisons, such as camera == 1 or camera == 2"
                )
            for one, other in _compared(node):
                self._check_comparison(node["type"], one, other)
            pending += [(child, joins) for child in _children(node)]

    def _check_comparison(self, comparison: str, one: Node, other: Node) -> None:
        for text, value in ((one, other), (other, one)):
            if self._kind(text) == "number" and self._kind(value) == "BOOLEAN":
                raise ValueError(
                    f"{self._text(text)} is a number, so it cannot be compared with true, false or a condition"
                )
            if self._kind(text) != "text" or _constant(text) is not None:
                continue
            name, kind, constant = self._text(text), self._kind(value), _constant(value)
            column = text["column_names"][-1] if text["class"] == "COLUMN_REF" else ""
            reason = self._reasons.get(column.lower(), "is text")
            is_date = constant is not None and _DATE.match(constant)
            if kind == "number":
                quoted = f": put the number in single quotes, '{self._text(value)}'"
                raise ValueError(f"{name} {reason}, so it cannot be compared with a number{quoted}")
            if kind == "time" or (is_date and (comparison not in _EQUALITIES or "dates" in reason)):
                raise ValueError(f"{name} {reason}, so it cannot be compared with a date")

    def _kind(self, node: Node) -> str:
        """Returns number, text, time, or the name of another type; "" for invalid SQL."""
        try:
            name = str(self._database.table("gallery").project(duckdb.SQLExpression(self._text(node))).types[0])
        except duckdb.BinderException:
            return ""
        kinds = {"number": _NUMBERS, "time": _TIMES, "text": ("VARCHAR",)}
        return next((kind for kind, names in kinds.items() if name.startswith(names) and "[" not in name), name)

    def _parse(self, expression: str) -> Node:
        answer = self._database.execute("SELECT json_serialize_sql(?)", [f"SELECT {expression}"]).fetchall()[0][0]
        tree: Node = json.loads(answer)
        if tree["error"]:
            raise ValueError(tree["error_message"])
        return tree

    def _text(self, node: Node) -> str:
        """Returns the SQL of a node."""
        self._statement["statements"][0]["node"]["select_list"] = [node]
        query = self._database.execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(self._statement)])
        return str(query.fetchall()[0][0]).removeprefix("SELECT ")


def _compared(node: Node) -> Iterator[tuple[Node, Node]]:
    """Yields the pairs of nodes that a comparison compares."""
    if node["class"] == "COMPARISON":
        yield node["left"], node["right"]
    elif node["class"] == "BETWEEN":
        yield node["input"], node["lower"]
        yield node["input"], node["upper"]
    elif node["type"] in ("COMPARE_IN", "COMPARE_NOT_IN"):
        for child in node["children"][1:]:
            yield node["children"][0], child


def _children(node: Any) -> Iterator[Node]:
    """Yields the nodes directly below a node, but not those of subqueries and lambdas, which have other columns."""
    for value in node.values() if isinstance(node, dict) else node:
        if isinstance(value, dict) and "class" in value and "query_location" in value:
            if value["class"] not in ("SUBQUERY", "LAMBDA", "LAMBDA_REF"):
                yield value
        elif isinstance(value, dict | list):
            yield from _children(value)


def _constant(node: Node) -> str | None:
    """Returns the text of a string in single quotes, which duckdb converts to the type of the other side, or None."""
    literal = node.get("literal") or {}
    return literal["text"] if node["class"] == "CONSTANT" and literal.get("kind") == "STRING" else None


def _serve(time_limit: float, memory_limit: int, time_zone: str, requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answers requests until the pipe closes or the memory of this process is exhausted.

    A request is a list of expressions, and the reasons of `FilterCheck`.
    """

    def answer(error: str | None = None, rows: bytes = b"") -> None:
        header = {"bytes": len(rows)} if error is None else {"error": error}
        answers.write(json.dumps(header).encode() + b"\n" + rows)
        answers.flush()

    try:
        database = duckdb.connect(":memory:", config=LOCKED)
        with pa.ipc.open_stream(requests) as stream:
            database.register("source", stream)
            database.execute("CREATE TABLE gallery AS SELECT * FROM source")
            database.unregister("source")
        database.execute("SELECT sum(memory_usage_bytes) FROM duckdb_memory()")
        database.execute(f"SET memory_limit = '{int(database.fetchall()[0][0]) + memory_limit}B'")
        _limit_memory(memory_limit)
        database.execute(f"SET GLOBAL TimeZone = '{time_zone}'")
        database.execute("SET lock_configuration = true")
    except Exception as error:
        answer(str(error))
        return
    answer()
    for line in requests:
        # Ends this process even if the parent process was killed and cannot do it
        faulthandler.dump_traceback_later(time_limit + 1, exit=True, file=sys.stderr)
        try:
            expressions, reasons = json.loads(line)
            with database.cursor() as cursor:
                check, chosen = FilterCheck(cursor, reasons), cursor.table("gallery")
                for expression in expressions:
                    check.check(expression)
                    chosen = chosen.filter(duckdb.SQLExpression(expression))
                chosen = chosen.project(ROW)
                answer(rows=np.sort(chosen.fetchnumpy()[ROW].astype(np.int64)).tobytes())
        except (duckdb.OutOfMemoryException, duckdb.FatalException, duckdb.InternalException, MemoryError):
            return  # the next filter gets a new process
        except Exception as error:
            answer(str(error)[:10_000])
        faulthandler.cancel_dump_traceback_later()


def _limit_memory(limit: int) -> None:
    """Limits the further memory of this process, which duckdb's own limit does not: vectors of strings and lists."""
    if sys.platform == "linux":
        import resource

        with open("/proc/self/statm") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + limit, size + limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent process
    _serve(float(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.stdin.buffer, sys.stdout.buffer)
