"""Generates a data set of synthetic pedestrians, so that a run needs no download."""

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, NamedSplit

from ..schema import PERSON_FEATURES
from .captions import (
    CAPTION_STYLES,
    CaptionStyle,
    write_caption,
    write_clothing_description,
    write_identity_description,
)
from .drawing import draw_photo
from .people import NUM_OUTFITS, SYNTHETIC_SEED, Outfit, Person, PersonTraits, Shot, describe_person, describe_shot
from .station import STATION_STYLES, draw_station_photo, write_station_clothing, write_station_identity


@dataclass(frozen=True)
class Look:
    """How people are drawn and described."""

    draw_photo: Callable[[Person, int, Shot, tuple[int, int], random.Random], bytes]
    write_identity: Callable[[PersonTraits, random.Random, random.Random], str]
    write_clothing: Callable[[Outfit, Shot, random.Random], str]
    caption_styles: dict[str, CaptionStyle]


SYNTHETIC_SETS = {
    "synthetic": Look(draw_photo, write_identity_description, write_clothing_description, CAPTION_STYLES),
    "synthetic-station": Look(draw_station_photo, write_station_identity, write_station_clothing, STATION_STYLES),
}
"""The looks by the name of the data set. The people of a seed are the same in all of them."""
TRAIN_PEOPLE_BEFORE_TEST = 1000
FIRST_ADDITIONAL_PERSON = 100_000


def load_synthetic(
    num_train_people: int = 500,
    num_val_people: int = 60,
    num_test_people: int = 120,
    images_per_outfit: int = 3,
    captions_per_image: int = 2,
    image_size: tuple[int, int] = (128, 64),
    seed: int = SYNTHETIC_SEED,
    name: str = "synthetic",
    cache_dir: str | None = None,
    num_proc: int | None = None,
) -> DatasetDict:
    """Draws the synthetic pedestrians, or loads them from the cache.

    Every person has two outfits and `images_per_outfit` images in each. Rows are sorted by person, outfit, image.
    The identities are disjoint; with the same seed, a number is the same person in every call. The first 1000
    training people are numbered before those of the other splits and all others far after them, so that a larger
    training split leaves the test split unchanged.

    Args:
        image_size: height and width in pixels, as in transformers.
        name: one of `SYNTHETIC_SETS`, which differ in how people are drawn and described.
        cache_dir: by default the cache of `datasets`.
        num_proc: number of processes; the result does not depend on it.

    Returns:
        The splits `train`, `validation` and `test`, with the columns of `PERSON_FEATURES`.

    Raises:
        ValueError: a count is smaller than 1, the image is too small, or the name is unknown.
    """
    counts = {"train": num_train_people, "validation": num_val_people, "test": num_test_people}
    names = ("num_train_people", "num_val_people", "num_test_people", "images_per_outfit", "captions_per_image")
    for argument, value in zip(names, (*counts.values(), images_per_outfit, captions_per_image), strict=True):
        if value < 1:
            raise ValueError(f"load_synthetic: {argument} must be at least 1, got {value}")
    height, width = image_size
    if height < 32 or width < 16:
        raise ValueError(f"load_synthetic: image_size (height, width) must be at least (32, 16), got {image_size}")
    if name not in SYNTHETIC_SETS:
        raise ValueError(f"load_synthetic: name must be {' or '.join(SYNTHETIC_SETS)}, got {name!r}")

    numbers: dict[str, list[int]] = {}
    first = 0
    for split, count in counts.items():
        count = min(count, TRAIN_PEOPLE_BEFORE_TEST) if split == "train" else count
        numbers[split] = list(range(first, first + count))
        first += count
    additional = num_train_people - len(numbers["train"])
    numbers["train"] += range(FIRST_ADDITIONAL_PERSON, FIRST_ADDITIONAL_PERSON + additional)

    splits = DatasetDict()
    for split, people in numbers.items():
        splits[split] = Dataset.from_generator(
            _rows,
            features=PERSON_FEATURES,
            cache_dir=cache_dir,
            gen_kwargs={
                "person_ids": people,  # num_proc divides a list
                "images_per_outfit": images_per_outfit,
                "captions_per_image": captions_per_image,
                "image_size": (height, width),
                "seed": seed,
                "name": name,
                "recipe": _recipe(),
            },
            num_proc=None if num_proc is None else min(num_proc, len(people)),
            split=NamedSplit(split),
        )
    return splits


def caption_styles(
    seed: int, person_id: int, outfit: int, shot: int, count: int, names: Sequence[str] = tuple(CAPTION_STYLES)
) -> list[str]:
    """Draws the annotator styles of the first `count` captions of an image; all are used once before one repeats."""
    rng = random.Random(f"{seed}/{person_id}/{outfit}/{shot}/styles")
    styles: list[str] = []
    while len(styles) < count:
        styles += rng.sample(names, len(names))
    return styles[:count]


def synthetic_caption_styles(split: Dataset, seed: int = SYNTHETIC_SEED) -> list[list[str]]:
    """Returns the style of every caption of a complete, unshuffled split of the set `synthetic`: one list per row."""
    seen: Counter[int] = Counter()
    styles = []
    for row in split.select_columns(["person_id", "outfit_id", "captions"]):
        outfit_id, count = row["outfit_id"], len(row["captions"])
        styles.append(caption_styles(seed, row["person_id"], outfit_id % NUM_OUTFITS, seen[outfit_id], count))
        seen[outfit_id] += 1
    return styles


def synthetic_row(
    seed: int,
    person_id: int,
    outfit: int,
    shot: int,
    captions_per_image: int = 2,
    image_size: tuple[int, int] = (128, 64),
    name: str = "synthetic",
) -> dict[str, Any]:
    """Returns one row of the data set, with the image as encoded bytes; a pure function of its arguments."""
    person = describe_person(seed, person_id)
    photo = describe_shot(seed, person_id, outfit, shot)
    look = SYNTHETIC_SETS[name]
    styles = look.caption_styles
    key = f"{seed}/{person_id}/{outfit}/{shot}"
    styles_of_captions = caption_styles(seed, person_id, outfit, shot, captions_per_image, tuple(styles))
    captions = [
        write_caption(
            styles[style], person.traits, person.outfits[outfit], photo, random.Random(f"{key}/caption {number}")
        )
        for number, style in enumerate(styles_of_captions)
    ]
    template = random.Random(f"{seed}/{person_id}/template")
    return {
        "image": {
            "bytes": look.draw_photo(person, outfit, photo, image_size, random.Random(f"{key}/scene")),
            "path": None,
        },
        "person_id": person_id,
        "camera_id": photo.camera_id,
        "outfit_id": person_id * NUM_OUTFITS + outfit,
        "captions": captions,
        "identity_description": look.write_identity(person.traits, template, random.Random(f"{key}/identity")),
        "clothing_description": look.write_clothing(person.outfits[outfit], photo, random.Random(f"{key}/clothing")),
    }


def _rows(
    person_ids: Sequence[int],
    images_per_outfit: int,
    captions_per_image: int,
    image_size: tuple[int, int],
    seed: int,
    name: str,
    recipe: str,
) -> Iterator[dict[str, Any]]:
    for person_id in person_ids:
        for outfit in range(NUM_OUTFITS):
            for shot in range(images_per_outfit):
                yield synthetic_row(seed, person_id, outfit, shot, captions_per_image, image_size, name)


def _recipe() -> str:
    """Returns a digest of this package's source files for the cache key: changed code redraws the set."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    assert len(sources) > 1, f"{Path(__file__).parent} has no source files to digest"
    digest = hashlib.sha256()
    for path in sources:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
