"""Colors and body measures of the synthetic pedestrians."""

from dataclasses import dataclass

from .pen import Color, mix, shade
from .people import PersonTraits, Shot

PALETTE: dict[str, Color] = {
    "black": (28, 28, 32),
    "white": (236, 236, 232),
    "grey": (132, 134, 138),
    "navy": (32, 42, 92),
    "blue": (62, 108, 192),
    "red": (190, 38, 42),
    "green": (58, 128, 70),
    "brown": (112, 72, 44),
    "beige": (208, 188, 148),
    "yellow": (232, 200, 56),
    "pink": (232, 148, 176),
    "purple": (122, 66, 146),
}
SKIN: dict[str, Color] = {
    "pale": (244, 210, 186),
    "olive": (212, 164, 122),
    "brown": (158, 106, 72),
    "dark": (92, 60, 44),
}
HAIR: dict[str, Color] = {
    "black": (26, 22, 22),
    "brown": (98, 60, 34),
    "blond": (220, 184, 104),
    "red": (176, 76, 30),
    "grey": (182, 182, 184),
}
_HEIGHT = {"short": 0.925, "average": 1.0, "tall": 1.075}
_BUILD = {  # factors of width, belly width, leg, arm, depth, belly depth
    "slim": (0.82, 0.74, 0.78, 0.82, 0.82, 0.75),
    "average": (1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    "heavy": (1.15, 1.55, 1.3, 1.12, 1.3, 1.85),
}
_GRAYING = {"young": 0.0, "middle-aged": 0.2, "elderly": 0.4}


@dataclass(frozen=True)
class Body:
    """Half widths and limb radii in figure units."""

    shoulder: float
    waist: float
    hip: float
    depth: float
    belly: float
    arm: float
    leg: float
    head: float
    stoop: float


def body_of(traits: PersonTraits) -> Body:
    """Returns the measures of a person with these traits."""
    woman = traits.gender == "woman"
    wide, belly, limb, arm, depth, paunch = _BUILD[traits.build]
    return Body(
        shoulder=(0.100 if woman else 0.124) * wide,
        waist=(0.064 if woman else 0.088) * belly,
        hip=(0.094 if woman else 0.084) * (wide + belly) / 2,
        depth=0.064 * depth,
        belly=0.058 * paunch,
        arm=(0.024 if woman else 0.028) * arm,
        leg=(0.048 if woman else 0.050) * limb,
        head=0.046 if woman else 0.050,
        stoop=0.05 if traits.age == "elderly" else 0.0,
    )


def figure_height(traits: PersonTraits, shot: Shot) -> float:
    """Returns the height of the person in the frame, as a share of the frame's height."""
    return shot.size * _HEIGHT[traits.height] * (0.975 if traits.age == "elderly" else 1.0)


def contrast(color: str) -> Color:
    """Returns a visible shade on the same color: lighter on dark colors, darker on light ones."""
    rgb = PALETTE[color]
    return mix(rgb, (232, 232, 232), 0.45) if sum(rgb) < 260 else shade(rgb, 0.55)


def hair_color(traits: PersonTraits) -> Color:
    """Returns the color of the hair, which grays with age."""
    return mix(HAIR[traits.hair_color], HAIR["grey"], _GRAYING[traits.age])
