"""Draws the backgrounds of the synthetic photos: one kind of scene per camera, with random details."""

import random
from collections.abc import Callable

from PIL import ImageDraw

from .body import PALETTE
from .pen import Color, mix, shade

Background = Callable[[ImageDraw.ImageDraw, int, int, random.Random], None]


def _ground(draw: ImageDraw.ImageDraw, width: int, height: int, horizon: float, sky: Color, ground: Color) -> float:
    draw.rectangle((0, 0, width, height), fill=sky)
    draw.rectangle((0, horizon * height, width, height), fill=ground)
    return horizon * height


def _street(draw: ImageDraw.ImageDraw, width: int, height: int, rng: random.Random) -> None:
    horizon = _ground(draw, width, height, rng.uniform(0.5, 0.62), (178, 190, 204), (128, 126, 124))
    x = rng.uniform(-0.3, 0.0) * width
    while x < width:
        house = rng.uniform(0.3, 0.6) * width
        color = rng.choice(((164, 142, 122), (134, 110, 98), (186, 180, 168), (112, 118, 128), (176, 128, 108)))
        top = rng.uniform(-0.05, 0.2) * height
        draw.rectangle((x, top, x + house, horizon), fill=color)
        glass = rng.choice(((72, 84, 98), (200, 206, 196), (50, 54, 60)))
        for column in range(2):
            for row in range(4):
                left, up = x + house * (0.14 + 0.44 * column), top + height * (0.05 + 0.13 * row)
                if up + height * 0.07 < horizon:
                    draw.rectangle((left, up, left + house * 0.26, up + height * 0.07), fill=glass)
        x += house
    kerb = horizon + rng.uniform(0.08, 0.2) * height
    draw.rectangle((0, kerb, width, kerb + height * 0.015), fill=(196, 194, 188))
    if rng.random() < 0.5:
        _parked_car(draw, width, horizon + 0.05 * height, height, rng)


def _wall(draw: ImageDraw.ImageDraw, width: int, height: int, rng: random.Random) -> None:
    brick = rng.choice(((150, 88, 70), (170, 150, 128), (120, 104, 98), (188, 182, 172)))
    floor = _ground(draw, width, height, rng.uniform(0.76, 0.86), brick, rng.choice(((110, 106, 104), (140, 136, 128))))
    joint, step = mix(brick, (220, 214, 206), 0.4), height * 0.045
    for row in range(int(floor / step) + 1):
        y = row * step
        draw.line((0, y, width, y), fill=joint)
        for column in range(5):
            x = (column + 0.5 * (row % 2)) * width * 0.25
            draw.line((x, y, x, min(floor, y + step)), fill=joint)
    if rng.random() < 0.5:
        x, y = rng.uniform(0.0, 0.7) * width, rng.uniform(0.1, 0.4) * height
        draw.rectangle((x, y, x + width * 0.3, y + height * 0.16), fill=PALETTE[rng.choice(list(PALETTE))])


def _park(draw: ImageDraw.ImageDraw, width: int, height: int, rng: random.Random) -> None:
    green = (rng.randint(84, 120), rng.randint(132, 164), rng.randint(68, 96))
    horizon = _ground(draw, width, height, rng.uniform(0.35, 0.55), (184, 206, 222), green)
    for _ in range(7):
        x, r = rng.uniform(0, width), rng.uniform(0.06, 0.17) * height
        y = horizon - rng.uniform(0.0, 0.3) * height
        leaf = (rng.randint(30, 80), rng.randint(80, 130), rng.randint(30, 70))
        draw.rectangle((x - 3, y, x + 3, horizon + 0.03 * height), fill=(82, 62, 44))
        draw.ellipse((x - r, y - r, x + r, y + r), fill=leaf)
    if rng.random() < 0.6:
        left = rng.uniform(0.0, 0.5) * width
        path = ((0.2, horizon), (0.3, horizon), (0.7, height), (-0.2, height))
        draw.polygon([(left + x * width, y) for x, y in path], fill=(186, 172, 146))
    for _ in range(25):
        x, y = rng.uniform(0, width), rng.uniform(horizon, height)
        draw.line((x, y, x + 2, y - 5), fill=shade(green, 0.75))


def _shops(draw: ImageDraw.ImageDraw, width: int, height: int, rng: random.Random) -> None:
    floor = _ground(draw, width, height, rng.uniform(0.72, 0.82), (150, 146, 140), (168, 160, 150))
    sign = shade(PALETTE[rng.choice(list(PALETTE))], 0.9)
    draw.rectangle((0, 0.04 * height, width, 0.14 * height), fill=sign)
    for letter in range(6):
        x = (0.08 + 0.15 * letter) * width
        draw.rectangle((x, 0.07 * height, x + 0.08 * width, 0.11 * height), fill=_other(sign))
    for column in range(2):
        left = (0.04 + 0.5 * column) * width
        glass = rng.choice(((64, 70, 80), (214, 206, 180), (98, 90, 86)))
        draw.rectangle((left, 0.18 * height, left + 0.42 * width, floor - 0.06 * height), fill=glass)
        for _ in range(7):
            x, y = left + rng.uniform(0, 0.32) * width, height * rng.uniform(0.22, 0.55)
            box = (x, y, x + rng.uniform(0.05, 0.12) * width, y + height * rng.uniform(0.03, 0.09))
            draw.rectangle(box, fill=PALETTE[rng.choice(list(PALETTE))])
    for line in range(4):
        y = floor + (line + 0.5) * (height - floor) / 4
        draw.line((0, y, width, y), fill=(140, 132, 124))


def _corridor(draw: ImageDraw.ImageDraw, width: int, height: int, rng: random.Random) -> None:
    wall = rng.choice(((196, 190, 176), (172, 180, 184), (186, 174, 150)))
    floor = _ground(draw, width, height, rng.uniform(0.6, 0.7), wall, (146, 140, 130))
    vanish = rng.uniform(0.3, 0.7) * width
    for joint in range(-4, 9):
        draw.line((vanish, floor - 0.12 * height, joint * width / 4, height * 1.1), fill=(120, 114, 106))
    for step in (0.05, 0.12, 0.22, 0.34):
        draw.line((0, floor + step * height, width, floor + step * height), fill=(120, 114, 106))
    draw.rectangle((0, 0, width, floor), fill=wall)
    for _ in range(2):
        x = rng.uniform(0, 0.85) * width
        door = rng.choice(((124, 96, 70), (92, 100, 108), (206, 202, 194)))
        draw.rectangle((x, 0.2 * height, x + 0.2 * width, floor), fill=door)
    for lamp in range(3):
        x = (0.1 + 0.32 * lamp) * width
        draw.rectangle((x, 0.03 * height, x + 0.18 * width, 0.05 * height), fill=(250, 250, 236))


def _plaza(draw: ImageDraw.ImageDraw, width: int, height: int, rng: random.Random) -> None:
    horizon = _ground(draw, width, height, rng.uniform(0.22, 0.36), (196, 202, 210), (152, 154, 158))
    draw.rectangle((0, horizon - 0.1 * height, width, horizon), fill=(118, 124, 134))
    _parked_car(draw, width, horizon, height, rng)
    slant = rng.uniform(-0.3, 0.3) * width
    y: float = horizon + 0.1 * height
    while y < height:  # a zebra crossing seen from above
        thick = 0.02 * height + 0.05 * (y - horizon)
        right = y + slant * 0.2
        draw.polygon(((0, y), (width, right), (width, right + thick), (0, y + thick)), fill=(206, 206, 200))
        y += 2.6 * thick
    for _ in range(4):
        x, y = rng.uniform(0, width), rng.uniform(horizon, height)
        draw.ellipse((x, y, x + 0.09 * width, y + 0.012 * height), fill=(120, 120, 122))


def _parked_car(draw: ImageDraw.ImageDraw, width: int, y: float, height: int, rng: random.Random) -> None:
    paint = PALETTE[rng.choice(list(PALETTE))]
    left, length, tall = rng.uniform(-0.4, 0.5) * width, 0.9 * width, 0.09 * height
    draw.rounded_rectangle((left, y - tall, left + length, y), 6, fill=paint)
    cabin = (left + 0.2 * length, y - 1.8 * tall, left + 0.8 * length, y - 0.8 * tall)
    draw.rounded_rectangle(cabin, 8, fill=shade(paint, 0.7))
    for share in (0.2, 0.8):
        x = left + share * length
        draw.ellipse((x - 0.4 * tall, y - 0.4 * tall, x + 0.4 * tall, y + 0.4 * tall), fill=(24, 24, 26))


def _other(color: Color) -> Color:
    return (240, 238, 230) if sum(color) < 400 else (40, 40, 44)


BACKGROUNDS: dict[int, Background] = {1: _street, 2: _wall, 3: _park, 4: _shops, 5: _corridor, 6: _plaza}
"""The scene behind the people, by `camera_id`."""
