"""Draws the head of a synthetic pedestrian: face, hair and hat, from the front, the side or behind."""

import math

from .body import PALETTE, SKIN, Body, hair_color
from .pen import Color, Pen, mix, shade
from .people import Outfit, PersonTraits


def draw_head(pen: Pen, traits: PersonTraits, body: Body, outfit: Outfit, view: str) -> None:
    """Draws the head, lower and (from the side) further forward for a stooping person."""
    side = view in ("left", "right")
    x = body.stoop * 1.5 if side else 0.0
    y = 0.072 + 0.55 * body.stoop
    if view == "back":
        _from_behind(pen, traits, x, y, body.head)
    elif side:
        _from_the_side(pen, traits, x, y, body.head)
    else:
        _from_the_front(pen, traits, x, y, body.head)
    if outfit.hat is not None:
        _hat(pen, outfit.hat, PALETTE[outfit.hat_color], view, x, y, body.head * (1.08 if side else 1.0))


def _from_behind(pen: Pen, traits: PersonTraits, x: float, y: float, r: float) -> None:
    skin, hair, length = SKIN[traits.skin_tone], hair_color(traits), traits.hair_length
    rx, ry = r, 0.068
    pen.oval(x, y, rx, ry, skin)
    if length == "shaved":
        pen.oval(x, y - 0.012, rx, ry * 0.84, mix(skin, hair, 0.35))
    else:
        pen.oval(x, y - 0.010, rx * 1.08, ry * 0.98, hair)
        end = {"short": None, "medium": y + 0.085, "long": 0.31}[length]
        if end is not None:
            pen.polygon([(x - rx * 1.1, y), (x + rx * 1.1, y), (x + rx * 1.2, end), (x - rx * 1.2, end)], hair)
            pen.oval(x, end, rx * 1.2, 0.018, hair)


def _from_the_side(pen: Pen, traits: PersonTraits, x: float, y: float, r: float) -> None:
    skin, hair, length = SKIN[traits.skin_tone], hair_color(traits), traits.hair_length
    rx, ry = r * 1.08, 0.068
    if length in ("medium", "long"):
        end = y + 0.085 if length == "medium" else 0.30
        tail = x - rx * 0.55 - (0.02 if length == "long" else 0.0)
        strand = [(x - rx * 0.4, y - 0.01), (x - rx * 0.62, y + 0.05), (tail - 0.008, end)]
        pen.limb(strand, [r * 0.9, r * 0.8, r * 0.55], hair)
    pen.oval(x, y, rx, ry, skin)
    pen.polygon([(x + rx * 0.9, y - 0.012), (x + rx * 1.22, y + 0.014), (x + rx * 0.9, y + 0.022)], skin)
    if length == "shaved":
        _cap_of_hair(pen, x - rx * 0.12, y, rx * 0.98, ry, 0.05, mix(skin, hair, 0.35))
    else:
        _cap_of_hair(pen, x - rx * 0.10, y, rx * 1.06, ry * 1.08, 0.052, hair)
        pen.oval(x - rx * 0.55, y + 0.004, rx * 0.58, ry * 0.72, hair)
    pen.oval(x + rx * 0.55, y - 0.002, 0.007, 0.007, (24, 20, 20))
    pen.line([(x + rx * 0.55, y + 0.036), (x + rx * 0.95, y + 0.036)], 0.009, _lips(traits))


def _from_the_front(pen: Pen, traits: PersonTraits, x: float, y: float, r: float) -> None:
    skin, hair, length = SKIN[traits.skin_tone], hair_color(traits), traits.hair_length
    rx, ry = r, 0.068
    if length in ("medium", "long"):
        end = y + 0.075 if length == "medium" else 0.275
        for side in (-1, 1):
            strand = [(side * rx * 0.86, y - 0.02), (side * rx * 1.06, y + 0.05), (side * rx * 1.12, end)]
            pen.limb(strand, [0.02, 0.022, 0.020], hair)
    pen.oval(x, y, rx, ry, skin)
    if traits.gender == "man":  # a squarer jaw
        pen.oval(x, y + 0.026, rx * 0.88, ry * 0.62, skin)
    if length == "shaved":
        _cap_of_hair(pen, x, y, rx, ry, 0.040, mix(skin, hair, 0.35))
    else:
        _cap_of_hair(pen, x, y, rx * 1.1, ry * 1.08, 0.048, hair)
    for side in (-1, 1):
        pen.oval(side * rx * 0.42, y + 0.004, 0.0065, 0.006, (34, 26, 26))
        brow = 0.006 if traits.gender == "man" else 0.004
        pen.line([(side * rx * 0.22, y - 0.013), (side * rx * 0.62, y - 0.013)], brow, mix(hair, skin, 0.4))
    pen.line([(0.0, y + 0.004), (0.0, y + 0.020)], 0.007, shade(skin, 0.8))
    pen.line([(-rx * 0.34, y + 0.038), (rx * 0.34, y + 0.038)], 0.010, _lips(traits))
    if traits.age != "young":  # lines from the nose to the mouth
        for side in (-1, 1):
            pen.line([(side * rx * 0.36, y + 0.016), (side * rx * 0.6, y + 0.044)], 0.006, shade(skin, 0.8))


def _cap_of_hair(pen: Pen, x: float, y: float, rx: float, ry: float, depth: float, color: Color) -> None:
    """Draws hair over the top `depth` of the head."""
    left, top = pen.at(x - pen.sign * rx, y - ry)
    right, bottom = pen.at(x + pen.sign * rx, y + ry)
    # Chord at distance `depth` below the crown
    angle = math.degrees(math.acos(max(-1.0, min(1.0, 1.0 - depth / ry))))
    pen.draw.chord((left, top, right, bottom), 270 - angle, 270 + angle, fill=color)


def _lips(traits: PersonTraits) -> Color:
    skin = SKIN[traits.skin_tone]
    return mix(skin, (188, 40, 60), 0.75) if traits.gender == "woman" else shade(skin, 0.7)


def _hat(pen: Pen, kind: str, color: Color, view: str, x: float, y: float, rx: float) -> None:
    deep = 0.066 if kind == "beanie" else 0.052
    _cap_of_hair(pen, x, y, rx * 1.16, 0.080, deep, color)
    if kind == "beanie":
        pen.line([(x - rx * 1.1, y - 0.018), (x + rx * 1.1, y - 0.018)], 0.020, shade(color, 0.8))
    elif view in ("left", "right"):
        brim = [(x + rx * 0.4, y - 0.040), (x + rx * 2.0, y - 0.022), (x + rx * 0.5, y - 0.018)]
        pen.polygon(brim, shade(color, 0.8))
    elif view == "front":
        pen.oval(x, y - 0.026, rx * 1.0, 0.013, shade(color, 0.75))
