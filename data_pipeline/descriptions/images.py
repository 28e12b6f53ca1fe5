"""Images to describe, and their encoding as data URIs for requests."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, DatasetDict, Image
from PIL import ExifTags
from PIL import Image as PillowImage

_MIME_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}


@dataclass(frozen=True)
class ImageItem:
    """An image to describe: the `file_path` that its description is joined by, and its file or encoded bytes."""

    file_path: str
    source: Path | bytes

    def read(self) -> bytes:
        """Returns the encoded image without decoding it; raises `OSError` if the file cannot be read."""
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()


class ImageItems:
    """Iterates lazily over the images of some splits, in order.

    Args:
        splits: with a column `image`; the name of an image is its `file_path`, or else `{split}/{row number}`.
        names: the splits to use; all by default. An unknown name raises `ValueError`.
    """

    def __init__(self, splits: DatasetDict, names: list[str] | None = None) -> None:
        unknown = [name for name in names or [] if name not in splits]
        if unknown:
            raise ValueError(f"unknown split {unknown[0]!r}; the data set has {', '.join(splits)}")
        self._splits: dict[str, Dataset] = {}
        for name in names or list(splits):
            columns = [column for column in ("image", "file_path") if column in splits[name].column_names]
            self._splits[name] = splits[name].select_columns(columns).cast_column("image", Image(decode=False))

    def __len__(self) -> int:
        return sum(len(split) for split in self._splits.values())

    def __iter__(self) -> Iterator[ImageItem]:
        images = (row["image"] for split in self._splits.values() for row in split)
        for file_path, image in zip(self.file_paths(), images, strict=True):
            yield ImageItem(file_path, Path(image["path"]) if image["bytes"] is None else image["bytes"])

    def file_paths(self) -> Iterator[str]:
        """Yields the names of the images in the same order, without reading any image."""
        for name, split in self._splits.items():
            paths = split["file_path"] if "file_path" in split.column_names else [None] * len(split)
            for number, path in enumerate(paths):
                yield path or f"{name}/{number:06d}"


def data_uri(data: bytes, max_side: int = 768, max_bytes: int = 200_000) -> str:
    """Encodes an image as a data URI.

    An upright JPEG, PNG or WebP image in RGB or gray within both limits is passed through byte for byte. Any other
    image is rotated upright (EXIF), scaled down to at most `max_side` pixels and re-encoded as JPEG.

    Raises:
        ValueError: the bytes cannot be decoded as an image.
    """
    try:
        with PillowImage.open(io.BytesIO(data)) as image:
            kind = image.format or ""
            upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
            small = max(image.size) <= max_side and len(data) <= max_bytes
            unchanged = kind in _MIME_TYPES and image.mode in ("RGB", "L", "P", "RGBA") and upright and small
            if unchanged:
                image.draft(image.mode, (1, 1))
                image.load()  # decodes to the end: a truncated image must not cost a request
        if not unchanged:
            data, kind = _shrink(data, max_side), "JPEG"
    except (OSError, SyntaxError, ValueError, PillowImage.DecompressionBombError) as error:
        raise ValueError(f"unreadable image: {error}") from None
    return f"data:{_MIME_TYPES[kind]};base64,{base64.b64encode(data).decode('ascii')}"


def _shrink(data: bytes, max_side: int) -> bytes:
    from ..images import open_image  # imported late: its imports take seconds, and small images do not need it

    image = open_image({"bytes": data, "path": None}, (max_side, max_side))
    image.thumbnail((max_side, max_side), PillowImage.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=90)
    return file.getvalue()
