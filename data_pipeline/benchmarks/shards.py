"""Reads sets of millions of images in shards, Parquet or WebDataset (tar), without unpacking or copying the images.

A table with the texts and a reference to each image (see `data_pipeline/images.py`) is written to the cache and
memory-mapped by `datasets`; each image is read from its shard when its row is read. So an epoch is a true shuffle, and
batches may be balanced by identity, which a stream with a shuffle buffer cannot do.
"""

import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import DatasetDict, Features

from ..images import IMAGE_SUFFIXES, parquet_reference, tar_reference
from .annotations import PATH_KEYS, PERSON_KEYS, SPLITS
from .benchmark import UNKNOWN, Options
from .people_splits import hold_out
from .person_table import TABLE_FEATURES
from .table_cache import cache_folder, read_cached, write_cached
from .text_files import first_of

_COLUMNS = [name for name in TABLE_FEATURES if name != "styled_captions"]
_SCHEMA = Features({name: TABLE_FEATURES[name] for name in _COLUMNS}).arrow_schema
_LARGE_GROUP = 2000  # rows; one image costs the reading of its row group


def load_shards(folder: Path, cache_dir: str | None, options: Options) -> tuple[DatasetDict, list[str]]:
    """Loads the splits of a folder of shards, and warnings; the index of the shards is cached.

    The name of a shard begins with its split (`train-00000-of-00010.parquet`, `val-000.tar`), otherwise it is of train.
    Parquet files have the columns of `PERSON_FEATURES`, of which only `image` (with `bytes`) and `captions` (or
    `caption`, a string) are required. In a tar file, a sample is an image and a `.json` with these keys, or a `.txt`
    with one caption. Without person numbers, each image is another person. Without validation shards, people of train
    are held out for it, in tables of their own: a selection of rows would make each reading of a column slow.

    Raises:
        FileNotFoundError: there are no shards.
        ValueError: a shard is damaged or compressed, or lacks a column.
    """
    files = sorted(file for file in folder.rglob("*") if file.suffix in (".parquet", ".tar"))
    if not files:
        raise FileNotFoundError(f"{folder}: there are no shards (.parquet, .tar) in it")
    stats = [(str(file.relative_to(folder)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    drawn = options.val_people, options.seed
    cache = cache_folder(cache_dir, "shards", {"folder": str(folder), "shards": stats, "held out": drawn})
    cached = read_cached(cache)
    if cached is None:
        tables: dict[str, list[pa.Table]] = {}
        notes: list[str] = []
        count = 0
        for file in files:
            read: Callable[[Path, int, list[str]], Iterator[pa.Table]]
            read = _parquet_tables if file.suffix == ".parquet" else _tar_tables
            for table in read(file, count, notes):
                tables.setdefault(_split(file), []).append(table)
                count += len(table)
        whole: dict[str, pa.Table] = {
            name: pa.concat_tables(tables[name]) for name in ("train", "validation", "test") if name in tables
        }
        if "train" in whole and "validation" not in whole:
            people = whole["train"].column("person_id").to_numpy()
            held_out, note = hold_out(people.tolist(), *drawn, str(folder))
            notes.append(note)
            is_held_out = np.isin(people, list(held_out))
            parts = {"train": whole["train"].filter(~is_held_out), "validation": whole["train"].filter(is_held_out)}
            whole |= {name: part for name, part in parts.items() if len(part)}
        write_cached(cache, whole, notes, {})
        cached = read_cached(cache)
        assert cached is not None
    return cached


def _split(file: Path) -> str:
    name = file.name.replace(".", "-").replace("_", "-").partition("-")[0].lower()
    return SPLITS.get(name, "train")


def _parquet_tables(file: Path, count: int, notes: list[str]) -> Iterator[pa.Table]:
    """Yields one table of a Parquet file, without image bytes; `count` rows are in the shards before."""
    try:
        shard = pq.ParquetFile(file, memory_map=True)
    except pa.ArrowException as error:
        raise ValueError(f"{file}: it cannot be read: {' '.join(str(error).split())}") from None
    names = shard.schema_arrow.names
    captions = "captions" if "captions" in names else "caption"
    if missing := {"image", captions} - set(names):
        raise ValueError(f"{file}: no column {' and '.join(sorted(missing))}; the columns are {', '.join(names)}")
    kind = shard.schema_arrow.field("image").type
    if not pa.types.is_struct(kind) or "bytes" not in [field.name for field in kind]:
        raise ValueError(f"{file}: the column image is {kind}, not an image with its bytes; use `bdam data convert`")
    read = [name for name in _COLUMNS if name in names and name != "image"] + [captions] * (captions == "caption")
    sizes = [shard.metadata.row_group(group).num_rows for group in range(shard.num_row_groups)]
    if max(sizes, default=0) > _LARGE_GROUP:
        notes.append(f"{file}: {max(sizes)} rows in a row group make single images slow; write groups of about 100")
    table = shard.read(columns=read)
    columns: dict[str, Any] = {name: table.column(name) for name in read}
    if captions == "caption":
        columns["captions"] = pa.array([[text] if text else [] for text in columns.pop("caption").to_pylist()])
    references = [parquet_reference(str(file), group, row) for group, size in enumerate(sizes) for row in range(size)]
    yield _table(columns, references, count)


def _tar_tables(file: Path, count: int, notes: list[str]) -> Iterator[pa.Table]:
    """Yields one table of a tar file; samples are consecutive members with the same name up to the first dot."""
    samples: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(file, "r:") as shard:
            for member in shard:
                key, suffix = _key(member.name)
                if not member.isfile():
                    continue
                sample = samples.setdefault(key, {"captions": []})
                if suffix in IMAGE_SUFFIXES:
                    sample["image"] = tar_reference(str(file), member.offset_data, member.size)
                    sample["file_path"] = member.name
                elif suffix in (".json", ".txt"):
                    content = shard.extractfile(member)
                    assert content is not None
                    _add_text(sample, content.read(), suffix, f"{file}, {member.name}")
    except tarfile.TarError as error:
        raise ValueError(f"{file}: no plain tar file ({error}); shards must not be compressed or truncated") from None
    whole = [sample for sample in samples.values() if "image" in sample]
    if len(whole) < len(samples):
        lost = [key for key, sample in samples.items() if "image" not in sample]
        notes.append(f"{file}: {len(lost)} samples have no image of a known format: {first_of(lost, 3)}")
    names = [name for name in _COLUMNS if name != "image" and any(name in sample for sample in whole)]
    numbers = ("person_id", "camera_id", "outfit_id")
    fallback: dict[str, Any] = dict.fromkeys(numbers, UNKNOWN) | {"captions": []}
    columns = {name: [sample.get(name, fallback.get(name)) for sample in whole] for name in names}
    yield _table(columns, [sample["image"] for sample in whole], count)


def _key(name: str) -> tuple[str, str]:
    """Returns the key of a sample and the suffix of a member: `a/7.seg.png` is of `a/7`."""
    folder, slash, base = name.rpartition("/")
    stem, _, _ = base.partition(".")
    return f"{folder}{slash}{stem}", Path(base).suffix.lower()


def _add_text(sample: dict[str, Any], content: bytes, suffix: str, where: str) -> None:
    """Adds the fields of a member `.json`, or the caption of a `.txt`, to a sample."""
    try:
        text = content.decode("utf-8")
        fields = json.loads(text) if suffix == ".json" else {"caption": text.strip()}
    except ValueError as error:
        raise ValueError(f"{where}: {error}; repair the shard") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{where}: expected an object with captions, not a {type(fields).__name__}")
    texts = fields.get("captions", fields.get("caption", []))
    sample["captions"] += [texts] if isinstance(texts, str) else texts
    person = next((fields[key] for key in PERSON_KEYS[:3] if key in fields), None)
    known = {name: fields[name] for name in _COLUMNS if name in fields and name not in ("image", "captions")}
    path = next((fields[key] for key in PATH_KEYS if isinstance(fields.get(key), str)), None)
    sample.update(
        known | ({} if person is None else {"person_id": person}) | ({} if path is None else {"file_path": path})
    )


def _table(columns: dict[str, Any], references: list[str], count: int) -> pa.Table:
    """Builds a table of the schema; missing numbers are unknown, missing people are numbered from `count`."""
    rows = len(references)
    columns["image"] = [{"bytes": None, "path": reference} for reference in references]
    columns.setdefault("person_id", range(count, count + rows))
    columns.setdefault("file_path", [reference.rpartition("/")[2] for reference in references])
    filled = {name: columns.get(name, [UNKNOWN if name.endswith("_id") else None] * rows) for name in _SCHEMA.names}
    arrays = [
        column.cast(_SCHEMA.field(name).type).combine_chunks()
        if isinstance(column, pa.ChunkedArray)
        else pa.array(column, _SCHEMA.field(name).type)
        for name, column in filled.items()
    ]
    return pa.Table.from_arrays(arrays, schema=_SCHEMA)
