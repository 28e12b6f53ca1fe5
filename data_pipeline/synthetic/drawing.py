"""Draws a person as an encoded photo: background, figure, occlusion, light and camera noise."""

import random
from dataclasses import replace
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from .backgrounds import BACKGROUNDS
from .body import PALETTE
from .figure import draw_figure
from .pen import OVERSAMPLING, jpeg_bytes, shade
from .people import Person, Shot, describe_person

_JPEG_QUALITY = 92
# Gains of each camera on red, green and blue
_CAMERA_GAINS: dict[int, tuple[float, float, float]] = {
    1: (1.0, 1.0, 1.0),
    2: (1.05, 1.0, 0.93),
    3: (0.98, 1.02, 0.97),
    4: (1.06, 1.01, 0.95),
    5: (0.9, 0.93, 0.92),
    6: (0.95, 1.0, 1.08),
}


def draw_photo(person: Person, outfit: int, shot: Shot, image_size: tuple[int, int], rng: random.Random) -> bytes:
    """Draws the photo and returns it as JPEG bytes.

    `image_size` is height and width in pixels; `rng` draws the scene: details of the background, other people, noise.
    """
    height, width = image_size
    canvas = Image.new("RGB", (width * OVERSAMPLING, height * OVERSAMPLING))
    BACKGROUNDS[shot.camera_id](ImageDraw.Draw(canvas), canvas.width, canvas.height, rng)
    passer_by = rng.choice((-1, 1)) if rng.random() < 0.15 else 0
    if passer_by:
        _draw_stranger(canvas, shot, passer_by * rng.uniform(0.17, 0.27), shot.feet - rng.uniform(0.02, 0.08), rng)
    draw_figure(canvas, person.traits, person.outfits[outfit], shot)
    if shot.occluder == "pedestrian":
        _draw_stranger(canvas, shot, shot.occluder_side * rng.uniform(0.19, 0.24), shot.feet + 0.03, rng)
    elif shot.occluder is not None:
        _draw_obstacle(ImageDraw.Draw(canvas), canvas.width, canvas.height, shot, rng)
    return jpeg_bytes(_spoil(canvas.reduce(OVERSAMPLING), shot, rng), _JPEG_QUALITY)


def _draw_stranger(canvas: Image.Image, shot: Shot, offset: float, feet: float, rng: random.Random) -> None:
    stranger = describe_person(rng.getrandbits(30), -1)
    pose = replace(shot, view=rng.choice(("front", "back", "left", "right")), phase=rng.random(), feet=feet, x=0.0)
    draw_figure(canvas, stranger.traits, stranger.outfits[0], pose, offset)


def _draw_obstacle(draw: ImageDraw.ImageDraw, width: int, height: int, shot: Shot, rng: random.Random) -> None:
    if shot.occluder == "post":
        x = width / 2 + (shot.x + shot.occluder_side * rng.uniform(0.03, 0.13)) * height
        half = height * rng.uniform(0.014, 0.026)
        color = rng.choice(((96, 98, 100), (58, 62, 58), (150, 132, 84)))
        draw.rectangle((x - half, 0, x + half, height), fill=color)
        draw.rectangle((x - half, 0, x - half * 0.4, height), fill=shade(color, 1.3))
    elif shot.occluder == "car":
        top = height * rng.uniform(0.74, 0.84)
        paint = shade(PALETTE[rng.choice(list(PALETTE))], 0.9)
        shift = shot.occluder_side * width * 0.1
        body = (-width * 0.4 + shift, top, width * 1.4 + shift, height * 1.1)
        draw.rounded_rectangle(body, height * 0.03, fill=paint)
        roof = top - 0.07 * height
        cabin = ((0.1, top), (0.3, roof), (0.9, roof), (1.1, top))
        draw.polygon([(x * width + shift, y) for x, y in cabin], outline=paint, fill=None, width=3)
        wheel = width * 0.5 + shift * 3
        draw.ellipse((wheel, height * 0.9, wheel + height * 0.16, height * 1.06), fill=(22, 22, 24))
    else:  # bush
        for _ in range(16):
            x, y, r = rng.uniform(0, width), height * rng.uniform(0.86, 1.0), height * rng.uniform(0.035, 0.07)
            leaf = (rng.randint(30, 70), rng.randint(80, 130), rng.randint(30, 60))
            draw.ellipse((x - r, y - r, x + r, y + r), fill=leaf)


def _spoil(photo: Image.Image, shot: Shot, rng: random.Random) -> Image.Image:
    """Applies resolution, blur, light, tint and noise of the camera."""
    size = photo.size
    if shot.resolution < 1.0:
        small = (max(8, round(size[0] * shot.resolution)), max(16, round(size[1] * shot.resolution)))
        photo = photo.resize(small, Image.Resampling.BILINEAR).resize(size, Image.Resampling.BILINEAR)
    if shot.blur:
        photo = photo.filter(ImageFilter.GaussianBlur(shot.blur * size[1] / 128))
    table: list[int] = []
    for gain, tint in zip(_CAMERA_GAINS[shot.camera_id], shot.tint, strict=True):
        slope = gain * tint * shot.brightness * shot.contrast
        base = 110 * gain * tint * shot.brightness * (1 - shot.contrast)
        table += [min(255, max(0, int(base + slope * value))) for value in range(256)]
    photo = photo.point(table)
    if shot.noise:
        grain = _grain(shot.noise, size)
        x, y = rng.randrange(grain.width - size[0]), rng.randrange(grain.height - size[1])
        photo = ImageChops.add(photo, grain.crop((x, y, x + size[0], y + size[1])), 1.0, -128)
    return photo


@lru_cache(maxsize=8)
def _grain(level: int, size: tuple[int, int]) -> Image.Image:
    """Returns noise around 128, three times the photo's height and width, from which each photo takes a random crop."""
    noise = np.random.default_rng(level).normal(128.0, 3.5 * level, (size[1] * 3, size[0] * 3, 3))
    return Image.fromarray(noise.clip(0, 255).astype(np.uint8))
