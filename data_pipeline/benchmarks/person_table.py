"""Checks the images of a benchmark and converts them to one table per split."""

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, List, Value
from tqdm.auto import tqdm

from ..images import check_image
from ..schema import ATTRIBUTE_FEATURES, PERSON_FEATURES, check_splits
from .benchmark import UNKNOWN, Benchmark, PersonImage, Source
from .image_listing import safe_path
from .people_splits import hold_out
from .side_files import join, read_split_file
from .text_files import check_string, first_of

SPLITS = ("train", "validation", "test")
TABLE_FEATURES = Features({**PERSON_FEATURES, "file_path": Value("string"), "styled_captions": List(Value("string"))})
"""`PERSON_FEATURES` and the columns that a set from the disk adds; `styled_captions` is optional.

- `file_path`: the path in the annotation, relative to the image folder.
- `styled_captions`: captions of the image in a drawn annotator's style.
"""
LEFT_OUT = "left_out.jsonl"
MISSING = "there is no such file"
_LEAVE_OUT = "leave them out with --skip_unreadable (skip_unreadable=True)"
_REMEDY = f"put the images themselves into the folder, pass follow_links=True for links, or {_LEAVE_OUT}"


def build_tables(
    benchmark: Benchmark, source: Source, folder: Path
) -> tuple[dict[str, pa.Table], list[str], dict[str, str]]:
    """Reads a benchmark: the table of each split, warnings for the user, and text files to store beside the tables.

    Messages refer to `folder`, the cache folder of the result. Raises the errors of `load_person_dataset`.
    """
    options, notes = source.options, source.notes
    images = [image for image in benchmark.read(source) if not source.images.excludes(image.file_path)]
    if options.split_file is not None:
        _apply_split_file(images, options.split_file)

    # Missing and unreadable image files
    paths = [safe_path(image.file_path, source.name) for image in images]
    left_out = _missing(benchmark, source, images, paths)
    if options.skip_unreadable:
        left_out |= _unreadable(source.images.root, [path for path in paths if path not in left_out])
    if source.annotation is None and source.images.left_out:
        left_out |= source.images.left_out
        if not options.skip_unreadable:
            path, reason = min(left_out.items())
            raise FileNotFoundError(
                f"{source.folder}: {len(left_out)} paths cannot be read: {path} is {reason}; {_REMEDY}"
            )
    if source.annotation is None or source.annotation.parent.resolve() == source.images.root:
        notes += source.images.notes([source.annotation.name] if source.annotation else [])
    if left_out:
        counts = Counter("missing" if reason == MISSING else "unreadable" for reason in left_out.values())
        counted = " and ".join(f"{count} {kind}" for kind, count in counts.items())
        notes.append(f"{benchmark.title}: {counted} images are left out; {folder / LEFT_OUT} lists them")
        images = [image for image, path in zip(images, paths, strict=True) if path not in left_out]
        paths = [path for path in paths if path not in left_out]
    if not images:
        raise FileNotFoundError(
            f"{source.folder}: there is no image of {benchmark.title} in it. {benchmark.how_to_get()}"
        )

    # Splits of disjoint people
    notes += _compare_counts(benchmark, source, images)
    if benchmark.shares_validation:
        notes += _return_validation(benchmark, images)
    if benchmark.numbers_restart:
        notes += _renumber_test(benchmark, images)
    train = {image.person_id for image in images if image.split == "train"}
    if train and not any(image.split == "validation" for image in images):
        held_out, note = hold_out(train, options.val_people, options.seed, benchmark.title)
        notes.append(note)
        for image in images:
            if image.split == "train" and image.person_id in held_out:
                image.split = "validation"

    # Tables
    names = [name for name in TABLE_FEATURES if name not in ("image", "styled_captions")]
    columns: dict[str, list[Any]] = {name: [getattr(image, name) for image in images] for name in names}
    notes += join(columns, options)
    columns["image"] = [{"bytes": None, "path": str(source.images.root / path)} for path in paths]
    known = {**TABLE_FEATURES, **ATTRIBUTE_FEATURES}
    schema = Features({name: kind for name, kind in known.items() if name in columns}).arrow_schema
    table = pa.table(columns, schema=schema)
    split_of = pa.array([image.split for image in images])
    tables = {name: table.filter(pa.compute.equal(split_of, name)) for name in SPLITS}
    tables = {name: part for name, part in tables.items() if part.num_rows}
    try:
        check_splits(DatasetDict({name: Dataset(part) for name, part in tables.items()}))
    except ValueError as error:
        raise ValueError(f"{source.name}: {error}") from None
    if options.check_images and not options.skip_unreadable:
        _refuse_unreadable(source, paths)  # last, since it takes longest
    listed = [json.dumps({"file_path": path, "reason": why}, ensure_ascii=False) for path, why in left_out.items()]
    return tables, notes, {LEFT_OUT: "".join(f"{line}\n" for line in listed)} if left_out else {}


def _apply_split_file(images: Sequence[PersonImage], file: Path) -> None:
    """Assigns each image the split of its person, in place; images of unknown people keep theirs."""
    split_of = read_split_file(file)
    unnamed = sorted({image.person_id for image in images} - split_of.keys() - {UNKNOWN})
    if unnamed:
        raise ValueError(f"{file}: {len(unnamed)} people of the annotation are in no split of it: {first_of(unnamed)}")
    for image in images:
        image.split = split_of.get(image.person_id, image.split)


def _missing(
    benchmark: Benchmark, source: Source, images: Sequence[PersonImage], paths: Sequence[str]
) -> dict[str, str]:
    """Returns the paths without a file, each with the reason.

    Without `skip_unreadable` they are a `FileNotFoundError`.
    """
    listing = source.images
    missing: dict[str, str] = {}
    for image, path in zip(images, paths, strict=True):
        check_string(path, f"{listing.root}: {path!r}", "the file name")
        if path in listing:
            continue
        reason = listing.reason(path)
        if reason is not None and not source.options.skip_unreadable:
            raise FileNotFoundError(
                f"{source.name}, {image.file_path} in {listing.root}: on its path is {reason}; {_REMEDY}"
            )
        missing[path] = reason or MISSING
    if missing and not source.options.skip_unreadable:
        relative = " Paths must be relative to this folder." if len(missing) == len(paths) else ""
        raise FileNotFoundError(
            f"{source.annotation}: {len(missing)} of its {len(paths)} images are not in {listing.root}: "
            f"{first_of(list(missing), 3)}.{relative}{_absent_parts(benchmark, source)} Get them, or {_LEAVE_OUT}. "
            f"{benchmark.how_to_get()}"
        )
    return missing


def _unreadable(root: Path, paths: Sequence[str]) -> dict[str, str]:
    """Returns the paths of images that cannot be decoded, with the reason."""
    with ThreadPoolExecutor() as pool:
        found = pool.map(check_image, [root / path for path in paths])
        checked = zip(paths, tqdm(found, desc="checking images", total=len(paths), disable=None), strict=True)
        return {path: reason for path, reason in checked if reason is not None}


def _refuse_unreadable(source: Source, paths: Sequence[str]) -> None:
    """Raises `OSError` if an image cannot be decoded."""
    unreadable = _unreadable(source.images.root, paths)
    if unreadable:
        named = first_of([f"{path} ({reason})" for path, reason in unreadable.items()], 3)
        raise OSError(
            f"{source.name}: {len(unreadable)} of its {len(paths)} images cannot be read: {named}. Get them again, or "
            f"{_LEAVE_OUT}; `bdam data inspect` lists them all"
        )


def _compare_counts(benchmark: Benchmark, source: Source, images: Sequence[PersonImage]) -> list[str]:
    """Returns a warning if a split differs in size from the published one."""
    different = []
    for name, published in benchmark.published.items():
        here = [image for image in images if image.split == name]
        counts = {
            "people": len({image.person_id for image in here}),
            "images": len(here),
            "captions": sum(len(image.captions) for image in here),
        }
        off = [
            f"{count} {unit} ({getattr(published, unit)} published)"
            for unit, count in counts.items()
            if getattr(published, unit) not in (None, count)
        ]
        if off:
            different.append(f"{name} has {', '.join(off)}")
    if not different:
        return []
    absent = _absent_parts(benchmark, source)
    return [f"{benchmark.title}: counts differ from the published ones: {'; '.join(different)}.{absent}"]


def _absent_parts(benchmark: Benchmark, source: Source) -> str:
    present = {path.partition("/")[0] for path in source.images.files}
    absent = [part for part in benchmark.parts if part not in present]
    return f" These folders are absent from {source.images.root}: {', '.join(absent)}." if absent else ""


def _return_validation(benchmark: Benchmark, images: Sequence[PersonImage]) -> list[str]:
    """Moves validation images of train people to train, in place, so that other people select the checkpoint."""
    train = {image.person_id for image in images if image.split == "train"}
    shared = [image for image in images if image.split == "validation" and image.person_id in train]
    for image in shared:
        image.split = "train"
    return [f"{benchmark.title}: {len(shared)} validation images are of train people: added to train"] if shared else []


def _renumber_test(benchmark: Benchmark, images: Sequence[PersonImage]) -> list[str]:
    """Adds an offset to the numbers of test people if they overlap with those of other people, in place."""
    others = {image.person_id for image in images if image.split != "test"}
    test = [image for image in images if image.split == "test"]
    if not others.intersection(image.person_id for image in test):
        return []
    first = max(others) + 1
    for image in test:
        image.person_id += first
    return [
        f"{benchmark.title}: test people have the numbers of other people in train: {first} is added to each person_id "
        "of test"
    ]
