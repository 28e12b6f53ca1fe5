"""Annotation files as text, JSON or JSON lines; a mistake in one is told by file and line."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def read_text(file: Path) -> str:
    """A UTF-8 file as text, with or without a byte order mark.

    Raises:
        ValueError: a byte that is not UTF-8, with its line.
        OSError: the file cannot be read.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: there is no such file")
    content = file.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{file}, line {line}: byte 0x{content[error.start]:02x} at offset {error.start} is not UTF-8; "
            "save the file in UTF-8"
        ) from None


def read_json(file: Path) -> Any:
    """A JSON file.

    Raises:
        ValueError: see `read_text`; or the file is no JSON, with the line.
        OSError: the file cannot be read.
    """
    try:
        return json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{file}, line {error.lineno}, column {error.colno}: no valid JSON ({error.msg}); "
            "the file is damaged or was cut off: get it again"
        ) from None


def read_json_lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSON-lines file, each with the words that say where it stands: `FILE, line 3`.

    Raises:
        ValueError: see `read_text`; or a line is no JSON object.
        OSError: the file cannot be read.
    """
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: no valid JSON ({error.msg}): repair or remove the line") from None
        if not isinstance(value, dict):
            raise ValueError(f"{where}: a {type(value).__name__} where a JSON object is expected")
        yield where, value


def check_string(value: Any, where: str, what: str) -> str:
    """`value` if it is text that can be written as UTF-8.

    Raises:
        ValueError: it is something else; the message begins with `where`.
    """
    if not isinstance(value, str):
        raise ValueError(f"{where}: {what} is {_show(value)}, not a string")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(f"{where}: {what} holds half a character (a lone surrogate): {value!r}") from None
    return value


def check_integer(value: Any, where: str, what: str) -> int:
    """`value` as an integer of 64 bits; `7`, `"7"`, `"0007"` and `7.0` are all 7.

    Raises:
        ValueError: it is something else; the message begins with `where`.
    """
    number: int | None = None
    if isinstance(value, str):
        digits = value.strip().removeprefix("-")
        if digits.isascii() and digits.isdigit() and len(digits) < 20:
            number = int(value)
    elif isinstance(value, float) and value.is_integer():
        number = int(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    if number is None or not -(2**63) <= number < 2**63:
        raise ValueError(f"{where}: {what} is {_show(value)}, not a whole number")
    return number


def first_of(values: Sequence[Any], count: int = 5) -> str:
    """The first few of a list, for a message."""
    return ", ".join(map(str, values[:count])) + (", …" if len(values) > count else "")


def first_line(error: BaseException) -> str:
    """What an error of a library says, on one line."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
