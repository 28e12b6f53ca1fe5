"""Data classes that describe a benchmark: its files, its reader, its license and its published size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .image_listing import ImageListing

UNKNOWN = -1
"""The person, camera or outfit number of an image without such an annotation."""
RESEARCH_ONLY = "distributed by its authors for non-commercial research"
UNKNOWN_LICENSE = "not known to this package: ask the distributor of the data"


@dataclass(slots=True)
class PersonImage:
    """One image of a benchmark; the fields are columns of the table, see data_pipeline/schema.py.

    Attributes:
        file_path: path relative to the image folder, spelled as in the annotation file.
        split: train, validation or test; empty if only a split file assigns it.
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
    """Arguments of `load_person_dataset` that the readers need."""

    descriptions: Path | None = None
    outfits: Path | None = None
    split_file: Path | None = None
    val_people: int | None = None
    seed: int = 0
    skip_unreadable: bool = False
    check_images: bool = True
    exclude: Sequence[str] = ()
    follow_links: bool = False


@dataclass
class Source:
    """The files of one benchmark on this machine.

    Attributes:
        folder: the folder of the benchmark.
        annotation: its annotation file, if it has one.
        images: the files of its image folder.
        notes: warnings for the user; readers append to it.
    """

    folder: Path
    annotation: Path | None
    images: ImageListing
    options: Options
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The annotation file, or the folder of a set without one; for messages."""
        return str(self.annotation or self.folder)


@dataclass(frozen=True)
class Counts:
    """Published size of a split; None if no published number is reliable."""

    people: int
    images: int
    captions: int | None = None


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        title: its name in the literature.
        origin: the place of its distribution, in words.
        layout: the required content of the folder, in words.
        read: returns the images of a source; raises `ValueError` for an invalid entry or file name.
        top_folders: folders that the archives unpack to, so that the user may give their parent.
        annotations: spellings of the annotation file, the preferred one first.
        markers: sub-folders that identify the set if it has no annotation file; one of them is enough.
        image_folders: folders that paths are relative to; the first one that exists is used.
        url: official page of the authors.
        paper: first author, title, venue.
        license: the authors' terms, in words; for the cards.
        published: size of each split.
        parts: sub-folders of the image folder that are often missing from downloads.
        numbers_restart: test people and train people may have the same numbers although they are different people.
        shares_validation: the official validation images show train people, so they cannot select a checkpoint.
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
        """The sentence of error messages about the source and the layout of the set."""
        return f"{self.title} is distributed by {self.origin}; its folder must contain {self.layout}"
