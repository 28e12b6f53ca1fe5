"""Writes captions and descriptions of a synthetic photo.

Eight annotator styles write the captions. They differ in order, vocabulary, length and omissions, make small mistakes
and mention only visible items. Descriptions strictly separate body and clothing.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from . import vocabulary
from .people import NEIGHBORS, SIMILAR_TRAITS, Outfit, PersonTraits, Shot


@dataclass(frozen=True)
class Facts:
    """The phrases of one caption, in one annotator's vocabulary; None is omitted. Garments have no article."""

    noun: str
    subject: str  # he / she
    age: str | None
    build: str | None
    height: str | None
    skin: str | None
    hair: str | None
    upper: str
    lower: str | None
    shoes: str | None
    bag: str | None
    hat: str | None
    view: str

    @property
    def possessive(self) -> str:
        return "his" if self.subject == "he" else "her"

    @property
    def body(self) -> list[str]:
        """Hair and skin, if mentioned."""
        return [part for part in (self.hair, self.skin) if part]

    @property
    def person(self) -> str:
        """Height, age and build before the noun: "tall young slim woman"."""
        return " ".join(word for word in (self.height, self.age, self.build, self.noun) if word)

    @property
    def clothes(self) -> list[str]:
        """Upper and lower garment and shoes, if mentioned, with articles."""
        return [with_article(garment) for garment in (self.upper, self.lower, self.shoes) if garment]

    @property
    def extras(self) -> list[str]:
        """Bag and hat, if mentioned, with articles."""
        return [with_article(item) for item in (self.bag, self.hat) if item]


@dataclass(frozen=True)
class CaptionStyle:
    """An annotator style: sentence, vocabulary, and the probability of a synonym and of mentioning each attribute."""

    write: Callable[[Facts, random.Random], str]
    person_words: str
    synonyms: float
    hair: float
    age: float
    build: float
    height: float
    skin: float
    lower: float
    shoes: float
    extras: float
    pattern: float


def write_caption(annotator: CaptionStyle, traits: PersonTraits, outfit: Outfit, shot: Shot, rng: random.Random) -> str:
    """Writes one caption in an annotator's style; one color or trait in 25 is replaced by a similar one."""
    outfit, traits = _misread(outfit, rng), _misjudged(traits, rng)
    return annotator.write(_choose_facts(annotator, traits, outfit, shot, rng), rng)


def write_identity_description(traits: PersonTraits, template_rng: random.Random, rng: random.Random) -> str:
    """Writes a description of the body only, like a multimodal model; 85 % of a person's photos share a template."""
    chooser = rng if rng.random() < 0.15 else template_rng
    number = chooser.choices((0, 1, 2), (70, 20, 10))[0]
    subject = "He" if traits.gender == "man" else "She"
    appears = "appears to have" if rng.random() < 0.1 else "has"
    article = "An" if traits.age == "elderly" else "A"
    if number == 0:
        return (
            f"{article} {traits.age} {traits.gender} of {traits.build} build and {traits.height} height. "
            f"{subject} {appears} {traits.hair_length} {traits.hair_color} hair and {traits.skin_tone} skin."
        )
    hair = f"{traits.hair_length} {traits.hair_color} hair"
    if number == 1:
        group = {"young": "a young adult", "middle-aged": "middle-aged", "elderly": "an elderly adult"}[traits.age]
        return (
            f"The person is a {traits.gender}, {group}, with {hair}. {subject} {appears} {traits.skin_tone} skin, "
            f"{with_article(traits.build)} body and {traits.height} stature."
        )
    return (
        f"This {traits.gender} {appears} {traits.skin_tone} skin and {hair}; {subject.lower()} is {traits.age}, "
        f"of {traits.height} height and {traits.build} build."
    )


def write_clothing_description(outfit: Outfit, shot: Shot, rng: random.Random) -> str:
    """Writes a description of the clothing only, like a multimodal model: every visible item, nothing of the body."""
    upper = with_article(
        garment_phrase(outfit.upper_color, seen_pattern(outfit, shot), outfit.upper_type, outfit.accent)
    )
    parts = [upper]
    if outfit.lower_type:
        parts.append(with_article(garment_phrase(outfit.lower_color, outfit.lower_pattern, outfit.lower_type)))
    if shot.shows_shoes:
        parts.append(f"{outfit.shoes_color} {outfit.shoes_type}")
    items = [with_article(f"{outfit.bag_color} {outfit.bag}")] if shows_bag(outfit, shot) else []
    if outfit.hat:
        items.append(with_article(f"{outfit.hat_color} {outfit.hat}"))
    if rng.random() < 0.75:
        text = f"The outfit consists of {joined(parts)}."
        return text + (f" It is completed by {joined(items)}." if items else "")
    text = f"{capitalized(joined(parts))} make up the clothing" if len(parts) > 1 else f"The clothing is {parts[0]}"
    return text + (f", with {joined(items)}." if items else ".")


def with_article(phrase: str) -> str:
    """Prepends "a" or "an" to a phrase, unless it is plural ("blue jeans")."""
    if phrase.endswith("s") and not phrase.endswith("ss"):
        return phrase
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _misread(outfit: Outfit, rng: random.Random) -> Outfit:
    """Replaces each color by a similar one with probability 0.04."""

    def read(color: str) -> str:
        return rng.choice(NEIGHBORS[color]) if rng.random() < 0.04 else color

    colors = [f"{item}_color" for item in ("upper", "lower", "shoes", "bag", "hat")]
    return replace(outfit, **{color: read(getattr(outfit, color)) for color in colors})


def _misjudged(traits: PersonTraits, rng: random.Random) -> PersonTraits:
    """Replaces each trait by a similar one with probability 0.04."""
    values = {name: getattr(traits, name) for name in SIMILAR_TRAITS}
    return replace(
        traits,
        **{
            name: rng.choice(SIMILAR_TRAITS[name][value]) if rng.random() < 0.04 else value
            for name, value in values.items()
        },
    )


def _choose_facts(style: CaptionStyle, traits: PersonTraits, outfit: Outfit, shot: Shot, rng: random.Random) -> Facts:
    def said(chance: float) -> bool:
        return rng.random() < chance

    def word(words: tuple[str, ...]) -> str:
        return rng.choice(words) if said(style.synonyms) else words[0]

    def garment(color: str, kind: str, pattern: str = "plain", accent: str | None = None) -> str:
        color = word(vocabulary.COLOR_WORDS.get(color, (color,)))
        pattern = word(vocabulary.PATTERN_WORDS.get(pattern, (pattern,))) if said(style.pattern) else "plain"
        return garment_phrase(color, pattern, word(vocabulary.GARMENT_WORDS[kind]), accent)

    hair = None
    shows_hair = outfit.hat is None or traits.hair_length in ("medium", "long")
    if said(style.hair) and shows_hair:
        length, color = (
            word(vocabulary.HAIR_WORDS[traits.hair_length]),
            word(vocabulary.HAIR_COLOR_WORDS[traits.hair_color]),
        )
        form = rng.random()
        hair = f"{length} hair" if form < 0.2 else f"{color} hair" if form < 0.35 else f"{length} {color} hair"
    # From the front, only the two straps of a backpack are visible
    has_bag = shows_bag(outfit, shot)
    bag_chance = style.extras * (0.5 if outfit.bag == "backpack" and shot.view == "front" else 1.0)
    lower = garment(outfit.lower_color, outfit.lower_type, outfit.lower_pattern) if outfit.lower_type else None
    return Facts(
        noun=word(vocabulary.PERSON_WORDS[style.person_words][traits.gender]) if said(0.95) else "person",
        subject="he" if traits.gender == "man" else "she",
        age=word(vocabulary.AGE_WORDS[traits.age]) if said(style.age) else None,
        build=word(vocabulary.BUILD_WORDS[traits.build]) if said(style.build) and traits.build != "average" else None,
        height=word(vocabulary.HEIGHT_WORDS[traits.height])
        if said(style.height) and traits.height != "average" and not shot.cuts_feet
        else None,
        skin=f"{word(vocabulary.SKIN_WORDS[traits.skin_tone])} skin" if said(style.skin) else None,
        hair=hair,
        upper=garment(outfit.upper_color, outfit.upper_type, seen_pattern(outfit, shot), outfit.accent),
        lower=lower if said(style.lower) else None,
        shoes=garment(outfit.shoes_color, outfit.shoes_type) if shot.shows_shoes and said(style.shoes) else None,
        bag=garment(outfit.bag_color, outfit.bag) if has_bag and outfit.bag and said(bag_chance) else None,
        hat=garment(outfit.hat_color, outfit.hat) if outfit.hat and said(style.extras) else None,
        view=shot.view,
    )


def garment_phrase(color: str, pattern: str, kind: str, accent: str | None = None) -> str:
    if pattern == "graphic":
        return f"{color} {kind} with a {accent} print"
    return f"{color} {kind}" if pattern == "plain" else f"{color} {pattern} {kind}"


def seen_pattern(outfit: Outfit, shot: Shot) -> str:
    """Returns the visible pattern: a print on the chest is visible only from the front."""
    return "plain" if outfit.upper_pattern == "graphic" and shot.view != "front" else outfit.upper_pattern


def shows_bag(outfit: Outfit, shot: Shot) -> bool:
    """Whether the bag is visible: handbag and shoulder bag are on the right, hidden in a view from the left."""
    return outfit.bag is not None and not (outfit.bag != "backpack" and shot.view == "left")


def joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def capitalized(text: str) -> str:
    return text[0].upper() + text[1:]


def _classic(facts: Facts, rng: random.Random) -> str:
    text = f"The {facts.person} is wearing {joined(facts.clothes)}."
    if facts.body:
        text += f" {capitalized(facts.subject)} has {joined(facts.body)}."
    if facts.bag:
        text += f" {capitalized(facts.subject)} is carrying {with_article(facts.bag)}."
    if facts.hat:
        text += f" {capitalized(facts.subject)} is also wearing {with_article(facts.hat)}."
    return text


def _terse(facts: Facts, rng: random.Random) -> str:
    garments = [part for part in (facts.upper, facts.lower, facts.shoes, facts.bag, facts.hat) if part]
    rng.shuffle(garments)
    return ", ".join([facts.person, *facts.body, *garments])


def _prose(facts: Facts, rng: random.Random) -> str:
    opening = rng.choice(("In this picture we can see", "The photo shows", "Walking along is"))
    text = f"{opening} {with_article(facts.person)}" + (f" with {joined(facts.body)}" if facts.body else "")
    text += f", who has put on {with_article(facts.upper)}"
    if facts.lower:
        text += f" together with {with_article(facts.lower)}"
    if facts.shoes:
        text += f", and on {facts.possessive} feet one can make out {facts.shoes}"
    text += "."
    if facts.extras:
        text += f" There is also {joined(facts.extras)} to be seen on this {facts.noun}."
    return text


def _clothes_first(facts: Facts, rng: random.Random) -> str:
    text = f"{capitalized(joined(facts.clothes + facts.extras))} on {with_article(facts.person)}"
    return text + (f" who has {joined(facts.body)}." if facts.body else ".")


def _casual(facts: Facts, rng: random.Random) -> str:
    text = f"{facts.person} in {with_article(facts.upper)}"
    if facts.lower:
        text += f" and {facts.lower}"
    if facts.hair:
        text += f", {facts.hair}"
    if facts.skin:
        text += f", {facts.skin}"
    if facts.shoes:
        text += f", {facts.shoes} on the feet"
    if facts.extras:
        text += f", got {joined(facts.extras)}"
    return text


def _report(facts: Facts, rng: random.Random) -> str:
    details = [part for part in (facts.skin, facts.hair) if part]
    text = f"Subject: {facts.person}" + (f"; {', '.join(details)}" if details else "")
    text += f". Upper body clothed in {with_article(facts.upper)}"
    text += f"; lower body in {with_article(facts.lower)}" if facts.lower else ""
    text += f"; footwear: {facts.shoes}" if facts.shoes else ""
    return text + (f". {capitalized(joined(facts.extras))} was observed." if facts.extras else ".")


def _person_first(facts: Facts, rng: random.Random) -> str:
    text = capitalized(with_article(facts.person)) + (f" with {joined(facts.body)}" if facts.body else "")
    text += f" {rng.choice(('is dressed in', 'wears', 'has on'))} {joined(facts.clothes)}"
    return text + (f" and carries {with_article(facts.bag)}." if facts.bag else ".")


def _from_where(facts: Facts, rng: random.Random) -> str:
    view = {"front": "Walking towards the camera", "back": "Seen from behind"}.get(
        facts.view, f"Turned to the {facts.view}"
    )
    text = f"{view}, {facts.possessive} {facts.upper} stands out"
    if facts.lower or facts.shoes:
        text += f" above {joined([part for part in (facts.lower, facts.shoes) if part])}"
    text += f": this is {with_article(facts.person)}"
    rest = [part for part in (facts.hair, *facts.extras) if part]
    return text + (f" with {joined(rest)}." if rest else ".")


CAPTION_STYLES: dict[str, CaptionStyle] = {
    #                       sentence      words     synon. hair  age   build height skin lower shoes extras pattern
    "classic": CaptionStyle(_classic, "plain", 0.25, 0.55, 0.35, 0.35, 0.18, 0.15, 0.95, 0.65, 0.75, 0.85),
    "terse": CaptionStyle(_terse, "report", 0.2, 0.4, 0.4, 0.35, 0.15, 0.15, 0.9, 0.35, 0.6, 0.5),
    "prose": CaptionStyle(_prose, "plain", 0.5, 0.6, 0.55, 0.45, 0.3, 0.25, 0.95, 0.7, 0.85, 0.9),
    "clothes first": CaptionStyle(_clothes_first, "plain", 0.35, 0.4, 0.35, 0.35, 0.15, 0.15, 0.95, 0.6, 0.7, 0.9),
    "casual": CaptionStyle(_casual, "casual", 0.85, 0.4, 0.35, 0.35, 0.2, 0.15, 0.8, 0.4, 0.55, 0.5),
    "report": CaptionStyle(_report, "report", 0.15, 0.55, 0.6, 0.6, 0.3, 0.3, 0.95, 0.55, 0.7, 0.7),
    "person first": CaptionStyle(_person_first, "plain", 0.5, 0.6, 0.6, 0.55, 0.3, 0.25, 0.9, 0.4, 0.5, 0.6),
    "from where": CaptionStyle(_from_where, "casual", 0.5, 0.45, 0.4, 0.35, 0.2, 0.15, 0.85, 0.45, 0.6, 0.75),
}
"""The annotator styles by name."""
