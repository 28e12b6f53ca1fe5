"""Reads text, JSON and JSON Lines files; error messages name file and line."""

import codecs
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_BYTE_ORDER_MARKS = {  # UTF-32 first: its mark begins with that of UTF-16
    **dict.fromkeys((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE), "utf-32"),
    **dict.fromkeys((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), "utf-16"),
}


def read_text(file: Path, notes: list[str] | None = None) -> str:
    """Reads a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    With `notes`, other text is read as Windows-1252, a superset of Latin-1, and a note for the user is appended. Raises
    `ValueError` with the bad line, or `OSError`.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: there is no such file")
    content = file.read_bytes()
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8-sig")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        name = encoding.removesuffix("-sig").upper()
        found = f"{file}, line {line}: byte 0x{content[error.start]:02x} at offset {error.start} is not {name}"
        try:
            text = content.removeprefix(codecs.BOM_UTF8).decode("cp1252")
        except UnicodeDecodeError:
            notes = None  # nor Windows-1252
        if notes is None or encoding != "utf-8-sig":
            raise ValueError(f"{found}; save the file in UTF-8") from None
        notes.append(f"{found}: read as Windows-1252; save the file in UTF-8 if letters with accents are wrong")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"{file}, line {line}: it contains a zero byte, so it is not UTF-8 text; save it in UTF-8")
    return text


def read_json(file: Path) -> Any:
    """Reads a JSON file; raises `ValueError` with line and column of the mistake, or `OSError`."""
    try:
        return json.loads(read_text(file))
    except json.JSONDecodeError as error:
        remedy = "the file is damaged or truncated: download it again"
        if error.msg == "Extra data":
            remedy = "it has several values: enclose them in one list, [ … ]"
        where = f"{file}, line {error.lineno}, column {error.colno}"
        raise ValueError(f"{where}: no valid JSON ({error.msg}); {remedy}") from None


def read_json_lines(file: Path, notes: list[str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the objects of a JSON Lines file, each with its place for error messages (`FILE, line 3`).

    See `read_text` for `notes`. Raises `ValueError` if a line is not a JSON object, or `OSError`.
    """
    for number, line in enumerate(read_text(file, notes).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: no valid JSON ({error.msg}): repair or remove the line") from None
        if not isinstance(value, dict):
            raise ValueError(f"{where}: expected a JSON object, not a {type(value).__name__}")
        yield where, value


def check_string(value: Any, where: str, name: str) -> str:
    """Returns `value` if it is a string in valid UTF-8; otherwise a `ValueError` names the place and the field."""
    if not isinstance(value, str):
        raise ValueError(f"{where}: {name} is {_show(value)}, not a string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{where}: {name} contains half a character (a lone surrogate): {value!r}") from None
    return value


def check_integer(value: Any, where: str, name: str, remedy: str = "") -> int:
    """Returns `value` as a 64-bit integer; `7`, `"7"`, `"0007"` and `7.0` are all 7.

    For other values, a `ValueError` names the place and the field.
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
        raise ValueError(f"{where}: {name} is {_show(value)}, not a whole number{remedy and '; '}{remedy}")
    return number


def first_of(values: Sequence[Any], count: int = 5) -> str:
    """Returns the first values of a list, for a message."""
    return ", ".join(map(str, values[:count])) + (", …" if len(values) > count else "")


def first_line(error: BaseException) -> str:
    """Returns the first line of a library's error message."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
