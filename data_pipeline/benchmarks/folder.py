"""A user's own images: a folder with a metadata file that says who they show, or the images alone, for a gallery."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .annotations import read_captions, split_named
from .benchmark import UNKNOWN, Benchmark, PersonImage, Source
from .image_listing import safe_path
from .people_splits import divide
from .side_files import numbered
from .text_files import check_string, first_line, read_json_lines, read_text

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
COLUMNS = {
    "file_name": "file_name",
    "person_id": "person_id",
    "caption": "captions",
    "captions": "captions",
    "split": "split",
    "camera": "camera_id",
    "camera_id": "camera_id",
    "outfit": "outfit_id",
    "outfit_id": "outfit_id",
    "identity_description": "identity_description",
    "clothing_description": "clothing_description",
}
"""Columns of a metadata file, and what they are here. Only `file_name` must be there."""
Row = dict[str, Any]


def read(source: Source) -> list[PersonImage]:
    """The images that the metadata file names, or all images where there is none.

    Person, camera and outfit may be any strings; they are numbered in alphabetical order then, and whole numbers are
    kept. Without a `split` column, people are divided into train, validation and test; images without a person are a
    gallery, in test.

    Raises:
        ValueError: the metadata cannot be read so; the message names the row.
    """
    if source.options.split_file is not None:
        raise ValueError(
            f"{source.folder}: a split file is for benchmarks; say it in the column `split` of the metadata"
        )
    found = [name for name in METADATA if (source.folder / name).is_file()]
    if len(found) > 1:
        raise ValueError(f"{source.folder}: {' and '.join(found)} are both there; keep one")
    if source.annotation is None:
        return _gallery(source)
    images = _described_images(source, source.annotation)
    unnamed = len(set(source.images.images()) - {safe_path(image.file_path, "") for image in images})
    if unnamed:
        source.notes.append(f"{source.annotation}: {unnamed} images in the folder are not in it: left out")
    return images


def _gallery(source: Source) -> list[PersonImage]:
    paths = source.images.images()
    deeper = [path for path in source.images.files if path.rpartition("/")[2] in METADATA]
    if deeper:
        raise ValueError(
            f"{source.folder / deeper[0]}: the metadata file must lie in {source.folder} itself, for all images, with "
            "paths relative to it and a column `split`"
        )
    if not paths:
        raise FileNotFoundError(f"{source.folder}: there is no image in it")
    source.notes.append(
        f"{source.folder}: no {', '.join(METADATA)} in it, so nobody says who the {len(paths)} images show: they are a "
        "gallery to search in, the split test, with person_id -1"
    )
    return [PersonImage(path, UNKNOWN, "test") for path in paths]


def _described_images(source: Source, file: Path) -> list[PersonImage]:
    rows = [({COLUMNS[key]: row[key] for key in row if key in COLUMNS}, where, row) for where, row in _rows(file)]
    if not rows:
        raise ValueError(f"{file}: there is no row in it")
    known = {key for _, _, row in rows for key in row}
    if "file_name" not in known:
        raise ValueError(f"{file}: there is no column `file_name`; it has {', '.join(map(str, known))}")
    unread = sorted(str(key) for key in known - COLUMNS.keys())
    if unread:
        source.notes.append(f"{file}: these columns are not read: {', '.join(unread)}; known are {', '.join(COLUMNS)}")

    first_seen: dict[str, str] = {}
    odd = {"lone": 0, "blank": 0}
    images: list[PersonImage] = []
    for values, where, row in rows:
        file_name = check_string(values.get("file_name"), where, "file_name")
        where += f" ({file_name})"
        path = safe_path(file_name, where)
        if first_seen.setdefault(path, where) != where:
            raise ValueError(
                f"{where}: {first_seen[path]} names the same file; give each image one row, with all its captions in "
                'the column `captions` as a JSON list: ["…", "…"]'
            )
        if "caption" in row and "captions" in row:
            raise ValueError(f"{where}: both `caption` and `captions` are given; keep one")
        captions = values.get("captions")
        image = PersonImage(file_name, UNKNOWN, split_named(values["split"], where) if "split" in values else "")
        image.captions = [] if captions is None else read_captions(_list_of(captions), where, odd)
        for key in ("identity_description", "clothing_description"):
            text = values.get(key)
            setattr(image, key, None if text is None else check_string(text, where, key).strip() or None)
        images.append(image)
    if odd["blank"]:
        source.notes.append(f"{file}: {odd['blank']} caption(s) are blank: left out")
    for key in ("person_id", "camera_id", "outfit_id"):
        for image, number in zip(images, numbered([row.get(key) for row, _, _ in rows], f"{file}, {key}"), strict=True):
            setattr(image, key, number)
    _divide(source, file, images)
    return images


def _divide(source: Source, file: Path, images: Sequence[PersonImage]) -> None:
    """Gives a split to images without one, in place, and checks that only test has unknown people."""
    if any(image.split for image in images):
        for image in images:
            if not image.split:
                raise ValueError(f"{file}, {image.file_path}: it has no `split`, but others have; give it one")
            if image.person_id == UNKNOWN and image.split != "test":
                raise ValueError(
                    f"{file}, {image.file_path}: it has no person_id, so it cannot be in the split {image.split}; only "
                    "test may have images of unknown people"
                )
        return
    people = {image.person_id for image in images} - {UNKNOWN}
    if len(people) < 3:
        source.notes.append(
            f"{file}: no column `split`, and {len(people)} people are too few to divide: all images are in test"
        )
        split_of = {}
    else:
        split_of = divide(people, source.options.seed)
        counts = {split: list(split_of.values()).count(split) for split in ("train", "validation", "test")}
        source.notes.append(
            f"{file}: no column `split`, so the people are divided by seed {source.options.seed}: "
            + ", ".join(f"{count} {split}" for split, count in counts.items())
        )
    for image in images:
        image.split = split_of.get(image.person_id, "test")


def _rows(file: Path) -> list[tuple[str, Row]]:
    """The rows of a metadata file, each with the words that say where it stands; empty cells are left away."""
    rows: list[tuple[str, Row]]
    if file.suffix == ".jsonl":
        rows = list(read_json_lines(file))
    elif file.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(read_text(file), newline=""), strict=True)
        rows = []
        try:
            for row in reader:
                where = f"{file}, line {reader.line_num}"
                if None in row or None in row.values():
                    raise ValueError(
                        f"{where}: it has not as many cells as the first line has columns; put a text with a comma in "
                        "it between double quotes"
                    )
                rows.append((where, row))
        except csv.Error as error:
            raise ValueError(f"{file}, line {reader.line_num}: no valid CSV ({error})") from None
    else:
        try:
            table = pq.read_table(file)
        except pa.ArrowException as error:
            raise ValueError(f"{file}: no valid Parquet ({first_line(error)})") from None
        rows = [(f"{file}, row {number}", row) for number, row in enumerate(table.to_pylist(), start=1)]
    return [(where, {key: value for key, value in row.items() if not _empty(value)}) for where, row in rows]


def _empty(value: Any) -> bool:
    return value is None or value == "" or value != value  # NaN, which pandas writes for empty cells


def _list_of(captions: Any) -> Any:
    """A cell of CSV holds a list as JSON."""
    if isinstance(captions, str) and captions.lstrip().startswith("["):
        try:
            return json.loads(captions)
        except json.JSONDecodeError:
            return captions
    return captions


FOLDER = Benchmark(
    title="folder of images",
    origin="you",
    layout=(
        "images, and metadata.csv, metadata.jsonl or metadata.parquet with file_name and, as far as known, person_id, "
        "caption or captions, split, camera, outfit, identity_description, clothing_description; or images alone"
    ),
    read=read,
    top_folders=(),
    annotations=METADATA,
    markers=(".",),
)
