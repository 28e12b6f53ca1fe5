"""The images that are described, and the data URIs in which they travel."""

import base64
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, DatasetDict, Image
from PIL import Image as PillowImage

_MIME_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class ImageItem:
    """An image to describe: the `file_path` by which its description is joined, and a file or the encoded bytes."""

    file_path: str
    source: Path | bytes

    def read(self) -> bytes:
        """The encoded image as it lies on disk.

        Raises:
            OSError: the file cannot be read.
        """
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()


class ImageItems:
    """The images of some splits, in order; one after another is read, none is held.

    Args:
        splits: with a column `image`; `file_path` names an image, else `{split}/{row number}` does.
        names: the splits to take; all by default.

    Raises:
        ValueError: there is no such split.
    """

    def __init__(self, splits: DatasetDict, names: list[str] | None = None) -> None:
        unknown = [name for name in names or [] if name not in splits]
        if unknown:
            raise ValueError(f"there is no split {unknown[0]!r}; the data set has {', '.join(splits)}")
        self._splits: dict[str, Dataset] = {}
        for name in names or list(splits):
            columns = [column for column in ("image", "file_path") if column in splits[name].column_names]
            self._splits[name] = splits[name].select_columns(columns).cast_column("image", Image(decode=False))

    def __len__(self) -> int:
        return sum(len(split) for split in self._splits.values())

    def __iter__(self) -> Iterator[ImageItem]:
        for name, split in self._splits.items():
            for number, row in enumerate(split):
                image = row["image"]
                source = image["bytes"] if image["bytes"] is not None else Path(image["path"])
                yield ImageItem(row.get("file_path") or _numbered(name, number), source)

    def file_paths(self) -> Iterator[str]:
        """The names of the images, in the same order; no image is touched."""
        for name, split in self._splits.items():
            if "file_path" in split.column_names:
                for number, row in enumerate(split.select_columns("file_path")):
                    yield row["file_path"] or _numbered(name, number)
            else:
                yield from (_numbered(name, number) for number in range(len(split)))


def _numbered(split: str, row: int) -> str:
    return f"{split}/{row:06d}"


def load_splits(name: str, data_dir: Path | None) -> DatasetDict:
    """A data set by name, as `load_person_dataset`; `synthetic` is the one that the package draws itself.

    Raises:
        ValueError, OSError: the data set cannot be loaded; the message says why.
    """
    from ..benchmarks.loading import load_person_dataset

    return load_person_dataset(name, data_dir, check_images=False)  # a broken one is kept aside when its turn comes


def image_digest(data: bytes) -> str:
    """Stands for an encoded image."""
    return hashlib.sha256(data).hexdigest()


def data_uri(data: bytes, max_side: int = 768, max_bytes: int = 200_000) -> str:
    """An encoded image as a data URI.

    A JPEG, PNG or WebP image in RGB or grey that is small enough and upright goes as it is. Any other is turned
    upright, scaled down to `max_side` pixels and becomes a JPEG.

    Raises:
        ValueError: the bytes are no image that can be read.
    """
    try:
        with PillowImage.open(io.BytesIO(data)) as image:
            kind = image.format or ""
            upright = image.getexif().get(_ORIENTATION, 1) == 1
            small = max(image.size) <= max_side and len(data) <= max_bytes
            as_it_is = kind in _MIME_TYPES and image.mode in ("RGB", "L", "P", "RGBA") and upright and small
            if as_it_is:
                image.draft(image.mode, (1, 1))
                image.load()  # to its end: half an image is not worth an answer
        if not as_it_is:
            data, kind = _shrunk(data, max_side), "JPEG"
    except (OSError, SyntaxError, ValueError, PillowImage.DecompressionBombError) as error:
        raise ValueError(f"no readable image: {error}") from None
    return f"data:{_MIME_TYPES[kind]};base64,{base64.b64encode(data).decode('ascii')}"


def _shrunk(data: bytes, max_side: int) -> bytes:
    from ..images import open_image  # its imports take seconds, and small images do without

    image = open_image({"bytes": data, "path": None}, (max_side, max_side))
    image.thumbnail((max_side, max_side), PillowImage.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=90)
    return file.getvalue()
