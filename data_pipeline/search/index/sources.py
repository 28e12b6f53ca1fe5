"""Lists the images of an index and their metadata: from a folder, or from a data set."""

import hashlib
import io
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from PIL import Image

from modeling_bdam.files import atomic_path

from ...benchmarks.image_listing import ImageListing, list_images
from ...benchmarks.metadata_file import find_metadata_file, read_metadata
from ...benchmarks.side_files import read_descriptions
from ...benchmarks.text_files import first_line, first_of
from .column_names import ASPECT, CONTENT, public_names
from .opened import OpenedIndex

if TYPE_CHECKING:
    from datasets import Dataset

EXPORTED = "exported-images"  # subfolder of the index for images that are not files


@dataclass
class GallerySource:
    """Images to index, sorted by path.

    The table has the columns `path`, `_size` (bytes), `_mtime_ns`, `_text` (digest of the description, or empty), then
    the metadata. A vector is reused while the first four are equal, and see `reusable_rows`.
    """

    root: str  # folder that the paths are relative to; a relative root is relative to the index folder
    table: pa.Table
    descriptions: dict[str, str]  # by path, the identity description to fuse with the image
    left_out: list[tuple[str, str]] = field(default_factory=list)  # paths of excluded images, with reasons
    notes: list[str] = field(default_factory=list)  # for the user


def images_in_folder(
    folder: Path, descriptions: Path | None = None, exclude: Sequence[str] = (), follow_links: bool = False
) -> GallerySource:
    """Lists all images below a folder, with its metadata file and a descriptions file if there are any.

    See `list_images` for `exclude` and `follow_links`. Raises `FileNotFoundError` without a folder or images, and
    `ValueError` for invalid metadata or descriptions.
    """
    # Image files
    if not folder.is_dir():
        kind = "this is a file; give the folder of the images" if folder.exists() else "there is no such folder"
        raise FileNotFoundError(f"{folder}: {kind}")
    listing = list_images(folder, exclude, follow_links)
    left_out = sorted(listing.left_out.items())
    paths = []
    for path in listing.images():
        printable = path.encode("utf-8", "replace").decode()
        if path == printable:
            paths.append(path)
        else:
            left_out.append((printable, "its name is not UTF-8"))
    if not paths:
        raise listing.no_images()

    # Descriptions and metadata
    file = find_metadata_file(listing.root)
    used = [os.path.relpath(os.path.realpath(each), listing.root) for each in (file, descriptions) if each]
    notes = listing.notes(used)
    texts: dict[str, str] = {}
    if descriptions is not None:
        described = read_descriptions(descriptions)
        texts = {path: entry.identity_description for path, entry in described.items() if entry.identity_description}
        notes += _missing_images(descriptions, [path for path in texts if not listing.excludes(path)], paths)
        texts = {path: texts[path] for path in paths if path in texts}
    table = key_table(paths, [listing.root / path for path in paths], texts)
    if file is not None:
        metadata, more = _read_metadata(file, paths, listing)
        table, notes = side_by_side(table, metadata), notes + more
    return GallerySource(str(listing.root), table, texts, left_out, notes)


def images_of_dataset(rows: "Dataset", index: Path, fuse_descriptions: bool = False) -> GallerySource:
    """Lists the images of a data set with the columns of `PERSON_FEATURES`; the other columns are metadata.

    Images that are not files, such as those in Parquet files, are written to the index folder. `fuse_descriptions`
    fuses each image with its `identity_description`. Raises `ValueError` without images, or if one is named twice.
    """
    import datasets

    if "image" not in rows.column_names:
        raise ValueError(f"the data set has no column `image`; it has {', '.join(rows.column_names)}")
    if len(rows) == 0:
        raise ValueError("the data set has no rows")

    # Image files, and their paths relative to a common folder
    images = rows.select_columns("image").cast_column("image", datasets.Image(decode=False))
    files = [_file_of(row["image"], number, index) for number, row in enumerate(images)]
    names = list(rows["file_path"]) if "file_path" in rows.column_names else [None] * len(files)
    root = _common_root(files, names) or os.path.commonpath([file.parent for file in files])
    paths = [file.relative_to(root).as_posix() for file in files]
    order = sorted(range(len(paths)), key=paths.__getitem__)
    left_out = [(paths[place], "there is no such file") for place in order if not files[place].is_file()]
    order = [place for place in order if files[place].is_file()]
    if not order:
        raise FileNotFoundError(f"{left_out[0][0]} in {root}: {left_out[0][1]}, as of all {len(files)} images")
    twice = next((paths[place] for before, place in pairwise(order) if paths[before] == paths[place]), None)
    if twice is not None:
        raise ValueError(f"the data set names the image {twice} twice")

    # Descriptions and metadata, sorted by path
    texts: dict[str, str] = {}
    if fuse_descriptions and "identity_description" in rows.column_names:
        texts = {path: text for path, text in zip(paths, rows["identity_description"], strict=True) if text}
    table = key_table([paths[place] for place in order], [files[place] for place in order], texts)
    kept = [name for name in rows.column_names if name not in ("image", "file_path")]
    if kept:
        table = side_by_side(table, rows.select_columns(kept).with_format("arrow")[:].take(order))
    is_exported = Path(root) == (index / EXPORTED).absolute()
    return GallerySource(EXPORTED if is_exported else str(root), table, texts, left_out)


def merged(index: Path, last: OpenedIndex, new: GallerySource, replaced: Path | None = None) -> GallerySource:
    """Returns the images of an index and further ones, which replace those of the same path.

    New images outside the folder of the index are named by their absolute path. The old images keep their fused
    descriptions.

    Args:
        index: folder of the index.
        last: its last generation.
        new: further images.
        replaced: all images of the index below this folder are replaced by the new ones.

    Raises:
        ValueError: the metadata columns have other types.
    """
    if new.root == EXPORTED:
        raise ValueError("images of a data set that are not files cannot be added to an index: write them to a folder")
    root, folder = last.manifest.image_root(index), Path(os.path.realpath(index.absolute() / new.root))
    places = [folder / path for path in new.table["path"].to_pylist()]
    names = [(place.relative_to(root) if place.is_relative_to(root) else place).as_posix() for place in places]
    old = last.table.drop_columns([name for name in (CONTENT, ASPECT) if name in last.table.column_names])
    taken = set(names)
    kept = [
        path not in taken and (replaced is None or not (root / path).is_relative_to(replaced))
        for path in old["path"].to_pylist()
    ]
    added = new.table.set_column(0, "path", pa.array(names, pa.string()))
    try:
        table = pa.concat_tables([old.filter(pa.array(kept)), added], promote_options="permissive").sort_by("path")
    except pa.ArrowException as error:
        raise ValueError(f"the new metadata does not fit the index's columns: {first_line(error)}") from None
    texts = {
        name: new.descriptions[path]
        for name, path in zip(names, new.table["path"].to_pylist(), strict=True)
        if path in new.descriptions
    }
    return GallerySource(last.manifest.root, table, texts, new.left_out, new.notes)


def listed_files(files: Sequence[str | Path], metadata: Sequence[dict[str, Any]] | None) -> GallerySource:
    """Returns single files as a source, named by their absolute paths.

    Raises `ValueError` for inconsistent metadata, and `FileNotFoundError` for a missing file.
    """
    if metadata is not None and len(metadata) != len(files):
        raise ValueError(f"add: {len(files)} files but {len(metadata)} rows of metadata: give one row per file")
    places = [Path(os.path.realpath(file)) for file in files]
    missing = [place for place in places if not place.is_file()]
    if missing:
        raise FileNotFoundError(f"add: {missing[0]}: there is no such file")
    keys = key_table([place.as_posix() for place in places], places, {})
    if metadata is not None:
        try:
            keys = side_by_side(keys, pa.Table.from_pylist(list(metadata)))
        except pa.ArrowException as error:
            raise ValueError(f"add: the rows of metadata are inconsistent: {first_line(error)}") from None
    return GallerySource("/", keys, {})


def key_table(paths: Sequence[str], files: Sequence[Path], texts: dict[str, str]) -> pa.Table:
    """Returns the key columns: path, size, modification time and description digest of each image."""
    status = [os.stat(file) for file in files]
    digests = [hashlib.sha256(texts[path].encode()).hexdigest()[:16] if path in texts else "" for path in paths]
    return pa.table(
        {
            "path": pa.array(paths, pa.string()),
            "_size": pa.array([each.st_size for each in status], pa.int64()),
            "_mtime_ns": pa.array([each.st_mtime_ns for each in status], pa.int64()),
            "_text": pa.array(digests, pa.string()),
        }
    )


def side_by_side(table: pa.Table, columns: pa.Table) -> pa.Table:
    """Appends the metadata columns in another table with as many rows, with their public names."""
    for name, public in public_names(columns.column_names).items():
        table = table.append_column(columns.schema.field(name).with_name(public), columns[name])
    return table


def _read_metadata(file: Path, paths: Sequence[str], listing: ImageListing) -> tuple[pa.Table, list[str]]:
    """Reads a metadata file with column types, for filters; returns one row per image (or nulls), and notes."""
    metadata = read_metadata(file, paths)
    typed = [metadata.typed_field(name) for name in metadata.table.column_names]
    table = pa.table([column for _, column in typed], pa.schema([field for field, _ in typed]))
    places = {path: place for place, path in enumerate(metadata.paths)}
    notes = metadata.notes + _missing_images(file, [path for path in places if not listing.excludes(path)], paths)
    if without := sum(path not in places for path in paths):
        notes.append(f"{file}: {without} of {len(paths)} images have no row in it")
    for name, public in public_names(table.column_names).items():
        if name != public:
            notes.append(f"{file}: the column {name!r} is called {public!r} in filters and results: its name is taken")
    return table.take(pa.array([places.get(path) for path in paths], pa.int64())), notes


def _missing_images(file: Path, named: Collection[str], paths: Sequence[str]) -> list[str]:
    """Returns a note on named images that do not exist; raises `ValueError` if none exists."""
    unknown = sorted(set(named) - set(paths))
    if len(unknown) == len(named):
        raise ValueError(
            f"{file}: none of the images in it exists, such as {unknown[0] if unknown else '(it has no rows)'}; "
            f"paths are relative to the folder, such as {paths[0]}"
        )
    return [f"{file}: {len(unknown)} of the images in it do not exist: {first_of(unknown, 3)}"] if unknown else []


def _file_of(image: dict[str, Any], number: int, index: Path) -> Path:
    """Returns the file of a data set's image; writes an image that is not a file to the index folder."""
    if image["bytes"] is None:
        return Path(image["path"]).absolute()
    content: bytes = image["bytes"]
    name = f"{number:06d}-{hashlib.sha256(content).hexdigest()[:12]}.{_format(content)}"
    file = (index / EXPORTED / name).absolute()
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as temporary:
            temporary.write_bytes(content)
    return file


def _format(content: bytes) -> str:
    """Returns the format of an encoded image, as a file suffix."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return str(image.format).lower()
    except OSError:
        return "unreadable"


def _common_root(files: Sequence[Path], names: Sequence[str | None]) -> str | None:
    """Returns the folder that the `file_path` of all images is relative to, or None."""
    if names[0] is None or not files[0].as_posix().endswith(f"/{names[0]}"):
        return None
    root = files[0].as_posix()[: -len(names[0]) - 1]
    return root if all(file.as_posix() == f"{root}/{name}" for file, name in zip(files, names, strict=True)) else None
