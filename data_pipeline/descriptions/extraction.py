"""Fills attribute fields from texts that were written without them, where that is certain."""

import re
from typing import Any

from .attributes import FIELD_KEYS, GARMENT_KEYS, genders
from .lexicon import CLOTHING_ATTRIBUTES, COLORS, GARMENTS, IDENTITY_ATTRIBUTES, PERSON, SHOES, words_pattern
from .validation import TEXTS, Record

_NOUNS = {
    "build": r"build|frame|figure|physique|body",
    "height": r"height|stature",
    "hair": r"hair|braids|dreadlocks|afro|ponytail|bun|bob|curls|twists|cornrows",
    "skin": r"skin(?:\stone)?|complexion",
}
_BEFORE = r"((?:(?!(?:an?|the|of|with|has|have|and|is|his|her|their|in|he|she|who|about)\b)[\w-]+\s){1,4})"
_PHRASES = {name: re.compile(rf"\b{_BEFORE}(?:{nouns})\b") for name, nouns in _NOUNS.items()}
_GENDER = words_pattern(PERSON)
_OF_GARMENT = {
    "color": re.compile(rf"\b(?:(?:dark|light|bright|pale|navy)\s)?(?:{COLORS})\b"),
    **{name: CLOTHING_ATTRIBUTES[name].pattern for name in ("pattern", "material")},
}
_ACCESSORY = CLOTHING_ATTRIBUTES["accessories"].pattern
_WORN = re.compile(
    rf"\b((?:[\w'’-]+\s){{0,4}}?)({SHOES}|{GARMENTS}|{_ACCESSORY.pattern})\b(?!-|\s(?:green|bags?|shoes|boots|dress"
    r"|jacket|tops?)\b)",
)
_BOUNDARY = re.compile(r".*\b(?:an?|the|of|with|has|and|is|are|in|over|under|on|at|plus|wears|wearing)\s")
_SHOE = re.compile(SHOES)


def fill_fields(record: Record) -> Record:
    """Returns a description with fields, read from its texts; fields that it has, or that are uncertain, stay.

    Such a record has the key `fields_from`, "texts". A phrase is certain if a text has exactly one for the attribute;
    uncertain attributes are left out.
    """
    found = dict(
        zip(FIELD_KEYS, (_identity(record[TEXTS[0]].lower()), _clothing(record[TEXTS[1]].lower())), strict=True)
    )
    new = {key: fields for key, fields in found.items() if fields and not record.get(key)}
    return record | new | ({"fields_from": "texts"} if new else {})


def _identity(text: str) -> dict[str, str]:
    fields = {name: phrase for name, pattern in _PHRASES.items() if (phrase := _only(pattern, text))}
    if len(genders(text)) == 1:
        fields["gender"] = _only(_GENDER, text) or min(genders(text))
    for name in ("age", "height"):
        phrase = _only(IDENTITY_ATTRIBUTES[name].pattern, text)
        if name not in fields and phrase and phrase not in ("height", "stature"):
            fields[name] = phrase
    return {name: fields[name] for name in IDENTITY_ATTRIBUTES if name in fields}


def _clothing(text: str) -> dict[str, Any]:
    garments: list[dict[str, str]] = []
    shoes: list[str] = []
    accessories: list[str] = []
    for match in _WORN.finditer(text):
        before, noun = _BOUNDARY.sub("", match[1]), match[2]
        phrase = f"{before}{noun}"
        if _SHOE.fullmatch(noun):
            shoes.append(phrase)
        elif _ACCESSORY.fullmatch(noun):
            accessories += [phrase] if not before.startswith("no ") else []
        else:
            words = {name: found[0] for name, pattern in _OF_GARMENT.items() if (found := pattern.search(before))}
            garments.append({key: value for key in GARMENT_KEYS if (value := {"type": noun, **words}.get(key))})
    fields: dict[str, Any] = {"garments": garments} if garments else {}
    if len(shoes) == 1:
        fields["shoes"] = shoes[0]
    return fields | ({"accessories": accessories} if accessories else {})


def _only(pattern: re.Pattern[str], text: str) -> str | None:
    """Returns the only different match of a pattern; None if there are several or none."""
    found = {match[0].strip(" ,") for match in pattern.finditer(text)}
    return found.pop() if len(found) == 1 else None
