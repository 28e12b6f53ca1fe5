"""Drawing primitives in figure coordinates, and cloth: shapes filled with a color and a pattern.

Figure coordinates: y is 0 at the crown and 1 at the soles; x is 0 at the middle of the body, in the same unit, so that
a figure facing +x can be mirrored.
"""

import io
import math
from functools import lru_cache

from PIL import Image, ImageChops, ImageDraw

OVERSAMPLING = 2  # pixels of the canvas per pixel of the photo, on each axis
Color = tuple[int, int, int]
Point = tuple[float, float]
Shape = tuple[str, list[Point], list[float]]
"""("polygon", corners, []) or ("limb", joints, radii)."""


def shade(color: Color, factor: float) -> Color:
    """Returns the color darker (factor below 1) or brighter."""
    return (min(255, int(color[0] * factor)), min(255, int(color[1] * factor)), min(255, int(color[2] * factor)))


def mix(first: Color, second: Color, share: float) -> Color:
    """Interpolates from the first color (share 0) to the second (share 1)."""
    return tuple(int(a + (b - a) * share) for a, b in zip(first, second, strict=True))  # type: ignore[return-value]


def jpeg_bytes(photo: Image.Image, quality: int) -> bytes:
    """Encodes a photo."""
    buffer = io.BytesIO()
    photo.save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


@lru_cache(maxsize=32)
def _pattern_mask(size: tuple[int, int], pattern: str) -> Image.Image:
    """Returns the mask of a pattern's second color, for a canvas of `size` (width, height)."""
    width, height = size
    mask = Image.new("L", size, 0)
    draw = ImageDraw.Draw(mask)
    step = max(4, round(height * 0.05))
    if pattern == "striped":
        for y in range(0, height, step):
            draw.rectangle((0, y, width, y + step * 2 // 5), fill=255)
    elif pattern == "checked":
        for y in range(0, height, step):
            draw.rectangle((0, y, width, y + step // 3), fill=150)
        vertical = Image.new("L", size, 0)
        draw = ImageDraw.Draw(vertical)
        for x in range(0, width, step):
            draw.rectangle((x, 0, x + step // 3, height), fill=150)
        mask = ImageChops.add(mask, vertical)
    elif pattern == "dotted":
        radius = step * 0.24
        for row, y in enumerate(range(0, height, step * 2 // 3)):
            for x in range(step // 2 * (row % 2), width, step):
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return mask


class Pen:
    """Draws in figure coordinates, on an image or a mask."""

    def __init__(self, image: Image.Image, middle: float, top: float, height: float, mirror: bool) -> None:
        self.image, self.middle, self.top, self.height = image, middle, top, height
        self.sign = -1 if mirror else 1
        self.draw = ImageDraw.Draw(image)

    def on(self, image: Image.Image) -> "Pen":
        return Pen(image, self.middle, self.top, self.height, self.sign < 0)

    def at(self, x: float, y: float) -> Point:
        return self.middle + self.sign * x * self.height, self.top + y * self.height

    def polygon(self, points: list[Point], fill: Color | int) -> None:
        self.draw.polygon([self.at(x, y) for x, y in points], fill=fill)

    def oval(self, x: float, y: float, rx: float, ry: float, fill: Color | int) -> None:
        px, py = self.at(x, y)
        rx, ry = rx * self.height, ry * self.height
        self.draw.ellipse((px - rx, py - ry, px + rx, py + ry), fill=fill)

    def line(self, points: list[Point], width: float, fill: Color | int) -> None:
        self.draw.line([self.at(x, y) for x, y in points], fill=fill, width=max(1, round(width * self.height)))

    def limb(self, joints: list[Point], radii: list[float], fill: Color | int) -> None:
        """Draws a chain of capsules through the joints."""
        for (x0, y0), (x1, y1), r0, r1 in zip(joints[:-1], joints[1:], radii[:-1], radii[1:], strict=True):
            length = math.hypot(x1 - x0, y1 - y0) or 1e-6
            nx, ny = -(y1 - y0) / length, (x1 - x0) / length
            ends = ((x0, y0, r0), (x1, y1, r1), (x1, y1, -r1), (x0, y0, -r0))
            self.polygon([(x + nx * r, y + ny * r) for x, y, r in ends], fill)
            self.oval(x1, y1, r1, r1, fill)


def cloth(pen: Pen, shapes: list[Shape], color: Color, pattern: str = "plain", accent: Color = (0, 0, 0)) -> None:
    """Fills polygons and limbs with a color and one continuous pattern."""

    def fill(target: Pen, value: Color | int) -> None:
        for kind, points, radii in shapes:
            target.polygon(points, value) if kind == "polygon" else target.limb(points, radii, value)

    fill(pen, color)
    if pattern in ("striped", "checked", "dotted"):
        mask = Image.new("L", pen.image.size, 0)
        fill(pen.on(mask), 255)
        pen.image.paste(accent, mask=ImageChops.multiply(mask, _pattern_mask(pen.image.size, pattern)))
