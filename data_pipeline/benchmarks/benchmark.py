"""What a benchmark's file says: where things lie, how they are read, and what was published."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .image_listing import ImageListing

UNKNOWN = -1
"""The person, camera or outfit of an image for which nobody says it."""


RESEARCH_ONLY = "distributed by its authors for non-commercial research"
UNKNOWN_LICENSE = "not known to this package: ask the distributor of the data"


@dataclass(slots=True)
class PersonImage:
    """One image as a benchmark lists it; the columns of the table, see data_pipeline/schema.py.

    Attributes:
        file_path: as the annotation writes it, relative to the image folder.
        split: train, validation or test; empty where only a split file says it.
    """

    file_path: str
    person_id: int
    split: str
    camera_id: int = UNKNOWN
    outfit_id: int = UNKNOWN
    captions: list[str] = field(default_factory=list)
    identity_description: str | None = None
    clothing_description: str | None = None


@dataclass(frozen=True)
class Options:
    """What the user asks for, see `load_person_dataset`."""

    descriptions: Path | None = None
    outfits: Path | None = None
    split_file: Path | None = None
    val_people: int | None = None
    seed: int = 0
    skip_unreadable: bool = False
    check_images: bool = True


@dataclass
class Source:
    """What was found on the disk for one benchmark.

    Attributes:
        folder: the folder of the benchmark.
        annotation: its annotation file, if it has one.
        images: what lies in its image folder.
        options: what the user asks for.
        notes: what the user should know; readers add to it.
    """

    folder: Path
    annotation: Path | None
    images: ImageListing
    options: Options
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Counts:
    """Published size of a split; None where no figure is certain."""

    people: int
    images: int
    captions: int | None = None


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        title: its name as people write it.
        origin: where its authors give it out, in words.
        layout: what the folder that the user names must hold, in words.
        read: the images of a source; raises `ValueError` for an entry or a file name that it cannot read.
        top_folders: folders that the archives unpack to; the user may name their parent.
        annotations: spellings of the annotation file, the best first.
        markers: without an annotation file: sub-folders, of which one tells that this is the set.
        image_folders: folders that paths are relative to, the first that exists counts.
        url: official page of the authors.
        paper: first author, title, venue.
        license: terms under which the authors distribute the set, in words; for the cards.
        published: size of each split.
        parts: sub-folders of the image folder, of which downloads are often short.
        numbers_restart: test people may be numbered from the same number as train people, though they are others.
        shares_validation: the official validation images are of train people, so they cannot pick a checkpoint.
    """

    title: str
    origin: str
    layout: str
    read: Callable[[Source], list[PersonImage]]
    top_folders: Sequence[str]
    annotations: Sequence[str] = ()
    markers: Sequence[str] = ()
    image_folders: Sequence[str] = (".",)
    url: str = ""
    paper: str = ""
    license: str = UNKNOWN_LICENSE
    published: dict[str, Counts] = field(default_factory=dict)
    parts: Sequence[str] = ()
    numbers_restart: bool = False
    shares_validation: bool = False

    def how_to_get(self) -> str:
        """A sentence for errors."""
        return f"{self.title} is given out by {self.origin}; its folder holds {self.layout}"
