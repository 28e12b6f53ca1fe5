"""The images of a gallery as a page shows them, written into the page itself: no file has an address to ask for."""

import base64
import io
from functools import lru_cache

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ...images import open_image
from ...sheets.occlusion_map import occlusion_maps
from ..gallery import PersonGallery

_THUMBNAIL, _LARGEST, _MAP_HEIGHT = (240, 320), (1600, 1600), 384  # pixels
_REMEMBERED = 4096  # thumbnails, of about 8 kB
_COLORS, _OPACITY = "inferno", 0.6


class Pictures:
    """Images of a gallery as `data:` addresses of JPEG."""

    def __init__(self, gallery: PersonGallery) -> None:
        self._gallery = gallery
        self.thumbnail = lru_cache(_REMEMBERED)(self._thumbnail)

    def large(self, row: int) -> str:
        """Image `row` in its own size, or within 1600 x 1600 pixels.

        Raises:
            ValueError: there is no such row.
            OSError: the file is gone or cannot be read any more.
        """
        return small_picture(self._gallery.image(row), _LARGEST)

    def maps(self, row: int, query: NDArray) -> tuple[str, str]:
        """Where in image `row` a query [dimensions] finds its identity, and where its clothing.

        Raises:
            ValueError, OSError: as of `large`.
        """
        embedder, image = self._gallery.embedder, self._gallery.image(row)
        pixels = embedder.pixels.normalize([embedder.pixels.resize(image)], 1).to(embedder.device)
        wanted = torch.from_numpy(query).to(embedder.device)[None]
        identity, clothing = occlusion_maps(embedder.model, pixels, wanted)
        return _colored(image, identity), _colored(image, clothing)

    def _thumbnail(self, row: int) -> str | None:
        """Image `row`, small, or None where the file is gone or cannot be read any more."""
        try:
            image = open_image(self._gallery.path(row), _THUMBNAIL)
        except OSError:
            return None
        return small_picture(image)


def small_picture(image: Image.Image, size: tuple[int, int] = _THUMBNAIL) -> str:
    """An RGB image, shrunk to fit into `size`, as a `data:` address."""
    image = image.copy()
    image.thumbnail(size, Image.Resampling.LANCZOS)
    written = io.BytesIO()
    image.save(written, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(written.getvalue()).decode()


def _colored(image: Image.Image, found: NDArray) -> str:
    """An image in grey under the colors of a map [lines, columns] of 0 to 1."""
    size = max(1, round(_MAP_HEIGHT * image.width / image.height)), _MAP_HEIGHT
    grey = ImageOps.grayscale(image.resize(size, Image.Resampling.BICUBIC)).convert("RGB")
    smooth = Image.fromarray(found.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    colors = matplotlib.colormaps[_COLORS](np.clip(np.asarray(smooth), 0, 1))[..., :3]
    return small_picture(Image.blend(grey, Image.fromarray((255 * colors).astype(np.uint8)), _OPACITY), size)
