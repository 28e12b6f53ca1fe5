"""A file of JSON lines that only grows, by whole lines, and loses nothing that was written when the process dies."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout


class JsonLinesFile:
    """Appends to a file of JSON lines. There must be one writer at a time.

    Every line goes to the operating system by one call, so that a process that is killed loses nothing it appended and
    readers meet whole lines. Only the machine itself can lose lines, those since the last `sync`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        self._size = _repair_last_line(path, self._descriptor)

    def append(self, line: dict[str, Any]) -> int:
        """Appends an object and returns the place where its line begins, for `read_at`.

        Raises:
            OSError: the line could not be written as a whole; then nothing of it stays.
        """
        data = json.dumps(line, ensure_ascii=False).encode() + b"\n"
        start = self._size
        written = os.write(self._descriptor, data)
        if written != len(data):
            os.ftruncate(self._descriptor, start)
            raise OSError(
                f"{self.path}: the disk took {written} of {len(data)} bytes of a line; make room and run again"
            )
        self._size += written
        return start

    def read_at(self, start: int) -> dict[str, Any]:
        """The object whose line begins at `start`."""
        with self.path.open("rb") as file:
            file.seek(start)
            return json.loads(file.readline())

    def lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Every object with the place where its line begins.

        Raises:
            ValueError: a line is no JSON object; the message names it.
        """
        return read_json_lines(self.path)

    def replace(self, lines: Iterator[dict[str, Any]]) -> None:
        """Writes the file anew, all at once: after a crash it is the old one or the new one."""
        temporary = self.path.with_name(self.path.name + ".tmp")
        with temporary.open("wb") as file:
            for line in lines:
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.path)
        os.close(self._descriptor)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND)
        self._size = os.fstat(self._descriptor).st_size

    def sync(self) -> None:
        """Waits until all that was appended lies on the disk itself."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Syncs and closes the file."""
        self.sync()
        os.close(self._descriptor)

    def __enter__(self) -> "JsonLinesFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def writing_alone(path: Path) -> Iterator[None]:
    """Holds a lock beside a file, so that it has one writer at a time.

    Raises:
        BlockingIOError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(f"{path}: another process is writing there; wait until it has ended") from None
    try:
        yield
    finally:
        lock.release()


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file that another process may be appending to, each with the place where its line begins.

    A last line without its end is passed over.

    Raises:
        ValueError: a line is no JSON object; the message names it.
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
                    raise ValueError(f"{path}, line {number}: no valid JSON ({error})") from None
                if not isinstance(value, dict):
                    raise ValueError(f"{path}, line {number}: a JSON object is expected")
                yield start, value
            start += len(line)


def _repair_last_line(path: Path, descriptor: int) -> int:
    """Ends or cuts a last line that has no end, the trace of a crash, and returns the size of the file then.

    Raises:
        ValueError: the last line is no beginning of a JSON object: this is some other file.
    """
    size = os.fstat(descriptor).st_size
    start = size
    while start > 0:
        begin = max(0, start - 65536)
        at = os.pread(descriptor, start - begin, begin).rfind(b"\n")
        if at >= 0:
            start = begin + at + 1
            break
        start = begin
    rest = os.pread(descriptor, size - start, start)
    if not rest:
        return size
    if not rest.startswith(b"{"):
        raise ValueError(f"{path}: this is no file of JSON lines: {rest[:40]!r}; name another file")
    try:
        json.loads(rest)
    except ValueError:
        os.ftruncate(descriptor, start)
        return start
    return size + os.write(descriptor, b"\n")
