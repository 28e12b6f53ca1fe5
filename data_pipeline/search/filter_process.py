"""Evaluates the filters of untrusted users in a child process, with limits on time and memory.

The child runs this file as a script, so it imports only the standard library, duckdb, numpy and pyarrow.
"""

import faulthandler
import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any, cast

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

ROW = "_row"
TIME_LIMIT = 10.0  # seconds for one filter; an expression over a million rows takes milliseconds
MEMORY_LIMIT = 2**30  # bytes for one filter, in addition to the table
LOCKED: dict[str, str | bool | int | float | list[str]] = {
    # No files, no network, no extensions, no spilling to disk, no variables of Python
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "temp_directory": "",
    "threads": 1,
}
_START_LIMIT = 60.0  # seconds for imports and the transfer of the table


class FilterProcess:
    """A child process that holds a copy of a table and filters it; thread-safe, one filter at a time.

    The process starts with the first filter and again after it was killed. It ends with `close`, with this object or
    with the parent process, at the latest after the time limit.

    Args:
        read: returns the table, with the row numbers in the column `_row`.
    """

    def __init__(self, read: Callable[[], pa.RecordBatchReader]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def select(self, where: str) -> NDArray[np.int64]:
        """Returns the rows that match an SQL expression, ascending.

        Raises:
            ValueError: the expression is invalid, too slow or needs too much memory; the message is that of duckdb.
            OSError: the process cannot be started.
        """
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = self._start()
            answer, rows = _ask(self._process, lambda pipe: pipe.write(json.dumps(where).encode() + b"\n"), TIME_LIMIT)
        if "error" in answer:
            raise ValueError(answer["error"])
        return np.frombuffer(rows, dtype=np.int64)

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            if self._process is not None:
                _kill(self._process)

    def _start(self) -> "subprocess.Popen[bytes]":
        """Starts the process and sends the table."""
        path = os.pathsep.join(filter(None, sys.path))  # packages may be on a path that only this process knows
        process = subprocess.Popen(
            [sys.executable, __file__, str(TIME_LIMIT), str(MEMORY_LIMIT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )
        weakref.finalize(self, _kill, process)

        def send(pipe: IO[bytes]) -> None:
            batches = self._read()
            with pa.ipc.new_stream(pipe, batches.schema) as stream:
                for batch in batches:
                    stream.write_batch(batch)

        answer, _ = _ask(process, send, _START_LIMIT)
        if "error" in answer:
            _kill(process)
            raise OSError(f"the process for filters, {sys.executable}, did not start: {answer['error']}")
        return process


def _ask(
    process: "subprocess.Popen[bytes]", send: Callable[[IO[bytes]], object], limit: float
) -> tuple[dict[str, Any], bytes]:
    """Sends a request and returns the answer: a header and the bytes of the rows. Kills the process at the limit."""
    pipe, answers = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
    alarm = threading.Timer(limit, process.kill)
    started = time.monotonic()
    alarm.start()
    try:
        send(pipe)
        pipe.flush()
        header = json.loads(answers.readline())
        rows = answers.read(header.get("bytes", 0))
        if len(rows) == header.get("bytes", 0):
            return header, rows
    except (OSError, ValueError):
        pass  # the process has ended
    except BaseException:  # such as Ctrl-C: the answer would be read as that of the next request
        _kill(process)
        raise
    finally:
        alarm.cancel()
    seconds = time.monotonic() - started
    _kill(process)
    slow = f"it took longer than {limit:g} s"
    return {
        "error": slow
        if seconds >= limit
        else f"it needs more than {MEMORY_LIMIT >> 20} MiB of memory or is too complex"
    }, b""


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Ends the process and frees its pipes."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):  # unsent bytes of an interrupted request
            cast(IO[bytes], pipe).close()


def _serve(time_limit: float, memory_limit: int, requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answers requests until the pipe closes or the memory of this process is exhausted."""

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
        database.execute("SET lock_configuration = true")
    except Exception as error:
        answer(str(error))
        return
    answer()
    for line in requests:
        # Ends this process even if the parent process was killed and cannot do it
        faulthandler.dump_traceback_later(time_limit + 1, exit=True, file=sys.stderr)
        try:
            with database.cursor() as cursor:
                chosen = cursor.table("gallery").filter(duckdb.SQLExpression(json.loads(line))).project(ROW)
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
    _serve(float(sys.argv[1]), int(sys.argv[2]), sys.stdin.buffer, sys.stdout.buffer)
