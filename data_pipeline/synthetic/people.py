"""Draws the synthetic pedestrians: fixed body traits, two outfits each, and the camera settings of each photo.

Everything here is a function of the seed and the running numbers, so adding people or photos changes no others.
"""

import random
from dataclasses import dataclass

GENDERS = ("man", "woman")
AGES = ("young", "middle-aged", "elderly")
BUILDS = ("slim", "average", "heavy")
HEIGHTS = ("short", "average", "tall")
SKIN_TONES = ("pale", "olive", "brown", "dark")
HAIR_LENGTHS = ("shaved", "short", "medium", "long")
HAIR_COLORS = ("black", "brown", "blond", "red", "grey")

COLORS = ("black", "white", "grey", "navy", "blue", "red", "green", "brown", "beige", "yellow", "pink", "purple")
COLOR_WEIGHTS = (14, 10, 10, 10, 9, 9, 8, 7, 7, 5, 6, 5)
UPPER_TYPES = ("t-shirt", "shirt", "sweater", "hoodie", "jacket", "coat")
LOWER_TYPES = ("trousers", "jeans", "shorts", "leggings")
PATTERNS = ("plain", "striped", "checked", "dotted", "graphic")
SHOE_TYPES = ("sneakers", "boots", "shoes", "sandals")
BAGS = ("backpack", "handbag", "shoulder bag")
HATS = ("cap", "beanie")
VIEWS = ("front", "back", "left", "right")
OCCLUDERS = ("post", "car", "bush", "pedestrian")
SYNTHETIC_SEED = 0  # default seed of `load_synthetic`
NUM_OUTFITS = 2
NUM_CAMERAS = 6


@dataclass(frozen=True)
class PersonTraits:
    """Traits that are independent of the clothes; the values are in the tuples at the top of this file."""

    gender: str
    age: str
    build: str
    height: str
    skin_tone: str
    hair_length: str
    hair_color: str


@dataclass(frozen=True)
class Outfit:
    """One set of clothes. A dress is an upper garment without a lower one; `accent` colors the upper pattern."""

    upper_type: str
    upper_color: str
    upper_pattern: str
    accent: str
    lower_type: str | None
    lower_color: str
    lower_pattern: str
    shoes_type: str
    shoes_color: str
    bag: str | None
    bag_color: str
    hat: str | None
    hat_color: str


@dataclass(frozen=True)
class Person:
    """The ground truth of one `person_id`."""

    traits: PersonTraits
    outfits: tuple[Outfit, Outfit]


@dataclass(frozen=True)
class Shot:
    """Pose and camera settings of one photo. Lengths are shares of the frame's height, `x` starts at its middle.

    Attributes:
        phase: point of the walking cycle in [0, 1).
        arms: swing of the arms, from -1 to 1.
        size: height of an average adult in the frame.
        feet: position of the soles, above 1 if the frame cuts them off.
        occluder_side: -1 for left, 1 for right.
        resolution: share of the frame's pixels per axis that the camera resolves.
        blur: radius in pixels of a frame of height 128.
        noise: level from 0 (none) to 2.
    """

    camera_id: int
    view: str
    phase: float
    arms: float
    x: float
    size: float
    feet: float
    occluder: str | None
    occluder_side: int
    brightness: float
    contrast: float
    tint: tuple[float, float, float]
    blur: float
    noise: int
    resolution: float

    @property
    def cuts_feet(self) -> bool:
        """Whether the frame cuts off the feet."""
        return self.feet >= 1.02

    @property
    def shows_shoes(self) -> bool:
        """Whether the feet are in the frame and not occluded."""
        return not self.cuts_feet and self.occluder not in ("car", "bush")


def describe_person(seed: int, person_id: int) -> Person:
    """Draws the traits and the two outfits of one person; a pure function of the two numbers."""
    traits = _sample_traits(random.Random(f"{seed}/{person_id}/traits"))
    first = _sample_outfit(random.Random(f"{seed}/{person_id}/outfit 0"), traits.gender)
    rng = random.Random(f"{seed}/{person_id}/outfit 1")
    second = _sample_outfit(rng, traits.gender)
    # Redraw if both outfits have the same upper garment, which would be no change of clothes
    while (second.upper_type, second.upper_color) == (first.upper_type, first.upper_color):
        second = _sample_outfit(rng, traits.gender)
    return Person(traits, (first, second))


def describe_shot(seed: int, person_id: int, outfit: int, shot: int) -> Shot:
    """Draws photo number `shot` of a person in outfit 0 or 1; a pure function of the four numbers."""
    rng = random.Random(f"{seed}/{person_id}/{outfit}/{shot}/shot")
    cut = rng.random()
    feet = rng.uniform(1.03, 1.12) if cut < 0.12 else rng.uniform(0.945, 0.985)
    return Shot(
        camera_id=rng.randint(1, NUM_CAMERAS),
        view=rng.choices(VIEWS, (36, 24, 20, 20))[0],
        phase=rng.random(),
        arms=rng.uniform(-1.0, 1.0),
        x=rng.gauss(0.0, 0.02),
        size=0.89 * rng.uniform(0.98, 1.02),
        feet=feet,
        occluder=rng.choice(OCCLUDERS) if rng.random() < 0.2 else None,
        occluder_side=rng.choice((-1, 1)),
        brightness=rng.uniform(0.75, 1.2),
        contrast=rng.uniform(0.8, 1.1),
        tint=(rng.uniform(0.94, 1.06), rng.uniform(0.97, 1.03), rng.uniform(0.93, 1.07)),
        blur=rng.choice((0.0, 0.0, 0.0, 0.4, 0.8)),
        noise=rng.randint(0, 2),
        resolution=rng.choice((1.0, 1.0, 0.8, 0.6)),
    )


def _sample_traits(rng: random.Random) -> PersonTraits:
    gender = rng.choice(GENDERS)
    age = rng.choices(AGES, (45, 33, 22))[0]
    lengths = (18, 58, 16, 8) if gender == "man" else (3, 17, 32, 48)
    hair_weights = {"young": (36, 30, 20, 14, 0), "middle-aged": (30, 28, 18, 12, 12), "elderly": (10, 10, 8, 4, 68)}
    return PersonTraits(
        gender=gender,
        age=age,
        build=rng.choices(BUILDS, (34, 36, 30))[0],
        height=rng.choices(HEIGHTS, (30, 40, 30))[0],
        skin_tone=rng.choices(SKIN_TONES, (36, 26, 20, 18))[0],
        hair_length=rng.choices(HAIR_LENGTHS, lengths)[0],
        hair_color=rng.choices(HAIR_COLORS, hair_weights[age])[0],
    )


def _color(rng: random.Random) -> str:
    return rng.choices(COLORS, COLOR_WEIGHTS)[0]


def _sample_outfit(rng: random.Random, gender: str) -> Outfit:
    # Only skirts and dresses depend on the gender, so that clothing does not reveal other traits
    dress, skirt = (0.14, 0.18) if gender == "woman" else (0.01, 0.02)
    kind = rng.random()
    upper_type = "dress" if kind < dress else rng.choice(UPPER_TYPES)
    lower_type: str | None = None
    if kind >= dress:
        lower_type = "skirt" if kind < dress + skirt else rng.choices(LOWER_TYPES, (38, 30, 20, 12))[0]
    upper_color = _color(rng)
    upper_pattern = rng.choices(PATTERNS, (46, 17, 14, 9, 14))[0]
    if upper_pattern == "graphic" and upper_type in ("coat", "dress", "shirt"):
        upper_pattern = "plain"
    jeans = rng.choices(("blue", "navy", "black", "grey"), (40, 25, 20, 15)) if lower_type == "jeans" else None
    lower_color = jeans[0] if jeans else _color(rng)
    patterned = lower_type in ("trousers", "shorts", "skirt")
    return Outfit(
        upper_type=upper_type,
        upper_color=upper_color,
        upper_pattern=upper_pattern,
        accent=rng.choice([color for color in COLORS if color not in NEIGHBORS[upper_color] and color != upper_color]),
        lower_type=lower_type,
        lower_color=lower_color,
        lower_pattern=rng.choices(("plain", "striped", "checked"), (84, 8, 8))[0] if patterned else "plain",
        shoes_type=rng.choices(SHOE_TYPES, (46, 22, 22, 10))[0],
        shoes_color=rng.choices(("black", "white", "brown", "grey", "red", "blue"), (30, 28, 16, 10, 9, 7))[0],
        bag=rng.choice(BAGS) if rng.random() < 0.55 else None,
        bag_color=_color(rng),
        hat=rng.choice(HATS) if rng.random() < 0.22 else None,
        hat_color=_color(rng),
    )


NEIGHBORS: dict[str, tuple[str, ...]] = {
    "black": ("navy", "grey"),
    "white": ("beige", "grey"),
    "grey": ("black", "white"),
    "navy": ("black", "blue"),
    "blue": ("navy", "purple"),
    "red": ("pink", "brown"),
    "green": ("grey", "brown"),
    "brown": ("red", "beige"),
    "beige": ("white", "brown"),
    "yellow": ("beige",),
    "pink": ("purple", "red"),
    "purple": ("pink", "navy"),
}
"""The colors that are easily confused in poor light."""


def _adjacent(values: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Returns the values before and after each value of a scale."""
    return {value: values[max(0, i - 1) : i] + values[i + 1 : i + 2] for i, value in enumerate(values)}


SIMILAR_TRAITS: dict[str, dict[str, tuple[str, ...]]] = {
    "gender": _adjacent(GENDERS),
    "age": _adjacent(AGES),
    "build": _adjacent(BUILDS),
    "height": _adjacent(HEIGHTS),
    "skin_tone": _adjacent(SKIN_TONES),
    "hair_length": _adjacent(HAIR_LENGTHS),
    "hair_color": {
        "black": ("brown",),
        "brown": ("black", "red"),
        "blond": ("grey", "red"),
        "red": ("brown", "blond"),
        "grey": ("blond",),
    },
}
"""The values of each trait that are easily confused."""
