"""A second look of the synthetic pedestrians: other photos and other texts of the same people.

The cameras of a station look down under artificial light. Clothes have folds, and their colors vary from one garment to
the next; captions and descriptions have sentences of their own. What holds in both looks does not depend on one way of
drawing and writing.
"""

import random
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .captions import CaptionStyle, Facts, capitalized, garment_phrase, joined, seen_pattern, shows_bag, with_article
from .figure import draw_figure
from .pen import OVERSAMPLING, Color, jpeg_bytes, mix, shade
from .people import Outfit, Person, PersonTraits, Shot, describe_person

_LOWEST_FEET = 0.985  # of a figure that the frame does not cut off
_JPEG_QUALITY = 70
# Wall, floor, and the gains of the light on red, green and blue, by camera
_HALLS: dict[int, tuple[Color, Color, tuple[float, float, float]]] = {
    1: ((92, 104, 98), (88, 84, 80), (1.08, 1.0, 0.74)),
    2: ((206, 204, 196), (120, 118, 112), (0.9, 1.0, 0.94)),
    3: ((58, 60, 72), (70, 70, 76), (1.12, 0.98, 0.66)),
    4: ((150, 64, 52), (132, 122, 108), (1.02, 1.0, 0.88)),
    5: ((176, 162, 92), (98, 98, 102), (0.94, 0.98, 1.06)),
    6: ((36, 62, 96), (146, 146, 150), (0.86, 0.96, 1.1)),
}


def draw_station_photo(
    person: Person, outfit: int, shot: Shot, image_size: tuple[int, int], rng: random.Random
) -> bytes:
    """Draws the photo and returns it as JPEG bytes; the arguments are those of `drawing.draw_photo`."""
    height, width = image_size
    wall, floor, light = _HALLS[shot.camera_id]
    canvas = _draw_hall((width * OVERSAMPLING, height * OVERSAMPLING), wall, floor, rng).reduce(OVERSAMPLING)
    if rng.random() < 0.2:
        stranger = describe_person(rng.getrandbits(30), -1)
        behind = replace(shot, x=rng.choice((-1, 1)) * rng.uniform(0.16, 0.26), feet=shot.feet - 0.06)
        _paste_figure(canvas, stranger, 0, behind, rng)
    _paste_figure(canvas, person, outfit, shot, rng)
    if shot.occluder is not None:
        _draw_barrier(canvas, shot, rng)
    return jpeg_bytes(_light(canvas, shot, light, rng), _JPEG_QUALITY)


def _draw_hall(size: tuple[int, int], wall: Color, floor: Color, rng: random.Random) -> Image.Image:
    """Draws a low wall with a poster, and a tiled floor, sometimes with the yellow line of a platform."""
    width, height = size
    canvas = Image.new("RGB", size, floor)
    draw = ImageDraw.Draw(canvas)
    edge, left = rng.uniform(0.12, 0.3) * height, rng.uniform(-0.1, 0.7) * width
    draw.rectangle((0, 0, width, edge), fill=wall)
    poster = mix(wall, rng.choice(((240, 236, 210), (30, 60, 90), (200, 60, 40))), 0.7)
    draw.rectangle((left, 0.2 * edge, left + rng.uniform(0.1, 0.5) * width, 0.8 * edge), fill=poster)
    joint, slant = shade(floor, rng.choice((0.8, 1.2))), rng.uniform(-0.25, 0.25) * width
    y, tile = edge, rng.uniform(0.07, 0.12) * height
    while y < height:
        draw.line((0, y, width, y + slant), fill=joint, width=2)
        y += tile * (0.5 + 0.5 * y / height)
    for column in range(-6, 12):
        x = column * 0.22 * width
        draw.line((0.25 * width + 0.5 * x, edge, x, height), fill=joint, width=2)
    if rng.random() < 0.6:
        x = rng.uniform(-0.1, 1.0) * width
        draw.line((x, edge, x + slant, height), fill=(214, 176, 44), width=max(2, width // 16))
    return canvas


def _paste_figure(canvas: Image.Image, person: Person, outfit: int, shot: Shot, rng: random.Random) -> None:
    """Draws a person on an empty layer, adds dye, folds and shade, and pastes the figure as seen from above."""
    width, height = canvas.size
    layer = Image.new("RGBA", (width * OVERSAMPLING, height * OVERSAMPLING))
    draw_figure(layer, person.traits, person.outfits[outfit], replace(shot, feet=min(shot.feet, _LOWEST_FEET)))
    pixels = np.asarray(layer.reduce(OVERSAMPLING), dtype=np.float32)
    columns = np.flatnonzero(pixels[..., 3].any(axis=0))
    if not len(columns):  # beside a narrow frame
        return
    noise = np.random.default_rng(rng.getrandbits(32))
    dyes = noise.uniform(0.86, 1.14, (2, 3)).astype(np.float32)  # of the upper and the lower half
    dye = np.repeat(dyes, (height - height // 2, height // 2), axis=0)[:, None]
    folds = Image.fromarray(noise.normal(128, 46, (height // 3, width // 2)).clip(0, 255).astype(np.uint8))
    fold = np.asarray(folds.resize(canvas.size, Image.Resampling.BICUBIC), dtype=np.float32)[..., None] / 128
    # Light from one side of the figure
    across = (np.arange(width, dtype=np.float32) - columns[0]) / max(1, columns[-1] - columns[0])
    side = rng.choice((-1.0, 1.0)) * rng.uniform(0.15, 0.5)
    color = pixels[..., :3] * dye * (0.8 + 0.2 * fold) * (1.0 + side * (across[:, None] - 0.5))
    figure = Image.fromarray(np.dstack([color.clip(0, 255), pixels[..., 3:]]).astype(np.uint8), "RGBA")
    # From above, the lower part of the figure is narrower; the frame may cut the feet off
    narrow = rng.uniform(0.08, 0.2) * width
    corners = (0, 0, -narrow, height, width + narrow, height, width, 0)
    tilted = figure.transform(canvas.size, Image.Transform.QUAD, corners, Image.Resampling.BILINEAR)
    canvas.paste(tilted, (0, round(max(0.0, shot.feet - _LOWEST_FEET) * height)), tilted)


def _draw_barrier(canvas: Image.Image, shot: Shot, rng: random.Random) -> None:
    """Hides the feet of a shot without shoes behind a gate, and else a strip of the figure behind a pole."""
    width, height = canvas.size
    draw = ImageDraw.Draw(canvas)
    steel = rng.choice(((150, 154, 158), (90, 94, 100), (196, 176, 60)))
    if shot.shows_shoes or shot.cuts_feet:
        x = width / 2 + (shot.x + shot.occluder_side * rng.uniform(0.04, 0.12)) * height
        half = 0.02 * height
        draw.rectangle((x - half, 0, x + half, height), fill=steel)
        draw.line((x, 0, x, height), fill=shade(steel, 1.3), width=2)
    else:
        top = rng.uniform(0.76, 0.86) * height
        draw.rectangle((0, top, width, height), fill=steel)
        draw.rectangle((0, top, width, top + 0.025 * height), fill=shade(steel, 1.3))


def _light(photo: Image.Image, shot: Shot, gains: tuple[float, float, float], rng: random.Random) -> Image.Image:
    """Applies the lamps' color and cone of light, and the camera's blur and noise."""
    width, height = photo.size
    photo = photo.filter(ImageFilter.BoxBlur((rng.uniform(0.0, 1.2) * width / 64, 0.2)))
    pixels = np.asarray(photo, dtype=np.float32)
    x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    cone = 1.2 - 0.35 * ((x - rng.uniform(-0.6, 0.6)) ** 2 + (y - rng.uniform(-0.8, 0.3)) ** 2)
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0.0, 2.0 + 2.0 * shot.noise, pixels.shape)
    gain = np.array(gains, np.float32) * np.array(shot.tint, np.float32) * shot.brightness
    return Image.fromarray((pixels * cone.clip(0.35)[..., None] * gain + noise).clip(0, 255).astype(np.uint8))


def write_station_identity(traits: PersonTraits, template_rng: random.Random, rng: random.Random) -> str:
    """Writes a description of the body only; the arguments are those of `captions.write_identity_description`."""
    chooser = rng if rng.random() < 0.3 else template_rng
    hair = f"{traits.hair_color} hair, {traits.hair_length}"
    subject = "his" if traits.gender == "man" else "her"
    return chooser.choice(
        (
            f"One can see a {traits.gender} of {traits.height} stature with {with_article(traits.build)} body, "
            f"{traits.age}; {subject} skin is {traits.skin_tone} and {subject} hair is {traits.hair_length} and "
            f"{traits.hair_color}.",
            f"{capitalized(traits.skin_tone)} skin, {hair}. The {traits.gender} is {traits.age}, {traits.height} in "
            f"height and {traits.build} in build.",
        )
    )


def write_station_clothing(outfit: Outfit, shot: Shot, rng: random.Random) -> str:
    """Writes a description of the clothing only; the arguments are those of `captions.write_clothing_description`."""
    upper = garment_phrase(outfit.upper_color, seen_pattern(outfit, shot), outfit.upper_type, outfit.accent)
    items = [f"a {outfit.hat_color} {outfit.hat} on top"] if outfit.hat else []
    items.append(f"on the upper body {with_article(upper)}")
    if outfit.lower_type:
        lower = garment_phrase(outfit.lower_color, outfit.lower_pattern, outfit.lower_type)
        items.append(f"below it {with_article(lower)}")
    if shot.shows_shoes:
        items.append(f"footwear: {outfit.shoes_color} {outfit.shoes_type}")
    if shows_bag(outfit, shot):
        items.append(f"luggage: {with_article(f'{outfit.bag_color} {outfit.bag}')}")
    if rng.random() < 0.3:
        items.reverse()
    return capitalized("; ".join(items)) + "."


def _bulletin(facts: Facts, rng: random.Random) -> str:
    text = f"Wanted: {with_article(facts.person)}, last seen in {with_article(facts.upper)}"
    rest = [*([facts.lower] if facts.lower else []), *([facts.shoes] if facts.shoes else [])]
    text += f" over {joined(rest)}" if rest else ""
    text += f"; {joined(facts.body)}" if facts.body else ""
    return text + (f"; carries or wears {joined(facts.extras)}" if facts.extras else "")


def _witness(facts: Facts, rng: random.Random) -> str:
    opening = rng.choice(("I saw", "There was", "I noticed"))
    text = f"{opening} {with_article(facts.person)}, {facts.subject} had {joined(facts.clothes)} on."
    text += f" I remember {facts.possessive} {joined(facts.body)}." if facts.body else ""
    return text + (f" And {joined(facts.extras)}." if facts.extras else "")


def _keywords(facts: Facts, rng: random.Random) -> str:
    words = [*facts.body, *(item for item in (facts.upper, facts.lower, facts.shoes, facts.bag, facts.hat) if item)]
    rng.shuffle(words)
    return " / ".join([facts.person, *words])


STATION_STYLES: dict[str, CaptionStyle] = {
    #                           sentence   words     synon. hair  age   build height skin lower shoes extras pattern
    "bulletin": CaptionStyle(_bulletin, "report", 0.4, 0.55, 0.55, 0.55, 0.4, 0.3, 0.95, 0.5, 0.7, 0.8),
    "witness": CaptionStyle(_witness, "casual", 0.7, 0.5, 0.45, 0.4, 0.25, 0.2, 0.9, 0.45, 0.7, 0.7),
    "keywords": CaptionStyle(_keywords, "plain", 0.4, 0.4, 0.4, 0.4, 0.2, 0.2, 0.9, 0.5, 0.7, 0.6),
}
"""The annotator styles of this look by name."""
