"""Images of a gallery as `data:` URLs within the page, so that the server needs no route to an image file."""

import base64
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ...images import open_image
from ...sheets.occlusion_map import occlusion_maps
from ..gallery import PersonGallery
from ..serve.pictures import LARGEST, shrunk_jpeg

_THUMBNAIL, _MAP_HEIGHT = (240, 320), 384  # pixels
_CACHED = 4096  # thumbnails of about 8 kB
_COLORS, _OPACITY = "inferno", 0.6


class Pictures:
    """Renders images of a gallery as JPEG in `data:` URLs. `thumbnail(path)` is cached; None if the file is gone.

    Images are identified by their path, which stays valid when the index is updated.
    """

    def __init__(self, gallery: PersonGallery) -> None:
        self._gallery = gallery
        self.thumbnail = lru_cache(_CACHED)(_thumbnail)

    def large(self, path: Path) -> str:
        """Returns an image, shrunk to at most 1600 x 1600 pixels; errors as `open_image`."""
        return small_picture(open_image(path), LARGEST)

    def maps(self, path: Path, query: NDArray) -> tuple[str, str]:
        """Returns the occlusion maps of identity and clothing of an image for a query [dimensions]."""
        embedder, image = self._gallery.embedder, open_image(path)
        pixels = embedder.pixels.normalize([embedder.pixels.resize(image)], 1).to(embedder.device)  # [1, 3, H, W]
        vector = torch.from_numpy(query).to(embedder.device)[None]  # [1, dimensions]
        identity, clothing = occlusion_maps(embedder.model, pixels, vector)
        return _colored(image, identity), _colored(image, clothing)


def _thumbnail(path: Path) -> str | None:
    try:
        return small_picture(open_image(path, _THUMBNAIL))
    except OSError:
        return None


def small_picture(image: Image.Image, size: tuple[int, int] = _THUMBNAIL) -> str:
    """Shrinks an RGB image to fit `size` and returns it as a `data:` URL."""
    return "data:image/jpeg;base64," + base64.b64encode(shrunk_jpeg(image, size)).decode()


def _colored(image: Image.Image, values: NDArray) -> str:
    """Overlays a map [rows, columns] with values from 0 to 1 on the image in grey."""
    size = max(1, round(_MAP_HEIGHT * image.width / image.height)), _MAP_HEIGHT
    grey = ImageOps.grayscale(image.resize(size, Image.Resampling.BICUBIC)).convert("RGB")
    smooth = Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    colors = matplotlib.colormaps[_COLORS](np.clip(np.asarray(smooth), 0, 1))[..., :3]  # [H, W, 3]
    return small_picture(Image.blend(grey, Image.fromarray((255 * colors).astype(np.uint8)), _OPACITY), size)
