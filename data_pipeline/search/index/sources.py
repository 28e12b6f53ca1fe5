"""The images that an index is made of: a folder with metadata beside them, or a data set."""

import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
from datasets import Dataset
from PIL import Image

from ...benchmarks.image_listing import list_images
from ...benchmarks.side_files import read_descriptions
from ...benchmarks.text_files import first_of

METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
KEY_COLUMNS = ("path", "_size", "_mtime_ns", "_text")
EXPORTED = "exported-images"  # folder within the index for images that lie in no file of their own
_NAME_COLUMNS = ("file_name", "file_path")


@dataclass
class GallerySource:
    """Images to index, sorted by path.

    Attributes:
        root: folder that the paths are relative to; a relative one is relative to the index folder.
        table: `path`, `_size` (bytes), `_mtime_ns`, `_text` (digest of the description, or empty), then metadata.
            A vector is still good while the first four are the same.
        descriptions: by path, the identity description to fuse with the image.
        left_out: paths of images that are not to be read, each with the reason.
        notes: what the user should know.
    """

    root: str
    table: pa.Table
    descriptions: dict[str, str]
    left_out: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def images_in_folder(folder: Path, descriptions: Path | None = None) -> GallerySource:
    """All images below a folder, with the metadata file that lies in it and a descriptions file, if there are any.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
        ValueError: the metadata or the descriptions cannot be used; the message says why.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    listing = list_images(folder)
    left_out = [(path, "a link that leads out of the folder") for path in sorted(listing.outside)]
    paths = []
    for path in listing.images():
        if path.isascii() or path == path.encode("utf-8", "replace").decode():
            paths.append(path)
        else:
            left_out.append((path.encode("utf-8", "replace").decode(), "its name is not UTF-8"))
    if not paths:
        raise FileNotFoundError(f"{folder}: there are no images in it (.jpg, .png, .webp, ...)")
    notes = []
    texts: dict[str, str] = {}
    if descriptions is not None:
        described = read_descriptions(descriptions)
        texts = {path: entry.identity_description for path, entry in described.items() if entry.identity_description}
        notes += _strangers(descriptions, texts, paths)
        texts = {path: texts[path] for path in paths if path in texts}
    metadata, more = _read_metadata(listing.root, paths)
    table = key_table(paths, [listing.root / path for path in paths], texts)
    return GallerySource(str(listing.root), _side_by_side(table, metadata), texts, left_out, notes + more)


def images_of_dataset(rows: Dataset, index: Path, fuse_descriptions: bool = False) -> GallerySource:
    """The images of a data set (columns of `PERSON_FEATURES`), and its other columns as metadata.

    Images that lie in no file of their own, such as those of Parquet files, are written into the index.

    Args:
        fuse_descriptions: fuse each image with its `identity_description`, where it has one.

    Raises:
        ValueError: the data set has no images, or one of them is empty.
    """
    if "image" not in rows.column_names:
        raise ValueError(f"the data set has no column `image`; it has {', '.join(rows.column_names)}")
    if len(rows) == 0:
        raise ValueError("the data set has no rows")
    images = rows.select_columns("image").cast_column("image", datasets.Image(decode=False))
    files = [_file_of(row["image"], number, index) for number, row in enumerate(images)]
    others = [name for name in rows.column_names if name != "image"]
    kept = [name for name in others if name != "file_path"]
    names = list(rows["file_path"]) if "file_path" in others else [None] * len(files)
    root = _common_root(files, names)
    if root is None:
        root = os.path.commonpath([file.parent for file in files])
    paths = [file.relative_to(root).as_posix() for file in files]
    metadata = rows.select_columns(kept).with_format("arrow")[:] if kept else None
    texts: dict[str, str] = {}
    if fuse_descriptions and "identity_description" in others:
        texts = {path: text for path, text in zip(paths, rows["identity_description"], strict=True) if text}
    order = sorted(range(len(paths)), key=paths.__getitem__)
    if len(set(paths)) < len(paths):
        twice = next(paths[place] for before, place in pairwise(order) if paths[before] == paths[place])
        raise ValueError(f"the data set names the image {twice} twice")
    table = key_table([paths[place] for place in order], [files[place] for place in order], texts)
    exported = (index / EXPORTED).absolute()
    shown = EXPORTED if Path(root) == exported else str(root)
    return GallerySource(shown, _side_by_side(table, metadata and metadata.take(order)), texts)


def key_table(paths: Sequence[str], files: Sequence[Path], texts: dict[str, str]) -> pa.Table:
    """The columns that say whether a vector is still good."""
    status = [os.stat(file) for file in files]
    return pa.table(
        {
            "path": pa.array(paths, pa.string()),
            "_size": pa.array([each.st_size for each in status], pa.int64()),
            "_mtime_ns": pa.array([each.st_mtime_ns for each in status], pa.int64()),
            "_text": pa.array([_digest(texts[path]) if path in texts else "" for path in paths], pa.string()),
        }
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read_metadata(root: Path, paths: Sequence[str]) -> tuple[pa.Table | None, list[str]]:
    """The metadata file in a folder as one row an image (nulls where it names none), and what the user should know."""
    files = [root / name for name in METADATA_FILES if (root / name).is_file()]
    if not files:
        return None, []
    if len(files) > 1:
        raise ValueError(f"{root}: which metadata counts, {' or '.join(file.name for file in files)}? Keep one of them")
    file = files[0]
    try:
        if file.suffix == ".csv":
            options = pyarrow.csv.ConvertOptions(strings_can_be_null=True)
            table = pyarrow.csv.read_csv(file, convert_options=options)
        elif file.suffix == ".jsonl":
            table = pyarrow.json.read_json(file)
        else:
            table = pyarrow.parquet.read_table(file)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: it cannot be read: {' '.join(str(error).split())}") from None
    names = [name for name in _NAME_COLUMNS if name in table.column_names]
    if not names:
        raise ValueError(f"{file}: no column file_name names the images; there are {', '.join(table.column_names)}")
    for name in table.column_names:
        if name.startswith("_") or name in KEY_COLUMNS:
            raise ValueError(f"{file}: the index uses the column {name!r} itself; call it something else")
    named = [PurePosixPath(str(value)).as_posix() for value in table[names[0]].to_pylist()]
    places = {path: place for place, path in enumerate(named)}
    if len(places) < len(named):
        twice = next(path for place, path in enumerate(named) if places[path] != place)
        raise ValueError(f"{file}: the image {twice} has two rows")
    notes = _strangers(file, places, paths)
    without = sum(path not in places for path in paths)
    if without:
        notes.append(f"{file}: {without} of {len(paths)} images have no row in it")
    taken = pa.array([places.get(path) for path in paths], pa.int64())
    return table.drop_columns(names).take(taken), notes


def _strangers(file: Path, named: dict[str, Any], paths: Sequence[str]) -> list[str]:
    unknown = sorted(set(named) - set(paths))
    if len(unknown) == len(named):
        raise ValueError(
            f"{file}: none of the images it names is there, such as {unknown[0] if unknown else '(it names none)'}; "
            f"paths are relative to the folder, such as {paths[0]}"
        )
    return [f"{file}: {len(unknown)} of the images it names are not there: {first_of(unknown, 3)}"] if unknown else []


def _side_by_side(table: pa.Table, metadata: pa.Table | None) -> pa.Table:
    if metadata is None:
        return table
    for name in metadata.column_names:
        table = table.append_column(name, metadata[name])
    return table


def _file_of(image: dict[str, Any], number: int, index: Path) -> Path:
    """The file of a data set's image; one is written where there is none."""
    if image["bytes"] is None:
        return Path(image["path"]).absolute()
    content: bytes = image["bytes"]
    name = f"{number:06d}-{hashlib.sha256(content).hexdigest()[:12]}.{_format(content)}"
    file = (index / EXPORTED / name).absolute()
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            unfinished.write_bytes(content)
            unfinished.replace(file)
        finally:
            unfinished.unlink(missing_ok=True)
    return file


def _format(content: bytes) -> str:
    """The name of an encoded image's format, as a suffix."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return str(image.format).lower()
    except OSError:
        return "unreadable"


def _common_root(files: Sequence[Path], names: Sequence[str | None]) -> str | None:
    """The folder that the data set's own names are relative to, if there is one."""
    if names[0] is None or not files[0].as_posix().endswith(f"/{names[0]}"):
        return None
    root = files[0].as_posix()[: -len(names[0]) - 1]
    fits = all(file.as_posix() == f"{root}/{name}" for file, name in zip(files, names, strict=True))
    return root if fits else None
