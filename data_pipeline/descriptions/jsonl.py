"""Append-only JSON Lines files that survive a killed process: whole-line appends, crash repair, a file lock."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from modeling_bdam.files import write_json_lines


class JsonLinesFile:
    """A JSON Lines file that is open for appending, by one writer at a time (see `single_writer`).

    Each line is appended by one `write` system call: a killed process loses no appended line, and concurrent readers
    see complete lines only. Lines appended since the last `sync` are lost only if the machine itself crashes.

    Raises:
        ValueError: the last line is no beginning of a JSON object, so this is another kind of file.
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        self._size = _repair_last_line(path, self._descriptor)

    def append(self, line: dict[str, Any]) -> int:
        """Appends an object as one line and returns the byte offset of the line, for `read_at`.

        Raises `OSError` on a full disk; a partial line is truncated again.
        """
        data = json.dumps(line, ensure_ascii=False).encode() + b"\n"
        start = self._size
        written = os.write(self._descriptor, data)
        if written != len(data):
            os.ftruncate(self._descriptor, start)
            raise OSError(f"{self.path}: only {written} of {len(data)} bytes were written; free disk space and rerun")
        self._size += written
        return start

    def read_at(self, start: int) -> dict[str, Any]:
        """Reads the object of the line at byte offset `start`."""
        with self.path.open("rb") as file:
            file.seek(start)
            return json.loads(file.readline())

    def lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields (byte offset, object) for each line; errors as in `read_json_lines`."""
        return read_json_lines(self.path)

    def replace(self, lines: Iterable[dict[str, Any]]) -> None:
        """Rewrites the whole file atomically."""
        write_json_lines(self.path, lines)
        os.close(self._descriptor)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND)
        self._size = os.fstat(self._descriptor).st_size

    def sync(self) -> None:
        """Flushes appended lines to disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Syncs and closes the file."""
        self.sync()
        os.close(self._descriptor)

    def __enter__(self) -> "JsonLinesFile":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@contextmanager
def single_writer(path: Path) -> Iterator[None]:
    """Holds the file lock `{path}.lock`; raises `BlockingIOError` if another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(f"{path}: locked by another process that writes to it; wait until it ends") from None
    try:
        yield
    finally:
        lock.release()


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Streams (byte offset, object) pairs from a file to which another process may be appending.

    Skips a last line without a line end: its append is not finished (`benchmarks.text_files.read_json_lines` reads it).

    Raises:
        ValueError: a line is not a JSON object; the message has the line number.
        OSError: the file cannot be read.
    """
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            if line.strip():
                try:
                    value = json.loads(line)
                except ValueError as error:
                    raise ValueError(f"{path}, line {number}: invalid JSON ({error}); remove the line") from None
                if not isinstance(value, dict):
                    raise ValueError(f"{path}, line {number}: expected a JSON object, got {type(value).__name__}")
                yield start, value
            start += len(line)


def _repair_last_line(path: Path, descriptor: int) -> int:
    """Repairs a last line without a line end, the trace of a crash, and returns the file size.

    Complete JSON gets its line end; a partial object is truncated.
    """
    size = os.fstat(descriptor).st_size
    if not size:
        return 0
    with mmap(descriptor, 0, access=ACCESS_READ) as data:
        start = data.rfind(b"\n") + 1
        rest = data[start:]
    if not rest:
        return size
    if not rest.startswith(b"{"):
        raise ValueError(f"{path}: not a JSON Lines file, it ends with {rest[:40]!r}; choose another file")
    try:
        json.loads(rest)
    except ValueError:
        os.ftruncate(descriptor, start)
        return start
    return size + os.write(descriptor, b"\n")
