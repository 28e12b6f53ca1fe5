"""Reads a user's own images: a folder with a metadata file, or a folder of images only, as a gallery."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from posixpath import normpath
from typing import Any

import pyarrow as pa

from .annotations import read_captions, split_named
from .benchmark import UNKNOWN, Benchmark, PersonImage, Source
from .image_listing import safe_path
from .metadata_file import METADATA_FILES, Metadata, find_metadata_file, read_metadata
from .people_splits import divide
from .side_files import DESCRIPTION_KEYS, numbered, optional_text

COLUMNS = {
    **{name: name for name in ("file_name", "person_id", "captions", "split", *DESCRIPTION_KEYS)},
    "caption": "captions",
    **{name: f"{part}_id" for part in ("camera", "outfit") for name in (part, f"{part}_id")},
}
"""Columns of a metadata file and their names in the table. Only `file_name` (or `file_path`) is required."""
LABELS = ("person_id", "camera_id", "outfit_id")


def read(source: Source) -> list[PersonImage]:
    """Reads the images in the metadata file, or all images if there is no such file.

    Person, camera and outfit may be strings, which are numbered alphabetically; whole numbers are kept, but a column
    with a leading zero, such as 007, is one of strings. Without a
    `split` column, people are divided into train, validation and test. Images without a person join test as a gallery.
    Invalid metadata raise a `ValueError` with the row.
    """
    if source.options.split_file is not None:
        raise ValueError(f"{source.folder}: a folder takes no split file; add the column `split` to its metadata file")
    find_metadata_file(source.folder)  # refuses several files
    if source.annotation is None:
        return _gallery(source)
    images = _described_images(source, source.annotation)
    unnamed = len(set(source.images.images()) - {safe_path(image.file_path, "") for image in images})
    if unnamed:
        source.notes.append(f"{source.annotation}: {unnamed} images in the folder are not in it: ignored")
    return images


def _gallery(source: Source) -> list[PersonImage]:
    paths = source.images.images()
    deeper = [path for path in source.images.files if path.rpartition("/")[2] in METADATA_FILES]
    if deeper:
        raise ValueError(
            f"{source.folder / deeper[0]}: the metadata file must be directly in {source.folder}, for all images, with "
            "paths relative to it and a column `split`"
        )
    if not paths:
        raise source.images.no_images()
    source.notes.append(
        f"{source.folder}: no {', '.join(METADATA_FILES)} in it, so the people on the {len(paths)} images are unknown: "
        "the images are a gallery to search in, the split test, with person_id -1"
    )
    return [PersonImage(path, UNKNOWN, "test") for path in paths]


def _described_images(source: Source, file: Path) -> list[PersonImage]:
    # Columns; those of labels must be typed as a whole
    metadata = read_metadata(file, source.images.files)
    table = metadata.table
    if ignored := sorted(set(table.column_names) - COLUMNS.keys()):
        source.notes.append(f"{file}: ignored columns: {', '.join(ignored)}; the known ones are {', '.join(COLUMNS)}")
    table = table.select([name for name in table.column_names if name in COLUMNS])
    column_of = {COLUMNS[name]: name for name in table.column_names}
    for name in table.column_names:
        if COLUMNS[name] in LABELS and (other := column_of[COLUMNS[name]]) != name:
            raise ValueError(f"{file}: both `{name}` and `{other}` are given; keep one")

    # One image per row
    irregular = {"single": 0, "blank": 0}
    images: list[PersonImage] = []
    rows = table.to_pylist() or [{} for _ in metadata.paths]
    for row, name, path, where in zip(rows, metadata.names, metadata.paths, metadata.places, strict=True):
        where += f" ({name})"
        values = {COLUMNS[key]: value for key, value in row.items() if value is not None}
        if row.get("caption") is not None and row.get("captions") is not None:
            raise ValueError(f"{where}: both `caption` and `captions` are given; keep one")
        split = split_named(values["split"], where) if "split" in values else ""
        image = PersonImage(name if normpath(name) == path else path, UNKNOWN, split)
        if "captions" in values:
            image.captions = read_captions(_list_of(values["captions"]), where, irregular)
        for key in DESCRIPTION_KEYS:
            setattr(image, key, optional_text(values.get(key), where, key))
        images.append(image)
    if irregular["blank"]:
        source.notes.append(f"{file}: {irregular['blank']} caption(s) are blank: dropped")

    # Labels to numbers, over all rows
    for key in filter(column_of.__contains__, LABELS):
        numbers = numbered(_labels(metadata, column_of[key]), f"{file}, {key}")
        for image, number in zip(images, numbers, strict=True):
            setattr(image, key, number)
    source.notes += metadata.notes
    _assign_splits(source, file, images)
    return images


def _labels(metadata: Metadata, name: str) -> list[Any]:
    """Returns the labels in a column: integers if all are whole numbers (7 or 7.0), otherwise as written."""
    typed = metadata.typed(name)
    if pa.types.is_integer(typed.type) or pa.types.is_floating(typed.type):
        with suppress(pa.ArrowInvalid):
            return typed.cast(pa.int64()).to_pylist()
    return metadata.table[name].to_pylist()


def _assign_splits(source: Source, file: Path, images: Sequence[PersonImage]) -> None:
    """Assigns a split to images without one, in place; refuses unknown people outside test."""
    if any(image.split for image in images):
        for image in images:
            if not image.split:
                raise ValueError(f"{file}, {image.file_path}: no `split`, but other rows have one; add it")
            if image.person_id == UNKNOWN and image.split != "test":
                raise ValueError(
                    f"{file}, {image.file_path}: no person_id, so it cannot be in the split {image.split}; only test "
                    "may have images of unknown people"
                )
        return
    people = {image.person_id for image in images} - {UNKNOWN}
    split_of: dict[int, str] = {}
    if len(people) < 3:
        note = f"and {len(people)} people are too few to divide: all images are in test"
    else:
        split_of = divide(people, source.options.seed)
        counts = {split: list(split_of.values()).count(split) for split in ("train", "validation", "test")}
        note = f"so the people are divided with seed {source.options.seed}: "
        note += ", ".join(f"{count} {split}" for split, count in counts.items())
    source.notes.append(f"{file}: no column `split`, {note}")
    for image in images:
        image.split = split_of.get(image.person_id, "test")


def _list_of(captions: Any) -> Any:
    """Decodes the JSON list in a CSV cell."""
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
        "images, and metadata.csv, .tsv, .jsonl or .parquet with file_name and, if known, person_id, "
        "caption or captions, split, camera, outfit, identity_description, clothing_description; or images only"
    ),
    read=read,
    top_folders=(),
    annotations=METADATA_FILES,
    markers=(".",),
)
