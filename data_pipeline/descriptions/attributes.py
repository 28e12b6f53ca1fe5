"""Attribute fields of an answer: their JSON schema, a tolerant reader, and the comparison of phrases with texts."""

import functools
import re
from collections.abc import Iterable, Iterator
from typing import Any

from .cleaning import clean_text
from .lexicon import IDENTITY_ATTRIBUTES, named_attributes, word_set

STRING = {"type": "string"}
GARMENT_KEYS = ("type", "color", "pattern", "material")
FIELD_KEYS = ("identity_attributes", "clothing_attributes")
_MAX_WORDS = 16  # of one phrase; a longer one is a text, not a phrase
_ALIASES_OF = {
    "gender": "sex",
    "age": "age_group",
    "build": "body_type body_build",
    "hair": "hair_style hairstyle",
    "skin": "skin_tone skin_color race ethnicity",
    "color": "colour",
    "shoes": "footwear",
    "garments": "clothes",
    "material": "fabric",
    "type": "garment",
}
_ALIASES = {alias: name for name, aliases in _ALIASES_OF.items() for alias in aliases.split()}
_HIDDEN = re.compile(
    r"(?:not|hard(?:ly)?|cannot|can't|im?possible|un(?:known|clear|certain|determined|specified|identifiable)|n/?a\b"
    r"|no\b|none|nothing|null|nil|hidden|covered|concealed|obscured|indistinct|indeterminate|-+$|plain|solid"
    "|unpatterned)",
    re.IGNORECASE,
)
_CONTENT = re.compile(r"[a-z0-9]+(?:['’-][a-z0-9]+)*", re.IGNORECASE)
_FUNCTION_WORDS = word_set(
    "a an the of with in on at and or to by for from not very quite some his her their its is are has have no "
    "as it visible likely probably appears apparent approximately about around roughly pair piece tone age "
    "aged group type"
)
_MALE = re.compile(r"\b(?:m[ae]n|males?|boys?|gentlem[ae]n|guys?|lads?|he|him|his|himself)\b")
_FEMALE = re.compile(r"\b(?:wom[ae]n|females?|girls?|lad(?:y|ies)|gals?|she|her|hers|herself)\b")


def object_schema(properties: dict[str, Any]) -> dict[str, Any]:
    """Returns the JSON schema of an object with exactly these properties."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def fields_schema(identity_attributes: Iterable[str]) -> dict[str, Any]:
    """Returns the JSON schemas of `identity_attributes` and `clothing_attributes`, by key."""
    garment = object_schema(dict.fromkeys(GARMENT_KEYS, STRING))
    clothing = {
        "garments": {"type": "array", "items": garment},
        "shoes": STRING,
        "accessories": {"type": "array", "items": STRING},
    }
    identity = dict.fromkeys(identity_attributes, STRING)
    return dict(zip(FIELD_KEYS, (object_schema(identity), object_schema(clothing)), strict=True))


def read_identity(value: Any, asked: Iterable[str]) -> dict[str, str]:
    """Reads the identity fields of an answer, without those that were not requested or have no phrase."""
    fields = _named(value)
    return {name: phrase for name in asked if (phrase := _phrase(fields.get(name)))}


def read_clothing(value: Any) -> dict[str, Any]:
    """Reads the clothing fields of an answer: `garments` (a list of objects), `shoes`, `accessories` (a list)."""
    fields = _named(value)
    garments = []
    for entry in _listed(fields.get("garments")):
        named = _named(entry) if isinstance(entry, dict) else {"type": entry}
        garment = {key: phrase for key in GARMENT_KEYS if (phrase := _phrase(named.get(key)))}
        if garment:
            garments.append(garment)
    clothing: dict[str, Any] = {"garments": garments} if garments else {}
    if shoes := _phrase(fields.get("shoes")):
        clothing["shoes"] = shoes
    if "accessories" in fields:
        clothing["accessories"] = [phrase for entry in _listed(fields["accessories"]) if (phrase := _phrase(entry))]
    return clothing


@functools.lru_cache(maxsize=10_000)  # most phrases repeat between images
def is_visible(phrase: str) -> bool:
    """Whether a phrase has content that the text must name; "not visible", "none" and "plain" have none."""
    return not _HIDDEN.match(phrase)


def clothing_phrases(clothing: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields (attribute, phrase) for each clothing field; the attributes are those of `CLOTHING_ATTRIBUTES`."""
    for garment in clothing.get("garments", ()):
        yield from garment.items()
    if "shoes" in clothing:
        yield "shoes", clothing["shoes"]
    if "accessories" in clothing:
        yield from (("accessories", phrase) for phrase in clothing["accessories"] or ["none"])


def worn_things(clothing: dict[str, Any]) -> frozenset[str]:
    """Returns the head nouns of all garments, shoes and accessories, in lower case: "white sneakers" is "sneakers"."""
    phrases = (phrase for name, phrase in clothing_phrases(clothing) if name in ("type", "shoes", "accessories"))
    return frozenset(head for phrase in phrases if is_visible(phrase) and (head := _head_noun(phrase)))


def is_named_in(attribute: str, phrase: str, text: str, stems: tuple[str, ...]) -> bool:
    """Whether a text names the phrase of a field, compared by the stems of the text's words.

    An identity text may name an attribute in other words ("woman", "in her thirties"), which its pattern finds.
    """
    if not is_visible(phrase):
        return True
    if attribute in IDENTITY_ATTRIBUTES and named_attributes(text, (attribute,)):
        return True
    wanted = stems_of(phrase)
    # Stems of at least four letters match if one begins with the other.
    return not wanted or any(
        word == other or (min(len(word), len(other)) >= 4 and (word.startswith(other) or other.startswith(word)))
        for word in wanted
        for other in stems
    )


def genders(text: str) -> set[str]:
    """Returns the genders that the words of a text name: a subset of {"male", "female"}."""
    return {name for name, words in (("male", _MALE), ("female", _FEMALE)) if words.search(text.lower())}


@functools.lru_cache(maxsize=10_000)
def stems_of(text: str) -> tuple[str, ...]:
    """Returns the stems of a text's words, without function words."""
    words = (word for token in _CONTENT.findall(text.lower()) for word in token.split("-"))
    return tuple(_stem(word) for word in words if word not in _FUNCTION_WORDS)


@functools.lru_cache(maxsize=10_000)
def _stem(word: str) -> str:
    word = word.replace("grey", "gray").replace("colour", "color").split("'")[0].split("’")[0]
    word = re.sub(r"(?<=..)ies$", "y", word)
    word = re.sub(r"(?<=...)(?<!s)s$", "", word)
    word = re.sub(r"(?<=....)(?:ing|ed|en|ish|ly|er|e|y)$", "", word)
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word


@functools.lru_cache(maxsize=10_000)
def _head_noun(phrase: str) -> str:
    """Returns the noun of a phrase: the last word before a preposition or a comma."""
    before = re.split(r"\s(?:with|in|on|of|over|around|at|and|or|worn|slung|carried|tied|to|under|for)\b|,|\(", phrase)
    words = _CONTENT.findall(before[0].lower())
    return words[-1] if words else ""


def _named(value: Any) -> dict[str, Any]:
    """Returns the entries of an object under their known names; of a list of objects, those of the first."""
    value = value[0] if isinstance(value, list) and value else value
    if not isinstance(value, dict):
        return {}
    names = {key: re.sub(r"\W+", "_", str(key).strip().lower()) for key in value}
    return {_ALIASES.get(names[key], names[key]): entry for key, entry in value.items()}


def _listed(value: Any) -> list[Any]:
    if isinstance(value, str):
        value = [part for part in value.split(",") if is_visible(part.strip())]
    return value if isinstance(value, list) else [] if value is None else [value]


def _phrase(value: Any) -> str:
    """Returns a cleaned short phrase; "" for anything else."""
    if isinstance(value, list):
        value = " and ".join(part for part in value if isinstance(part, str))
    if isinstance(value, dict):
        value = " ".join(part for part in value.values() if isinstance(part, str) and is_visible(part))
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    phrase = clean_text(str(value))[0].strip(" .;:")
    return phrase if len(phrase.split()) <= _MAX_WORDS else ""
