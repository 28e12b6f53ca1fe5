"""Reads the metadata file of a user's own image folder: CSV, TSV, JSON Lines or Parquet, for training and search."""

import csv
import io
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from posixpath import normpath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from modeling_bdam.files import did_you_mean

from .column_types import typed_column
from .image_listing import safe_path
from .text_files import check_string, first_line, read_json_lines, read_text

METADATA_FILES = ("metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.parquet")
REASON, IS_DATE = "reason", "is_date"  # keys of the metadata of an Arrow field
_NAME_COLUMNS = ("file_name", "file_path")  # the first one that a file has names the images
_LIKE_NAME_COLUMNS = {"filename", "filepath", "image", "imagename", "imagepath", "imgpath", "path"}
_DELIMITERS = {".csv": ",;\t|", ".tsv": "\t"}


@dataclass
class Metadata:
    """A metadata file, with one row per named image.

    Attributes:
        file: the file.
        table: the columns without that of the file names. Cells of CSV are strings, as written. Only empty cells are
            null: "", NaN and null. JSON values of different types are strings.
        names: file name of each row, as written.
        paths: its path in the folder: normalized, and spelled like the image if only one image has a similar name.
        places: place of each row for messages (`FILE, line 3`).
        notes: notes for the user.
    """

    file: Path
    table: pa.Table
    names: list[str]
    paths: list[str]
    places: list[str]
    notes: list[str]

    def typed(self, name: str) -> pa.ChunkedArray | pa.Array:
        """Returns a column in its type, see `typed_column`; dates are also found in JSON Lines and Parquet."""
        return self.typed_field(name)[1]

    def typed_field(self, name: str) -> tuple[pa.Field, pa.ChunkedArray | pa.Array]:
        """Returns a column as `typed`, with its field.

        The metadata of the field has the key `REASON` if the column is text although most values are dates or numbers.
        """
        column = self.table[name]
        if not pa.types.is_string(column.type):
            return pa.field(name, column.type), column
        typed = typed_column(column, numbers=self.file.suffix in _DELIMITERS)
        reason = typed.reason
        if typed.row is not None:
            cell = f"{self.places[typed.row].rpartition(', ')[2]} {column[typed.row].as_py()!r}"
            reason = reason.replace("{cell}", cell)
        if reason:
            self.notes.append(f"{self.file}: the column {name!r} {reason}")
        kept = {REASON: reason, IS_DATE: "yes"} if typed.is_date else {REASON: reason} if reason else None
        return pa.field(name, typed.column.type, metadata=kept), typed.column


def find_metadata_file(folder: Path) -> Path | None:
    """Returns the metadata file of a folder, or None; raises `ValueError` if there are several."""
    found = [folder / name for name in METADATA_FILES if (folder / name).is_file()]
    if len(found) > 1:
        raise ValueError(f"{folder}: there are several metadata files, {' and '.join(f.name for f in found)}; keep one")
    return found[0] if found else None


def read_metadata(file: Path, images: Collection[str]) -> Metadata:
    """Reads a metadata file of a folder with the given image paths.

    A repeated row is merged with the first one. Raises `ValueError` with file and line, or `OSError`.
    """
    notes: list[str] = []
    table, places = read_table(file, notes)
    column = _name_column(file, table.column_names, notes)
    names = [check_string(name, where, column) for name, where in zip(table[column].to_pylist(), places, strict=True)]
    relative = _without_roots(file, names, images, notes)
    paths = [safe_path(name, f"{where} ({name})") for name, where in zip(relative, places, strict=True)]
    paths = _as_spelled(file, paths, images, notes)
    return _one_row_per_image(Metadata(file, table.drop_columns([column]), names, paths, places, notes))


def read_table(file: Path, notes: list[str]) -> tuple[pa.Table, list[str]]:
    """Reads a CSV, TSV, JSON Lines or Parquet file; returns its columns and the place of each row (`FILE, line 3`).

    Appends to `notes`. Raises `ValueError` with file and line, also for a file without rows, or `OSError`.
    """
    if file.suffix in _DELIMITERS:
        table, places = _read_csv(file, notes)
    elif file.suffix == ".jsonl":
        table, places = _read_json_lines(file, notes)
    else:
        table, places = _read_parquet(file)
    if not places:
        raise ValueError(f"{file}: the file has no rows")
    return table, places


def _name_column(file: Path, columns: list[str], notes: list[str]) -> str:
    """Returns the column with the file names; one of a similar name counts if it is the only one."""
    if found := next((name for name in _NAME_COLUMNS if name in columns), None):
        return found
    similar = [name for name in columns if re.sub(r"[\W_]", "", name).lower() in _LIKE_NAME_COLUMNS]
    if len(similar) == 1:
        notes.append(f"{file}: the column {similar[0]!r} is read as `file_name`")
        return similar[0]
    hint = did_you_mean(_NAME_COLUMNS[0], columns)
    raise ValueError(f"{file}: there is no column `file_name`; the columns are {', '.join(columns)}{hint}")


def _without_roots(file: Path, names: list[str], images: Collection[str], notes: list[str]) -> list[str]:
    """Shortens absolute paths, such as those of another computer, to the longest end that is an image."""
    absolute = {name for name in names if re.match(r"[\\/]|[A-Za-z]:[\\/]", name)}
    if not absolute:
        return names
    known = {_similar_key(image): image for image in images}
    found = {}
    for name in absolute:
        parts = [part for part in _similar_key(name).split("/") if part]
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        if (end := next((end for end in ends if end in known), None)) is not None:
            found[name] = known[end]
    if found:
        name = next(filter(found.__contains__, names))
        notes.append(f"{file}: {len(found)} absolute paths are shortened, such as {name} to {found[name]}")
    return [found.get(name, name) for name in names]


def _as_spelled(file: Path, paths: list[str], images: Collection[str], notes: list[str]) -> list[str]:
    """Returns the paths with the spelling of the images: letter case, Unicode form, slashes."""
    known = set(images)
    if known.issuperset(paths):
        return paths
    similar = defaultdict(list)
    for image in images:
        similar[_similar_key(image)].append(image)
    spelled = [[path] if path in known else similar.get(_similar_key(path), [path]) for path in paths]
    differing = [(path, found) for path, found in zip(paths, spelled, strict=True) if found != [path]]
    unique = [(path, found[0]) for path, found in differing if len(found) == 1]
    if unique:
        path, image = unique[0]
        notes.append(f"{file}: {len(unique)} file names are spelled like {path}, but the image is {image}: matched")
    if len(unique) < len(differing):
        path, found = next(each for each in differing if len(each[1]) > 1)
        images_like = " and ".join(found)
        notes.append(
            f"{file}: {len(differing) - len(unique)} file names fit several images, such as {path}: {images_like}; "
            "correct their upper and lower case"
        )
    return [found[0] if len(found) == 1 else path for path, found in zip(paths, spelled, strict=True)]


def _similar_key(path: str) -> str:
    return unicodedata.normalize("NFC", normpath(path.strip().replace("\\", "/"))).casefold()


def _one_row_per_image(metadata: Metadata) -> Metadata:
    """Merges equal rows with a note; raises `ValueError` if an image has different rows."""
    first_row: dict[str, int] = {}
    repeated = []
    table, names, places = metadata.table, metadata.names, metadata.places
    for row, path in enumerate(metadata.paths):
        first = first_row.setdefault(path, row)
        if first == row:
            continue
        if table.slice(row, 1).to_pylist() != table.slice(first, 1).to_pylist():
            raise ValueError(
                f"{places[row]} ({names[row]}): {places[first]} ({names[first]}) names the same file; give each image "
                'one row, with all its captions in the column `captions` as a JSON list: ["…", "…"]'
            )
        repeated.append(f"{places[row]} ({names[row]}) equals {places[first].rpartition(', ')[2]}")
    if not repeated:
        return metadata
    kept = list(first_row.values())
    names, places = [names[row] for row in kept], [places[row] for row in kept]
    notes = [*metadata.notes, f"{repeated[0]}: {len(repeated)} repeated rows are left out"]
    return Metadata(metadata.file, table.take(kept), names, list(first_row), places, notes)


def _read_csv(file: Path, notes: list[str]) -> tuple[pa.Table, list[str]]:
    text = read_text(file, notes)
    line = 1
    if separator := re.match(r"sep=([,;\t|])\r?\n", text):  # for Excel
        text, line, delimiter = text[separator.end() :], 2, separator[1]
    else:
        delimiter = max(_DELIMITERS[file.suffix], key=lambda each: _fit(text, each))
    before = line
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    header: list[str] = []
    rows, places = [], []
    try:
        for cells in reader:
            where, line = f"{file}, line {line}", reader.line_num + before
            if not any(cells):
                continue
            if not header:
                header = [name.strip() for name in cells]
                if twice := next((name for name in header if name and header.count(name) > 1), None):
                    raise ValueError(f"{where}: there are two columns {twice!r}; rename one")
            elif len(cells) != len(header):
                raise ValueError(
                    f"{where}: the number of cells differs from the first line, {len(cells)} instead of {len(header)}; "
                    f"enclose a text with {delimiter!r} or a line break in double quotes"
                )
            else:
                places.append(where)
                rows.append(cells)
    except csv.Error as error:
        raise ValueError(f"{file}, line {line}: no valid CSV ({error}); close each double quote of this row") from None
    columns = dict(zip(header, zip(*rows, strict=True) if rows else [()] * len(header), strict=True))
    if any(columns.pop("", ())):
        notes.append(f"{file}: a column without a name in the first line is left out")
    texts = {name: pa.array([cell or None for cell in cells], pa.string()) for name, cells in columns.items()}
    return pa.table(texts), places


def _fit(text: str, delimiter: str) -> tuple[bool, int]:
    """Rates a delimiter by the first line: whether it separates the column of file names; number of columns."""
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        header = [name.strip() for name in next(filter(any, reader), [])]
    except csv.Error:
        return False, 0
    return not set(_NAME_COLUMNS).isdisjoint(header), len(header)


def _read_json_lines(file: Path, notes: list[str]) -> tuple[pa.Table, list[str]]:
    lines = list(read_json_lines(file, notes))
    columns = {}
    for name in dict.fromkeys(name for _, row in lines for name in row):
        cells = [None if _is_empty(row.get(name)) else row[name] for _, row in lines]
        try:
            columns[name] = _json_column(file, name, cells, notes)
        except UnicodeEncodeError:
            for (where, _), cell in zip(lines, cells, strict=True):
                check_string(json.dumps(cell, ensure_ascii=False), where, name)
            raise
    return pa.table(columns), [where for where, _ in lines]


def _json_column(file: Path, name: str, cells: list[Any], notes: list[str]) -> pa.Array:
    """Converts JSON values to one Arrow type; values without a common type become text."""
    try:
        column = pa.array(cells)
        if "struct<>" not in str(column.type):  # no Parquet type
            return column
    except (pa.ArrowException, OverflowError):
        notes.append(f"{file}: the column {name!r} is text, since its values have no common type")
    texts = [each if each is None or isinstance(each, str) else json.dumps(each, ensure_ascii=False) for each in cells]
    return pa.array(texts, pa.string())


def _read_parquet(file: Path) -> tuple[pa.Table, list[str]]:
    try:
        with pq.ParquetFile(file) as opened:  # `read_table` would add columns for folders named like camera=3
            table = opened.read()
    except pa.ArrowException as error:
        raise ValueError(f"{file}: no valid Parquet ({first_line(error)})") from None
    if twice := next((name for name in table.column_names if table.column_names.count(name) > 1), None):
        raise ValueError(f"{file}: there are two columns {twice!r}; rename one")
    names = [name for name in table.column_names if not name.startswith("__index_level_")]  # the index of pandas
    table = pa.table({name: _plain(table[name]) for name in names})
    return table, [f"{file}, row {number}" for number in range(1, len(table) + 1)]


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Decodes categories, and replaces "" and NaN, which pandas writes for empty cells, by null."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    if pa.types.is_string(column.type):
        return pc.if_else(pc.equal(column, ""), None, column)
    if pa.types.is_floating(column.type):
        return pc.if_else(pc.is_nan(column), None, column)
    return column


def _is_empty(value: Any) -> bool:
    return value is None or value == "" or value != value  # the last is NaN
