"""Small JPEG images for tests."""

import io

import numpy as np
from PIL import Image


def jpeg(seed: int, size: tuple[int, int] = (32, 96)) -> bytes:
    """A small JPEG image of (width, height), another one for every seed."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (size[1] // 16, size[0] // 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).resize(size).save(file, format="JPEG")
    return file.getvalue()
