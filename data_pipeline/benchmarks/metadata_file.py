"""Finds and parses the metadata file of a user's own image folder: CSV, JSON Lines or Parquet."""

import csv
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .text_files import first_line, read_json_lines, read_text

METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def find_metadata_file(folder: Path) -> Path | None:
    """Returns the metadata file of a folder, or None; raises `ValueError` if there are several."""
    found = [folder / name for name in METADATA_FILES if (folder / name).is_file()]
    if len(found) > 1:
        raise ValueError(f"{folder}: there are several metadata files, {' and '.join(f.name for f in found)}; keep one")
    return found[0] if found else None


def read_metadata_rows(file: Path) -> list[tuple[str, dict[str, Any]]]:
    """Reads the rows of a metadata file, each with its place for error messages (`FILE, line 3`).

    Cells of a CSV file are strings, without type inference, so that a label such as `007` is kept. Empty cells
    (null, "", NaN) are removed from the rows. Raises `ValueError` with file and line, or `OSError`.
    """
    if file.suffix == ".jsonl":
        rows = list(read_json_lines(file))
    elif file.suffix == ".csv":
        rows = _read_csv(file)
    else:
        try:
            table = pq.read_table(file)
        except pa.ArrowException as error:
            raise ValueError(f"{file}: no valid Parquet ({first_line(error)})") from None
        rows = [(f"{file}, row {number}", row) for number, row in enumerate(table.to_pylist(), start=1)]
    return [(where, {key: value for key, value in row.items() if not _is_empty(value)}) for where, row in rows]


def _read_csv(file: Path) -> list[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(read_text(file), newline=""), strict=True)
    rows: list[tuple[str, dict[str, Any]]] = []
    try:
        for row in reader:
            where = f"{file}, line {reader.line_num}"
            if None in row or None in row.values():
                raise ValueError(
                    f"{where}: the number of cells differs from the first line; enclose a text with a comma in double "
                    "quotes"
                )
            rows.append((where, row))
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num}: no valid CSV ({error})") from None
    return rows


def _is_empty(value: Any) -> bool:
    return value is None or value == "" or value != value  # the last is NaN, which pandas writes for empty cells
