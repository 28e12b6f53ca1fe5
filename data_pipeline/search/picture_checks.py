"""Recognizes pictures that show no crop of one person: too small, of one color, or of another shape."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .index.report import count_shapes

CROP_HINT = "`bdam crop FRAMES --detector MODEL` crops the people from whole frames"
_SMALLEST = 16, 32  # pixels: width and height
_FLAT = 2.0  # standard deviation of a color channel in gray levels, below which a picture has one color


def why_no_person(image: Image.Image, pixels: NDArray[np.uint8]) -> str | None:
    """Returns why a picture can show no person, or None: it has a few pixels, or one color.

    Such a picture is left out of an index: a red square would be a good hit for "a red coat".

    Args:
        image: the picture.
        pixels: the resized picture, [H, W, 3].
    """
    if image.width < _SMALLEST[0] or image.height < _SMALLEST[1]:
        return f"{image.width} x {image.height} pixels; a crop of a person has at least {_SMALLEST[0]} x {_SMALLEST[1]}"
    if pixels.reshape(-1, pixels.shape[-1]).std(axis=0).max() < _FLAT:
        return "a picture of one color"
    return None


def picture_remarks(image: Image.Image, pixels: NDArray[np.uint8]) -> list[str]:
    """Returns notes on a query picture; arguments as in `why_no_person`."""
    reason = why_no_person(image, pixels)
    if reason is not None:
        return [f"the picture shows no person: it is {reason}"]
    shapes = count_shapes(np.array([image.width / image.height], dtype=np.float32))
    return [f"the picture is one of the {shape}: give a crop of one person; {CROP_HINT}" for shape in shapes]
