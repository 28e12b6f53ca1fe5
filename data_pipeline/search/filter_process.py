"""Evaluates the filters of untrusted users in a child process, with limits on time and memory."""

import json
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_SERVER = Path(__file__).with_name("filter_server.py")
TIME_LIMIT = 10.0  # seconds for one filter; an expression over a million rows takes milliseconds
MEMORY_LIMIT = 2**30  # bytes for one filter, in addition to the table
_START_LIMIT = 60.0  # seconds for imports and the transfer of the table


class FilterProcess:
    """A child process that holds a copy of a table and filters it; thread-safe, one filter at a time.

    The process starts with the first filter and again after it was killed. It ends with `close`, with this object or
    with the parent process, at the latest after the time limit.

    Args:
        read: returns the table, with the row numbers in the column `_row`.
        time_zone: zone of dates that are compared with times that have a zone.
        reasons: see `FilterCheck`.
    """

    def __init__(
        self, read: Callable[[], pa.RecordBatchReader], time_zone: str = "UTC", reasons: Mapping[str, str] | None = None
    ) -> None:
        self._read = read
        self._time_zone = time_zone
        self._reasons = dict(reasons or {})
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def select(self, expressions: Sequence[str]) -> NDArray[np.int64]:
        """Returns the rows that match all of some SQL expressions, ascending; each of them is parsed on its own.

        Raises:
            ValueError: an expression is invalid, too slow or needs too much memory; the message is that of duckdb.
            OSError: the process cannot be started.
        """
        request = json.dumps([list(expressions), self._reasons]).encode() + b"\n"
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = self._start()
            answer, rows = _ask(self._process, lambda pipe: pipe.write(request), TIME_LIMIT)
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
            [sys.executable, str(_SERVER), str(TIME_LIMIT), str(MEMORY_LIMIT), self._time_zone],
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
