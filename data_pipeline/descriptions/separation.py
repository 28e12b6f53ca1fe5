"""Keeps identity and clothing apart: finds what certainly belongs to the other text, and moves or drops it.

The patterns here need evidence ("wearing a ... jacket", "long black hair") or a field of the answer. The word lists of
`lexicon` are a wider second opinion, which is reported but rejects nothing.
"""

import re
from collections.abc import Callable
from functools import lru_cache

from .lexicon import AMBIGUOUS_WORN, COLORS, GARMENTS, PERSON, found_words, word_set, words_pattern

_A = r"(?:an?|the|his|her|their|some)"
_ADJECTIVES = r"(?:(?!of\b|and\b|hair)[\w'’-]+[\s,]+){0,5}?"
_WORN = rf"(?:{GARMENTS}|{AMBIGUOUS_WORN})"
_HEAD = (
    r"hair|head|bald|scalp|braids?|ponytail|bun|dreadlocks|locs|curls|fringe|bangs|twists|afro|cornrows|beard|strands"
)
_HEADWEAR = (
    rf"(?:{_WORN}|scrunchie|ribbon|elastic|clips?|hair\s?(?:tie|band)|collar|headwear|head\s?covering|headwrap|durag"
    "|veil|beret)"
)
# Hair may be described by what hides or holds it: "hair under a red cap", "tied back with a scarf".
_HIDES = re.compile(
    r"\b(?:under(?:neath)?|beneath|below|from|out\sof|through|behind|because\sof|due\sto|in(?:to|side)|within|over"
    "|past|above|by|against|(?:tied|held|fastened|secured|pinned|gathered|pulled|swept|wrapped|covered|tucked|hidden"
    r"|concealed|kept|put)\s(?:\w+\s){0,3}(?:with|in|by"
    rf"|using))\s(?:{_A}\s)?(?:[\w'’-]+\s){{0,5}}?{_HEADWEAR}\b(?:\sof\s(?:\w+\s)?\w+)?"
    rf"|\b(?:{_A}\s)?(?:[\w'’-]+\s)?{_HEADWEAR}\s(?:(?:that|which|almost|completely|fully|partly|partially"
    r"|mostly)\s)*(?:hid(?:es|ing)|cover(?:s|ing)|conceal(?:s|ing)|obscur(?:es|ing))\b"
)
_OF_HEAD = words_pattern(_HEAD)
_WEARS = (
    r"(?:wear(?:s|ing)?|dressed\sin|clad\sin|sporting|don(?:s|ning)|carr(?:y|ies|ying)|hold(?:s|ing)|with|in|plus|has"
    r"|put\son|equipped\swith)"
)
_STRICT_WORN = re.compile(
    rf"\b(?:{GARMENTS})\b|\b(?:(?:{COLORS})[\s-]+(?:\w+\s)?|{_WEARS}\s(?:{_A}\s)?{_ADJECTIVES})(?:{AMBIGUOUS_WORN})\b"
    r"|\bdressed\sin\b|\bwears(?=\s(?:an?|the)\s(?!(?:[\w-]+\s)*(?:beard|mo?ustache|bun|ponytail|bob|braid|hair"
    r"|afro)))|\b(?:his|her|their|the)\s(?:clothes|clothing|outfit|attire|shoes)\b"
)
_HAIR_ADJECTIVES = (
    f"(?:{COLORS}|long|short|curly|wavy|straight|medium|shoulder|waist|chin|length|cropped|shaved|thick|thin|thinning"
    "|dyed|blonde?|brunette|auburn|ginger|afro|frizzy|coiled|braided|spiky|fine|loose|natural|receding|facial|sandy"
    "|salt|pepper)"
)
_ENHANCED = r"(?![\s-]?(?:ties?|clips?|bands?|pins?|accessor\w*|bows?|ribbons?|nets?|holders?|scrunchies?|claws?)\b)"
_HAIR = (
    rf"{_HAIR_ADJECTIVES}[\s,-]+(?:and\s)?(?:[\w-]+\s)?(?:hair|curls|braids|dreadlocks|locs|afro|ponytail|bun"
    rf"|bob){_ENHANCED}|(?:the|his|her|their)\shair{_ENHANCED}\s(?:is|was|falls|reaches|looks|appears|cut|tied)"
    rf"|\w+-haired|hair(?:style|cut|line)|(?:has|have|with)\s(?:[\w-]+\s){{0,3}}hair{_ENHANCED}|hair\sis"
    r"|head\sof\shair|blonde\b|brunette|bald(?:ing)?|beard(?:ed)?|mo?ustache|goatee|stubble|pigtails|cornrows"
    r"|buzz[\s-]?cut|clean[\s-]shaven"
)
_SKIN = (
    "(?:fair|pale|light|medium|tan(?:ned)?|olive|brown|dark|black|white|deep|ebony|warm|rosy|freckled"
    r"|wrinkled)(?:[\s-]\w+)?[\s-]skin(?:ned)?(?![-\s]?(?:tight|colou?red|boots|bag|belt|jacket|coat|shoes))"
    r"|skin\s?(?:tone|colou?r)?\s(?:is|looks|appears)|(?<!same\s)skin\stone(?!d?\s\w*(?:tights|leggings|stockings"
    "|top))|complexion|freckles|tattoo(?:s|ed)?"
)
_RACES = (
    r"caucasian|(?:(?:east|south|southeast|central)[\s-])?asian|african(?:[\s-]american)?|hispanic|latin[oax]"
    r"|arab(?:ic)?|middle[\s-]eastern|mediterranean|european|indian|biracial|mixed[\s-]race"
)
_ETHNICITY = (
    rf"(?:{_RACES})(?=\s(?:[\w-]+\s)?(?:{PERSON}|person|individual|adult|descent|origin|appearance|ethnicity"
    rf"|heritage))|(?:of|appears|looks|is)\s(?:{_RACES})|(?:black|white)(?=\s(?:{PERSON})\b(?!['’]))|(?:is"
    r"|appears)\s(?:black|white)(?=[.,])|ethnicity|racial"
)
_BUILD = (
    r"(?:slim|slender|thin|lean|average|medium|athletic|stocky|heavy(?:[\s-]?set)?|sturdy|solid|large|small|muscular"
    r"|strong|slight|robust|broad|wiry|normal|full|trim|plump|compact)(?:er)?[\s-](?:build|built|body|figure|physique"
    r"|frame(?!s?\sglasses))|(?:is|looks|appears|and|quite|very|rather|fairly|a)\s(?:slim|slender|thin|skinny|petite"
    r"|stocky|overweight|obese|chubby|plump|muscular|heavy-?set|lanky|burly|athletic)(?=[.,]|$|\sand\b|\s(?:person"
    r"|individual|adult|body))|(?:stocky|overweight|obese|chubby|plump|muscular|heavyset|lanky|burly)\b"
    r"|broad[\s-]shouldered|physique|body\stype|build\sis"
)
_HEIGHT = (
    r"(?:average|medium|short|tall|moderate|normal|above|below|great|middling)(?:[\s-]\w+)?\s(?:height|stature)"
    r"|(?<!-)height\sis|(?:is|looks|appears|and|quite|very|rather|fairly)\s(?:tall|short)(?=[.,;]|$|\sand\b|\sfor\b)"
    rf"|(?:tall|short)(?:er)?,?\s(?:and\s)?(?:[\w-]+\s){{0,2}}(?:person|individual|adult|{PERSON})\b(?!['’])|stature"
    r"|(?<!\d)\d['’]\d+"
)
_AGE = (
    r"(?:in|of)\s(?:his|her|their|the|late|early|mid\w*)\s?(?:\w+[\s-])?(?:teens|twenties|thirties|forties|fifties"
    r"|sixties|seventies|\d0s)|years\sold|year-old|elderly|middle[\s-]aged?|teenage[rd]?|toddler|adolescent"
    rf"|youthful\sface|(?:young|old)(?:er)?\s(?:adult|person|individual|{PERSON})\b(?!['’])"
)
_GENDERED = rf"(?<!-)(?:{PERSON})\b(?!['’]s|s['’]|\s?(?:print|jeans|style|fit|cut))"
EVIDENCE = {
    "gender": words_pattern(_GENDERED, "he", "she", "his", "her", "hers", "him", "himself", "herself"),
    "age": words_pattern(_AGE),
    "build": words_pattern(_BUILD),
    "height": words_pattern(_HEIGHT),
    "hair": words_pattern(_HAIR),
    "skin": words_pattern(_SKIN, _ETHNICITY),
}
"""For each identity attribute: a pattern of texts that certainly describe it."""

_TRAITS = (
    rf"(?:{_RACES}|young(?:er)?|old(?:er)?|elderly|middle[\s-]aged|adult|teenage|tall|short|slim|slender|thin"
    "|heavy-?set|stocky|petite|athletic|muscular|overweight|black|white|dark-skinned|fair-skinned|bearded|bald"
    "|blonde?|mature|small|little)"
)
_PRONOUNS = {"his": "the", "her": "the", "hers": "the person's"}  # all others become "the person"
_PRONOUN = re.compile(r"\b(?:he|she|his|hers?|him|himself|herself)\b", re.IGNORECASE)
_PERSON_PHRASE = re.compile(rf"(?:\b(an)\s)?\b(?:{_TRAITS}[\s,]+(?:and\s)?)*{_GENDERED}", re.IGNORECASE)
_ADJECTIVES_OF = {
    "skin": rf"(?:{_RACES}|black|white|[\w-]+-skinned)",
    "height": r"(?:tall|short)(?:er)?",
    "age": r"(?:young|old)(?:er)?|elderly|middle[\s-]aged|teenage|adult",
    "hair": r"[\w-]+-haired|bald|bearded|blonde?|clean[\s-]shaven",
    "build": r"slim|slender|thin|heavy-?set|stocky|petite|athletic|muscular|overweight|lean|burly|lanky",
}
_CLAUSE = re.compile(
    r"(,\s*(?:and\s)?|;\s*|\s[–—]\s|\s(?:and\s)?(?=(?:wear(?:s|ing)|dressed|clad|carrying|holding"
    r"|who\s(?:is\s)?(?:wear|carr|hold)|in\san?\s|with\s|paired\s|whose\s|and\s))"
    r"|\s(?=of\s[\w-]+(?:\s[\w-]+)?\s(?:build|height|stature)))",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?;])\s+")
# Nouns of fields that also describe a body or its hair.
_OF_BODIES = word_set(
    "hair top tie bun bob clip band build frame figure body head cut length style twist braid piece suit item shoulder "
    "arm hand neck back side face ear wrist light dark average none not visible person outfit"
)


def separate(
    identity: str, clothing: str, worn: frozenset[str], unasked: tuple[str, ...], min_words: int
) -> tuple[str, str, list[str]]:
    """Moves or drops phrases that certainly belong to the other text, or to attributes that were not requested.

    Returns the repaired texts and the kinds of repairs: "pronoun", "moved", "dropped".

    Args:
        identity, clothing: the two texts.
        worn: nouns of the garments, shoes and accessories in the answer's fields.
        unasked: identity attributes that the identity text must not name.
        min_words: a repair that leaves fewer words is not made.
    """
    neutral = _without_gender(clothing)
    repairs = ["pronoun"] * (neutral != clothing)
    clothing = neutral
    shorter = _without_attributes(identity, unasked)
    if shorter != identity and len(shorter.split()) >= min_words:
        identity = shorter
        repairs.append("dropped")

    def misplaced(text: str) -> list[str]:
        return worn_words(text, worn) + unasked_words(text, unasked)

    identity, moved = _without(identity, misplaced, min_words)
    clothing, dropped = _without(clothing, body_evidence, min_words)
    repairs += ["dropped"] * bool(moved + dropped)
    for sentence in moved:
        garment, words = _without_gender(sentence), worn_words(sentence, worn)
        known = any(re.search(rf"\b{re.escape(word.split()[-1])}", clothing.lower()) for word in words)
        if words and not known and not body_evidence(garment) and not unasked_words(sentence, unasked):
            clothing, repairs = f"{clothing} {garment}", [*repairs, "moved"]
    return identity, clothing, list(dict.fromkeys(repairs))


@lru_cache(maxsize=64)  # the texts of an answer are checked again after its repair
def worn_words(text: str, worn: frozenset[str]) -> list[str]:
    """Returns the phrases of an identity text that certainly describe clothing, such as the nouns of the fields."""
    text = text.lower()
    nouns = [noun for noun in sorted(worn - _OF_BODIES) if noun in text]
    if not nouns and not _STRICT_WORN.search(text):
        return []
    parts = re.split(r"(?<=[.;])", text)
    text = "".join(_HIDES.sub(" ", part) if _OF_HEAD.search(part) else part for part in parts)
    nouns = [noun for noun in nouns if re.search(rf"\b{re.escape(noun)}(?:e?s)?\b", text)]
    return found_words(_STRICT_WORN, text) or nouns


@lru_cache(maxsize=64)
def body_evidence(text: str) -> list[str]:
    """Returns the phrases of a clothing text that certainly describe the body, in lower case."""
    return [word for pattern in EVIDENCE.values() for word in found_words(pattern, text)]


def unasked_words(text: str, unasked: tuple[str, ...]) -> list[str]:
    """Returns the phrases of an identity text about attributes that were not requested, in lower case."""
    return [word for name in unasked for word in found_words(EVIDENCE[name], text)]


def _without_gender(text: str) -> str:
    """Replaces pronouns and "a young man" by "the person" and "a person"; "men's watch" is kept."""
    if not EVIDENCE["gender"].search(text.lower()):
        return text
    text = _PRONOUN.sub(_vague_pronoun, text)

    def person(match: re.Match[str]) -> str:
        plural = re.search(r"\b(?:wo)?men$|(?:boys|girls|guys|ladies|males|females)$", match[0], re.IGNORECASE)
        return _cased(("a " if match[1] else "") + ("people" if plural else "person"), match[0])

    return _PERSON_PHRASE.sub(person, text)


def _without_attributes(text: str, unasked: tuple[str, ...]) -> str:
    """Removes adjectives and short phrases about attributes that were not requested from an identity text."""
    original = text
    if "gender" in unasked:
        text = _PRONOUN.sub(_vague_pronoun, text)
        text = re.sub(rf"\b{_GENDERED}", lambda match: _cased("person", match[0]), text, flags=re.IGNORECASE)
    for name in unasked:
        if name in _ADJECTIVES_OF:
            noun = rf"(?:[\w-]+[\s,]+){{0,3}}?(?:{PERSON}|person|individual|adult)\b(?!['’])"
            adjective = rf"\b(?:{_ADJECTIVES_OF[name]}),?\s(?:and\s)?(?={noun})"
            text = re.sub(adjective, "", text, flags=re.IGNORECASE)
    for name, nouns in (("height", "height|stature"), ("build", "build|physique|frame|figure")):
        if name in unasked:
            text = re.sub(rf"\b(?:{nouns})\sand\s(?=build|height|frame)", "", text, flags=re.IGNORECASE)
            text = re.sub(rf"\band\s(?:{nouns})\b", "", text, flags=re.IGNORECASE)
            phrase = r"(?:(?!of\b|with\b|and\b)[\w-]+\s){1,2}"
            text = re.sub(rf"(?<=of\s)(?:an?\s)?{phrase}(?:{nouns})\sand\s(?:an?\s)?", "", text, flags=re.IGNORECASE)
            text = re.sub(rf",?\s(?:and\s)?(?:of\s)?(?:an?\s)?{phrase}(?:{nouns})\b", "", text, flags=re.IGNORECASE)
    if text == original:
        return text
    text = re.sub(r"\ban\s(?=[^aeiouh\s])", "a ", text)
    text = re.sub(r"\ba\s(?=[aeiou])", "an ", text)
    text = re.sub(r"\s+([,.;])", r"\1", " ".join(text.split()))
    return text[:1].upper() + text[1:]


def _without(text: str, misplaced: Callable[[str], list[str]], min_words: int) -> tuple[str, list[str]]:
    """Drops the sentences, or the clauses of a sentence, that are misplaced; returns the text and what was dropped.

    The text is unchanged if too little would remain.
    """
    if not misplaced(text):
        return text, []
    kept, dropped = [], []
    for sentence in _SENTENCE.split(text):
        if not misplaced(sentence):
            kept.append(sentence)
            continue
        parts = _CLAUSE.split(sentence)  # clause, separator, clause, ...
        clauses = [("", parts[0]), *zip(parts[1::2], parts[2::2], strict=True)]
        rest = [(mark, clause) for mark, clause in clauses if not misplaced(clause)]
        shorter = "".join(mark + clause for mark, clause in rest)
        if not rest or rest[0][0] or len(shorter.split()) < 3 or misplaced(shorter):
            dropped.append(sentence)
        else:
            kept.append(re.sub(r"[\s,;]+(?:and|with|plus)?$", "", shorter.rstrip(".!?;, ")) + ".")
            dropped.append(" ".join(clause for mark, clause in clauses if misplaced(clause)))
    shorter = re.sub(r"(?<=[.!?]\s)[a-z]", lambda match: match[0].upper(), " ".join(kept))
    return (shorter, dropped) if len(shorter.split()) >= min_words else (text, [])


def _vague_pronoun(match: re.Match[str]) -> str:
    return _cased(_PRONOUNS.get(match[0].lower(), "the person"), match[0])


def _cased(new: str, old: str) -> str:
    return new[:1].upper() + new[1:] if old[:1].isupper() else new
