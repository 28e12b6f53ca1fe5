"""Caches the tables of data sets as Arrow files, which later loads memory-map."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, DatasetDict, NamedSplit, config

from modeling_bdam.files import atomic_folder

NOTES = "notes.json"
ROWS_IN_A_BATCH = 1000  # as `datasets` writes: a reader of one row decodes few others


def cache_folder(cache_dir: str | os.PathLike[str] | None, name: str, parts: Mapping[str, Any]) -> Path:
    """Returns the cache folder of a set: its name and a digest of its inputs and of this package's source files.

    `parts` are the inputs as JSON values; `cache_dir` is the cache of `datasets` by default.
    """
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    here = Path(__file__).parent
    for file in sorted([*here.glob("*.py"), here.parent / "images.py", here.parent / "schema.py"]):
        digest.update(file.read_bytes())
    return Path(cache_dir or config.HF_DATASETS_CACHE) / "person_sets" / f"{name}-{digest.hexdigest()[:24]}"


def file_digest(file: Path) -> str:
    """Returns the SHA-256 of a file; raises `OSError` if it cannot be read."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: there is no such file")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def read_cached(folder: Path) -> tuple[DatasetDict, list[str]] | None:
    """Memory-maps the splits in a cache folder and returns them with their notes; None if there is no such folder."""
    try:
        kept = json.loads((folder / NOTES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    splits = DatasetDict()
    for name in kept["splits"]:
        splits[name] = Dataset.from_file(str(folder / f"{name}.arrow"), split=NamedSplit(name))
    return splits, kept["notes"]


def write_cached(folder: Path, tables: Mapping[str, pa.Table], notes: list[str], files: Mapping[str, str]) -> None:
    """Writes tables and notes to a new folder atomically; a second process that writes the same folder changes nothing.

    `files` are further text files, by name. Raises `OSError` if the folder cannot be written.
    """
    try:
        with atomic_folder(folder) as draft:
            for name, table in tables.items():
                sink = draft / f"{name}.arrow"
                with pa.OSFile(str(sink), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
                    writer.write_table(table, max_chunksize=ROWS_IN_A_BATCH)
            for name, text in files.items():
                (draft / name).write_text(text, encoding="utf-8")
            (draft / NOTES).write_text(json.dumps({"splits": list(tables), "notes": notes}), encoding="utf-8")
    except OSError:
        if not (folder / NOTES).is_file():  # otherwise another process has written the same content first
            raise
