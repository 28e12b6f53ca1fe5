"""Reads a user's own images: a folder with a metadata file, or a folder of images only, as a gallery."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .annotations import read_captions, split_named
from .benchmark import UNKNOWN, Benchmark, PersonImage, Source
from .image_listing import safe_path
from .metadata_file import METADATA_FILES, find_metadata_file, read_metadata_rows
from .people_splits import divide
from .side_files import DESCRIPTION_KEYS, numbered, optional_text
from .text_files import check_string

COLUMNS = {
    **{name: name for name in ("file_name", "person_id", "captions", "split", *DESCRIPTION_KEYS)},
    "caption": "captions",
    **{name: f"{part}_id" for part in ("camera", "outfit") for name in (part, f"{part}_id")},
}
"""Columns of a metadata file and their names in the table. Only `file_name` is required."""


def read(source: Source) -> list[PersonImage]:
    """Reads the images in the metadata file, or all images if there is no such file.

    Person, camera and outfit may be strings, which are numbered alphabetically; whole numbers are kept. Without a
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
        raise FileNotFoundError(f"{source.folder}: the folder contains no image")
    source.notes.append(
        f"{source.folder}: no {', '.join(METADATA_FILES)} in it, so the people on the {len(paths)} images are unknown: "
        "the images are a gallery to search in, the split test, with person_id -1"
    )
    return [PersonImage(path, UNKNOWN, "test") for path in paths]


def _described_images(source: Source, file: Path) -> list[PersonImage]:
    rows = read_metadata_rows(file)
    if not rows:
        raise ValueError(f"{file}: the file has no rows")

    # Column names
    columns = {key for _, row in rows for key in row}
    if "file_name" not in columns:
        raise ValueError(f"{file}: there is no column `file_name`; the columns are {', '.join(map(str, columns))}")
    if ignored := sorted(str(key) for key in columns - COLUMNS.keys()):
        source.notes.append(f"{file}: ignored columns: {', '.join(ignored)}; the known ones are {', '.join(COLUMNS)}")

    # One image per row
    first_seen: dict[str, str] = {}
    irregular = {"single": 0, "blank": 0}
    images: list[PersonImage] = []
    values_of = [{COLUMNS[key]: value for key, value in row.items() if key in COLUMNS} for _, row in rows]
    for values, (where, row) in zip(values_of, rows, strict=True):
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
        image = PersonImage(file_name, UNKNOWN, split_named(values["split"], where) if "split" in values else "")
        if "captions" in values:
            image.captions = read_captions(_list_of(values["captions"]), where, irregular)
        for key in DESCRIPTION_KEYS:
            setattr(image, key, optional_text(values.get(key), where, key))
        images.append(image)
    if irregular["blank"]:
        source.notes.append(f"{file}: {irregular['blank']} caption(s) are blank: dropped")

    # Labels to numbers, over all rows
    for key in ("person_id", "camera_id", "outfit_id"):
        numbers = numbered([values.get(key) for values in values_of], f"{file}, {key}")
        for image, number in zip(images, numbers, strict=True):
            setattr(image, key, number)
    _assign_splits(source, file, images)
    return images


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
        "images, and metadata.csv, metadata.jsonl or metadata.parquet with file_name and, if known, person_id, "
        "caption or captions, split, camera, outfit, identity_description, clothing_description; or images only"
    ),
    read=read,
    top_folders=(),
    annotations=METADATA_FILES,
    markers=(".",),
)
