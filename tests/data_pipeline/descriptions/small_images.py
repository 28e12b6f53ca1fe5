"""Small JPEG images for tests."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

# Types of the fixtures of these names.
StartServer = Callable[..., str]
WriteImages = Callable[[int], Path]


def jpeg(seed: int, size: tuple[int, int] = (32, 96)) -> bytes:
    """A small JPEG image of (width, height), different for each seed."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (size[1] // 16, size[0] // 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).resize(size).save(file, format="JPEG")
    return file.getvalue()
