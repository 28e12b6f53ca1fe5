"""Image files as people have them: whether one can be read, and what it shows, upright and in RGB.

Very large images: Pillow warns above 89 megapixels and refuses above 179, for fear of a decompression bomb. What it
only warns of is read here without a word; what it refuses is unreadable, like a truncated file.
"""

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, UnidentifiedImageError

if TYPE_CHECKING:
    from datasets import Dataset

ImageFile = str | Path | Mapping[str, Any]
DRAFT_FACTOR = 2  # a JPEG is decoded at this many times the size wanted or more, never below
_TURNING = {"exif", "xmp"}  # what may tell that a JPEG is turned

# Once and for the whole process, also where `datasets` decodes: suspending a filter around each file is not safe in
# threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class UnreadableImageError(OSError):
    """An image file that cannot be read; the message is one line, `FILE: REASON`."""

    def __init__(self, message: str) -> None:
        # A worker of a DataLoader sends its error as a printed traceback, which ends in the message.
        line = message.strip().rpartition("\n")[2]
        super().__init__(line.removeprefix(f"{__name__}.{type(self).__name__}: "))


def check_image(source: ImageFile) -> str | None:
    """None if an image file can be read to its end, else why not, in a few words.

    The whole file is decoded: a truncated one is found out by that alone. (A JPEG is at an eighth of its size: every
    byte is read, and most of the arithmetic saved.)

    Args:
        source: a path, or what a row of a data set holds if its images are not decoded, `{"path": ..., "bytes": ...}`.
    """
    try:
        with _opened(source) as image:
            image.draft(image.mode, (1, 1))
            image.load()
    except UnreadableImageError as error:
        return str(error).removeprefix(f"{_name(source)}: ")
    return None


def image_size(source: ImageFile) -> tuple[int, int]:
    """Width and height of an image file as it stands, turned or not; its header alone is read.

    Raises:
        UnreadableImageError: as `open_image`.
    """
    with _opened(source) as image:
        return image.size


def open_image(source: ImageFile | Image.Image, size: tuple[int, int] | None = None) -> Image.Image:
    """The image of a file, upright and in 8-bit RGB whatever its mode (see `to_rgb`).

    Args:
        source: a file as of `check_image`, or a PIL image.
        size: width and height that the image will be shrunk to. A JPEG of at least four times their larger one on
            both sides is then decoded at a half, a quarter or an eighth of its size: much faster, and shrunk further
            to `size` it is the same to a few grey levels. Another image comes in its full size.

    Raises:
        UnreadableImageError: the file is missing, truncated, no image, too large; the message names it.
    """
    from modeling_bdam.processing_bdam import to_rgb  # brings torch and transformers: checking files does without

    with _opened(source) as image:
        if image is not source and size is not None and min(image.size) >= 2 * DRAFT_FACTOR * max(size):
            image.draft(image.mode, (DRAFT_FACTOR * max(size),) * 2)
        # Most images are JPEGs that need nothing. Asking one for its EXIF tags takes a twentieth of the time.
        is_plain = image.format == "JPEG" and image.mode == "RGB" and not _TURNING & image.info.keys()
        upright = image if is_plain else to_rgb(image)
        upright.load()
    return upright


def with_image_files(split: "Dataset") -> "Dataset":
    """The split, but its images come as they lie in their files, `{"path": ..., "bytes": ...}`, for `open_image`.

    The collators take either. They decode a file faster than `datasets` does, and an error of theirs names the file.
    """
    from datasets import Image as ImageFeature

    return split.cast_column("image", ImageFeature(decode=False))


@contextmanager
def _opened(source: ImageFile | Image.Image) -> Iterator[Image.Image]:
    """The image of a file, opened; what goes wrong with it is an `UnreadableImageError`."""
    try:
        if isinstance(source, Image.Image):
            yield source
            return
        content = source["bytes"] if isinstance(source, Mapping) else None
        with Image.open(_name(source) if content is None else BytesIO(content)) as image:
            yield image
    except Exception as error:
        raise UnreadableImageError(f"{_name(source)}: {_reason(error, source)}") from error


def _name(source: ImageFile | Image.Image) -> str:
    """What messages call an image: its path, if it has one."""
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or "an image in memory"
    return (source["path"] or "an image without a name") if isinstance(source, Mapping) else str(source)


def _reason(error: Exception, source: ImageFile | Image.Image) -> str:
    """Why an image cannot be read, in a few words, on one line."""
    if isinstance(error, UnidentifiedImageError):
        content = source["bytes"] if isinstance(source, Mapping) else None
        is_empty = content == b"" or (content is None and os.path.getsize(_name(source)) == 0)
        return "zero bytes" if is_empty else "no image of a known format"
    if isinstance(error, Image.DecompressionBombError) and Image.MAX_IMAGE_PIXELS is not None:
        return f"more than {2 * Image.MAX_IMAGE_PIXELS // 10**6} megapixels"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
