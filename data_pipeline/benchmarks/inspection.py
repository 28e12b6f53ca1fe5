"""Inspects a data set before training: counts, captions and readable image files."""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from datasets import Dataset, DatasetDict
from tqdm.auto import tqdm

from ..images import check_image, image_size, with_image_files
from .benchmark import UNKNOWN
from .person_table import LEFT_OUT

_ROWS_AT_ONCE = 512  # bounds the memory for tables that contain their images


@dataclass(frozen=True)
class Spread:
    """Minimum, median and maximum of some numbers."""

    smallest: float
    median: float
    largest: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "Spread | None":
        """Computes the spread; None for an empty sequence."""
        return cls(min(numbers), median(numbers), max(numbers)) if numbers else None


@dataclass(frozen=True)
class BadImage:
    """An unreadable image file and the reason; `split` is None if the loader has left it out."""

    file: str
    reason: str
    split: str | None = None


@dataclass(frozen=True)
class SplitInspection:
    """Statistics of one split.

    Attributes:
        ids: number of known people.
        captioned_images: images with a caption.
        words: words per caption, split at white space.
        width, height: size of the stored image files in pixels, before any EXIF rotation.
        cameras: number of known cameras; `without_camera` counts images without one.
        outfits: pairs of a person and an outfit; `without_outfit` counts images without one.
        shared_captions: distinct captions that occur, letter for letter, with different people.
        images_with_shared_captions: images with one of them.
        described_images: images with both descriptions.
        styled_images: images with captions in a drawn style.
        unreadable: images that cannot be decoded.
    """

    ids: int
    images: int
    images_a_person: Spread | None
    captions: int
    captioned_images: int
    words: Spread | None
    width: Spread | None
    height: Spread | None
    cameras: int
    without_camera: int
    outfits: int
    without_outfit: int
    shared_captions: int
    images_with_shared_captions: int
    described_images: int
    styled_images: int
    unreadable: int


def inspect_splits(splits: DatasetDict, progress: bool = False) -> tuple[dict[str, SplitInspection], list[BadImage]]:
    """Returns the statistics of each split and the unreadable images; decodes every image.

    Args:
        splits: a data set with the columns of `PERSON_FEATURES`; its images may be unreadable.
        progress: shows a progress bar.
    """
    found: dict[str, SplitInspection] = {}
    bad: list[BadImage] = []
    with tqdm(total=sum(map(len, splits.values())), desc="checking images", disable=not progress) as bar:
        for name, split in splits.items():
            sizes, unreadable = _check_images(split, str(name), bar)
            bad += unreadable
            found[str(name)] = _inspect(split, sizes, len(unreadable))
    return found, bad


def left_out_images(splits: DatasetDict) -> list[BadImage]:
    """Returns the images that `load_person_dataset` has left out of these splits, with `skip_unreadable`."""
    files = {Path(cached["filename"]).parent / LEFT_OUT for split in splits.values() for cached in split.cache_files}
    lines = [line for file in sorted(files) if file.is_file() for line in file.read_text("utf-8").splitlines()]
    return [BadImage(entry["file_path"], entry["reason"]) for entry in map(json.loads, lines)]


@contextmanager
def loader_notes() -> Iterator[list[str]]:
    """Collects the warnings of the loaders in a list instead of printing them."""
    notes: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: notes.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(__package__)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield notes
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def _check_images(split: Dataset, name: str, bar: tqdm) -> tuple[list[tuple[int, int]], list[BadImage]]:
    """Returns the sizes of the readable images, and the unreadable images."""
    columns = [column for column in ("image", "file_path") if column in split.column_names]
    rows = with_image_files(split.select_columns(columns))
    sizes: list[tuple[int, int]] = []
    bad: list[BadImage] = []
    with ThreadPoolExecutor() as pool:
        for first in range(0, len(rows), _ROWS_AT_ONCE):
            batch = rows[first : first + _ROWS_AT_ONCE]
            for position, found in enumerate(
                pool.map(lambda image: check_image(image) or image_size(image), batch["image"])
            ):
                if isinstance(found, str):
                    own = batch["file_path"][position] if "file_path" in batch else batch["image"][position]["path"]
                    bad.append(BadImage(own or f"row {first + position}", found, name))
                else:
                    sizes.append(found)
                bar.update()
    return sizes, bad


def _inspect(split: Dataset, sizes: Sequence[tuple[int, int]], unreadable: int) -> SplitInspection:
    columns: dict[str, list[Any]] = {name: list(split[name]) for name in split.column_names if name != "image"}
    people, outfits, captions = columns["person_id"], columns["outfit_id"], columns["captions"]
    people_of: dict[str, set[int]] = {}
    for person, row in zip(people, captions, strict=True):
        for caption in row:
            people_of.setdefault(caption, set()).add(person)
    shared = {caption for caption, persons in people_of.items() if len(persons) > 1}
    known = [person for person in people if person != UNKNOWN]
    described = zip(columns["identity_description"], columns["clothing_description"], strict=True)
    return SplitInspection(
        ids=len(set(known)),
        images=len(split),
        images_a_person=Spread.of(list(Counter(known).values())),
        captions=sum(map(len, captions)),
        captioned_images=sum(map(bool, captions)),
        words=Spread.of([len(caption.split()) for row in captions for caption in row]),
        width=Spread.of([width for width, _ in sizes]),
        height=Spread.of([height for _, height in sizes]),
        cameras=len(set(columns["camera_id"]) - {UNKNOWN}),
        without_camera=columns["camera_id"].count(UNKNOWN),
        outfits=len({pair for pair in zip(people, outfits, strict=True) if pair[1] != UNKNOWN}),
        without_outfit=outfits.count(UNKNOWN),
        shared_captions=len(shared),
        images_with_shared_captions=sum(not shared.isdisjoint(row) for row in captions),
        described_images=sum(all(pair) for pair in described),
        styled_images=sum(map(bool, columns.get("styled_captions", []))),
        unreadable=unreadable,
    )
