"""Checks and decodes image files of any format and mode, also out of shards, to upright RGB images.

Decompression bombs: Pillow warns above 89 megapixels and refuses above 179. Here the warning is suppressed, and a
refused image is unreadable, like a truncated file.
"""

import os
import stat
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, UnidentifiedImageError

if TYPE_CHECKING:
    from datasets import Dataset

with suppress(ImportError, OSError):  # the extra `formats`; OSError: its libraries do not fit this machine
    from pillow_heif import register_heif_opener

    register_heif_opener()

ImageFile = str | Path | Mapping[str, Any]
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"),
    *(".ppm", ".pgm", ".pnm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".avif", ".heic", ".heif", ".hif"),
)
"""Suffixes of image files, in lower case; see `readable_suffixes`."""
DRAFT_FACTOR = 2  # a JPEG is decoded at this multiple of the target size, or larger
_SHARD_MARK = "::"  # a reference to an image in a shard: `a.tar::512:9000`
_ROTATING = {"exif", "xmp"}  # blocks of a JPEG that may contain a rotation

# Set once for the whole process, including the decoding by `datasets`: warning filters are not thread-safe.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class UnreadableImageError(OSError):
    """An image file cannot be read; the message is one line, `FILE: REASON`."""

    def __init__(self, message: str) -> None:
        # A DataLoader worker sends its error as a formatted traceback that ends in the message
        line = message.strip().rpartition("\n")[2]
        super().__init__(line.removeprefix(f"{__name__}.{type(self).__name__}: "))


@cache
def readable_suffixes() -> tuple[str, ...]:
    """Returns those of `IMAGE_SUFFIXES` that the installed Pillow and its plug-ins can decode."""
    return tuple(suffix for suffix in IMAGE_SUFFIXES if suffix in Image.registered_extensions())


def check_image(source: ImageFile) -> str | None:
    """Returns None if an image file can be decoded completely, else the reason in a few words.

    Only decoding the whole file detects truncation. A JPEG is decoded at an eighth of its size, which reads every byte
    but skips most of the arithmetic.

    Args:
        source: a path, or an undecoded image of a data set, `{"path": ..., "bytes": ...}`.
    """
    try:
        with _opened(source) as image:
            image.draft(image.mode, (1, 1))
            image.load()
    except UnreadableImageError as error:
        return str(error).removeprefix(f"{_name(source)}: ")
    return None


def image_size(source: ImageFile) -> tuple[int, int]:
    """Returns width and height from an image file's header, before any EXIF rotation.

    Raises `UnreadableImageError`, as `open_image`.
    """
    with _opened(source) as image:
        return image.size


def open_image(source: ImageFile | Image.Image, size: tuple[int, int] | None = None) -> Image.Image:
    """Decodes an image file of any mode to an upright 8-bit RGB image (see `to_rgb`).

    Args:
        source: an image file as in `check_image`, or a PIL image.
        size: width and height that the caller will resize to. A JPEG with both sides at least four times the larger of
            them is decoded at a half, a quarter or an eighth of its size, which is much faster and, after the resize,
            differs by a few gray levels at most. Other images are returned in full size.

    Raises:
        UnreadableImageError: the file is missing, truncated, no image, or too large; the message names it.
    """
    from modeling_bdam.processing_bdam import to_rgb  # imports torch and transformers, which `check_image` can avoid

    with _opened(source) as image:
        if image is not source and size is not None and min(image.size) >= 2 * DRAFT_FACTOR * max(size):
            image.draft(image.mode, (DRAFT_FACTOR * max(size),) * 2)
        # Most images are plain JPEGs; parsing their EXIF tags would take a twentieth of the time
        is_plain = image.format == "JPEG" and image.mode == "RGB" and not _ROTATING & image.info.keys()
        upright = image if is_plain else to_rgb(image)
        upright.load()
    return upright


def with_image_files(split: "Dataset") -> "Dataset":
    """Returns the split with undecoded images, `{"path": ..., "bytes": ...}`, for `open_image`.

    The collators accept decoded and undecoded images; they decode faster than `datasets`, and their errors name the
    file.
    """
    from datasets import Image as ImageFeature

    return split.cast_column("image", ImageFeature(decode=False))


def parquet_reference(file: str, group: int, row: int) -> str:
    """Returns the reference of the image in a row of a row group of a Parquet file."""
    return f"{file}{_SHARD_MARK}{group}:{row}"


def tar_reference(file: str, offset: int, size: int) -> str:
    """Returns the reference of a member of an uncompressed tar file, from its first byte and its size in bytes."""
    return f"{file}{_SHARD_MARK}{offset}:{size}"


@contextmanager
def _opened(source: ImageFile | Image.Image) -> Iterator[Image.Image]:
    """Opens an image; converts any exception in the body to `UnreadableImageError`."""
    try:
        if isinstance(source, Image.Image):
            yield source
            return
        content = source["bytes"] if isinstance(source, Mapping) else None
        if content is None and _SHARD_MARK in _name(source):
            content = _read_reference(_name(source))
        if content is None and not os.path.isdir(_name(source)) and not stat.S_ISREG(os.stat(_name(source)).st_mode):
            raise OSError("a pipe, socket or device, which could block")
        with Image.open(_name(source) if content is None else BytesIO(content)) as image:
            yield image
    except Exception as error:
        raise UnreadableImageError(f"{_name(source)}: {_reason(error, source)}") from error


def _name(source: ImageFile | Image.Image) -> str:
    """Returns the path of an image, if it has one, for messages."""
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or "an image in memory"
    return (source["path"] or "an image without a name") if isinstance(source, Mapping) else str(source)


def _reason(error: Exception, source: ImageFile | Image.Image) -> str:
    """Returns the reason of an error in a few words, on one line."""
    if isinstance(error, UnidentifiedImageError):
        content = source["bytes"] if isinstance(source, Mapping) else None
        is_file = content is None and _SHARD_MARK not in _name(source)
        is_empty = content == b"" or (is_file and os.path.getsize(_name(source)) == 0)
        suffix = os.path.splitext(_name(source))[1].lower()
        if not is_empty and suffix in IMAGE_SUFFIXES and suffix not in readable_suffixes():
            return f"{suffix} needs a plug-in: pip install -U pillow pillow-heif"
        return "zero bytes" if is_empty else "no image of a known format"
    if isinstance(error, Image.DecompressionBombError) and Image.MAX_IMAGE_PIXELS is not None:
        return f"more than {2 * Image.MAX_IMAGE_PIXELS // 10**6} megapixels"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _read_reference(reference: str) -> bytes:
    """Returns the bytes of an image file by its reference; raises `OSError` if the shard is missing or truncated."""
    file, _, place = reference.rpartition(_SHARD_MARK)
    first, _, second = place.partition(":")
    if file.endswith(".parquet"):
        return _group(file, int(first))[int(second)].as_py()
    with open(file, "rb") as shard:
        shard.seek(int(first))
        return shard.read(int(second))


@lru_cache(maxsize=64)
def _parquet(file: str) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetFile(file, memory_map=True)  # mapped, since forked workers share the position of an open file


@lru_cache(maxsize=2)
def _group(file: str, group: int) -> Any:
    return _parquet(file).read_row_group(group, columns=["image.bytes"]).column("image").combine_chunks().field("bytes")
