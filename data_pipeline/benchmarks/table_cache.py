"""Tables that were made once from annotation files, kept on the disk and mapped into memory when wanted again."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, DatasetDict, NamedSplit, config

NOTES = "notes.json"
ROWS_IN_A_BATCH = 1000  # what `datasets` writes: one row is then read without touching many others


def cache_folder(cache_dir: str | os.PathLike[str] | None, name: str, parts: Mapping[str, Any]) -> Path:
    """Where a set is kept: its name and a digest of all that it is made of, this package's code included.

    Args:
        cache_dir: by default the cache of `datasets`.
        parts: JSON values.
    """
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    here = Path(__file__).parent
    for file in sorted([*here.glob("*.py"), here.parent / "images.py", here.parent / "schema.py"]):
        digest.update(file.read_bytes())
    return Path(cache_dir or config.HF_DATASETS_CACHE) / "person_sets" / f"{name}-{digest.hexdigest()[:24]}"


def file_digest(file: Path | None) -> str | None:
    """A digest of a file's bytes; None for no file.

    Raises:
        OSError: the file cannot be read.
    """
    if file is None:
        return None
    if not file.is_file():
        raise FileNotFoundError(f"{file}: there is no such file")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def read_cached(folder: Path) -> tuple[DatasetDict, list[str]] | None:
    """The splits kept in a folder, mapped into memory, and the notes about them; None if there is no such folder."""
    try:
        kept = json.loads((folder / NOTES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    splits = DatasetDict()
    for name in kept["splits"]:
        splits[name] = Dataset.from_file(str(folder / f"{name}.arrow"), split=NamedSplit(name))
    return splits, kept["notes"]


def write_cached(folder: Path, tables: Mapping[str, pa.Table], notes: list[str], files: Mapping[str, str]) -> None:
    """Keeps tables and notes in a new folder; it appears complete or not at all, also when two processes write it.

    Args:
        files: further text files, by name.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".unfinished", dir=folder.parent))
    try:
        for name, table in tables.items():
            with pa.OSFile(str(draft / f"{name}.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table, max_chunksize=ROWS_IN_A_BATCH)
        for name, text in files.items():
            (draft / name).write_text(text, encoding="utf-8")
        (draft / NOTES).write_text(json.dumps({"splits": list(tables), "notes": notes}), encoding="utf-8")
        draft.chmod(0o755)
        try:
            draft.rename(folder)
        except OSError:
            if not (folder / NOTES).is_file():  # else another process was faster with the same content
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
