"""Renders images of a gallery for a browser."""

import io

from PIL import Image

LARGEST = (1600, 1600)  # pixels


def shrunk_jpeg(image: Image.Image, size: tuple[int, int] = LARGEST) -> bytes:
    """Returns an RGB image as JPEG, shrunk to fit `size`; without the metadata of its file, such as a position."""
    image = image.copy()
    image.thumbnail(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=88)
    return buffer.getvalue()
