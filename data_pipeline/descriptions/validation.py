"""Checks of a model's answer: its fields and its two texts, repaired where a second request is not needed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .answers import Problem, UnusableAnswer, find_answer, texts_of
from .attributes import (
    FIELD_KEYS,
    STRING,
    clothing_phrases,
    fields_schema,
    genders,
    is_named_in,
    is_visible,
    object_schema,
    read_clothing,
    read_identity,
    stems_of,
    worn_things,
)
from .cleaning import repeated
from .lexicon import (
    CLOTHING_ATTRIBUTES,
    IDENTITY_ATTRIBUTES,
    body_words,
    clothing_words,
    is_english,
    named_attributes,
    refusal_words,
)
from .separation import body_evidence, separate, unasked_words, worn_words
from .suspicion import instruction_words, name_of_person, people_words, without_talk

DETAILS = ("color", "pattern", "material")  # of garments; half of them may be left out of the text
# Share of the required coverage that is enough in texts without fields; few clothing texts name a plain pattern.
_IN_WORDS = {"identity": 0.75, "clothing": 0.5}
TEXTS = ("identity_description", "clothing_description")
Record = dict[str, Any]


@dataclass(frozen=True)
class Requirements:
    """Requirements on a description.

    Attributes:
        identity_attributes: keys of `IDENTITY_ATTRIBUTES` that the identity text should name; all others are forbidden.
        min_words, max_words: bounds on the length of each of the two descriptions.
        min_coverage: share of the requested attributes, in [0, 1], that each description must name.
        caption: whether the answer also has a caption in an annotator style.

    Raises:
        ValueError: a value is out of range, or an attribute is unknown.
    """

    identity_attributes: tuple[str, ...] = tuple(IDENTITY_ATTRIBUTES)
    min_words: int = 8
    max_words: int = 80
    min_coverage: float = 0.75
    caption: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.identity_attributes if name not in IDENTITY_ATTRIBUTES]
        if unknown or not self.identity_attributes:
            wrong = f"unknown attribute {unknown[0]!r}" if unknown else "no attribute given"
            raise ValueError(f"attributes: {wrong}; choose from {', '.join(IDENTITY_ATTRIBUTES)}")
        if not 1 <= self.min_words <= self.max_words:
            raise ValueError(f"need 1 <= min_words <= max_words, got {self.min_words} and {self.max_words}")
        if not 0 <= self.min_coverage <= 1:
            raise ValueError(f"min_coverage must be between 0 and 1, got {self.min_coverage}")

    @property
    def keys(self) -> tuple[str, ...]:
        """The JSON keys of an answer's texts."""
        return (*TEXTS, *(("caption",) if self.caption else ()))

    @property
    def unasked(self) -> tuple[str, ...]:
        """The identity attributes that the identity text must not name."""
        return tuple(name for name in IDENTITY_ATTRIBUTES if name not in self.identity_attributes)

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of an answer: the attribute fields, then the texts."""
        return object_schema(fields_schema(self.identity_attributes) | dict.fromkeys(self.keys, STRING))


def check_answer(content: str, requirements: Requirements) -> tuple[Record, list[Problem]]:
    """Parses, repairs and checks an answer; returns its record (empty if unparsable) and its problems.

    The record has the texts and, if the answer had them, `identity_attributes` and `clothing_attributes`; `repaired`
    has the kinds of repairs, if there are any.
    """
    try:
        found, repairs = find_answer(content, requirements.keys)
        texts, changed = texts_of(found, requirements.keys)
    except UnusableAnswer as error:
        return {}, [error.problem]
    identity = read_identity(found.get(FIELD_KEYS[0]), requirements.identity_attributes)
    fields = dict(zip(FIELD_KEYS, (identity, read_clothing(found.get(FIELD_KEYS[1]))), strict=True))
    record: Record = {key: value for key, value in fields.items() if value} | texts
    problems = list(_unusable_texts(record, requirements))
    repairs += ["markup"] * changed
    if not problems:
        repairs += _repair(record, requirements)
        problems = _check(record, requirements)
    return record | ({"repaired": list(dict.fromkeys(repairs))} if repairs else {}), problems


def check_description(record: Record, requirements: Requirements) -> list[Problem]:
    """Returns the problems of a stored description; an empty list if it passes all checks.

    A caption imitates a human annotator: it is checked only for emptiness, refusals, language and length.
    """
    return list(_unusable_texts(record, requirements)) or _check(record, requirements)


def coverage(record: Record, requirements: Requirements) -> dict[str, dict[str, bool]]:
    """Returns for "identity" and "clothing" which of the attributes a description names.

    They are read from the fields; a text without fields is searched for words.
    """
    identity, clothing = (record.get(key) or {} for key in FIELD_KEYS)
    named = (set(identity), {name for name, _ in clothing_phrases(clothing)})
    asked = {"identity": requirements.identity_attributes, "clothing": tuple(CLOTHING_ATTRIBUTES)}
    covered = {}
    for (kind, names), fields, text_key in zip(asked.items(), named, TEXTS, strict=True):
        if not fields or record.get("fields_from") == "texts":  # see `fill_fields`
            fields = fields.union(named_attributes(record[text_key], names))
        covered[kind] = {name: name in fields for name in names}
    return covered


def doubts(record: Record, requirements: Requirements) -> list[str]:
    """Returns the findings of the word lists, a second opinion for the report that rejects nothing."""
    identity, clothing = (record[key] for key in TEXTS)
    found = {
        "identity_description names clothing": clothing_words(identity),
        "clothing_description names the body": body_words(clothing),
        "identity_description names unrequested attributes": named_attributes(identity, requirements.unasked),
    }
    return [name for name, words in found.items() if words]


def _unusable_texts(record: Record, requirements: Requirements) -> Iterator[Problem]:
    """Checks whether the texts are real ones at all: the checks of content need that."""
    for key in requirements.keys:
        text = record.get(key) or ""
        if not text:
            yield Problem("empty", f"{key} was empty")
        elif refused := refusal_words(text):
            yield Problem("refusal", f"{key} was a refusal: {_quoted(refused)}")
        elif not is_english(text):
            yield Problem("language", f"{key} must be in English")
        elif loop := repeated(text):
            yield Problem("loop", f"{key} repeats itself: {loop[:80]!r}")


def _repair(record: Record, requirements: Requirements) -> list[str]:
    """Repairs the texts of a record in place; returns the kinds of repairs."""
    repairs = []
    for key in TEXTS:
        text, _ = without_talk(record[key])
        if text != record[key] and len(text.split()) >= requirements.min_words:
            record[key] = text
            repairs.append("talk")
    worn = worn_things(record.get(FIELD_KEYS[1], {}))
    record[TEXTS[0]], record[TEXTS[1]], more = separate(
        record[TEXTS[0]], record[TEXTS[1]], worn, requirements.unasked, requirements.min_words
    )
    return repairs + more


def _check(record: Record, requirements: Requirements) -> list[Problem]:
    """Checks the content of the texts against the fields and the requirements."""
    problems = [*_check_lengths(record, requirements), *_check_subject(record)]
    identity, clothing = (record[key] for key in TEXTS)
    worn = worn_things(record.get(FIELD_KEYS[1]) or {})
    for kind, message, words in (
        ("leak", "identity_description must not name clothing", worn_words(identity, worn)),
        ("leak", "clothing_description must not name the body", body_evidence(clothing)),
        ("unasked", "identity_description must not name", unasked_words(identity, requirements.unasked)),
    ):
        if words:
            problems.append(Problem(kind, f"{message}: {_quoted(words)}"))
    return problems or list(_check_coverage(record, requirements))


def _check_lengths(record: Record, requirements: Requirements) -> Iterator[Problem]:
    for key in requirements.keys:
        low, high = requirements.min_words, requirements.max_words
        if key == "caption":
            low, high = 3, 2 * high
        elif key == TEXTS[0]:  # a text of few attributes may be short
            low = min(low, 1 + len(requirements.identity_attributes))
        words = len(record[key].split())
        if not low <= words <= high:
            yield Problem("length", f"{key} had {words} words, it must have between {low} and {high}")


def _check_subject(record: Record) -> Iterator[Problem]:
    """Checks that the texts describe one unknown person and nothing else."""
    for key in TEXTS:
        if words := without_talk(record[key])[1]:
            yield Problem("meta", f"{key} must not speak of the picture or the task: {_quoted(words)}")
        if found := instruction_words(record[key]):
            yield Problem("instruction", f"{key} must only describe the person, not instruct: {found!r}")
        if found := name_of_person(record[key], identity=key == TEXTS[0]):
            yield Problem("name", f"{key} must not name or compare with a real person: {found!r}")
    if found := people_words(*(record[key] for key in TEXTS)):
        yield Problem("people", f"the texts must describe one person only: {found!r}")
    said = genders(str((record.get(FIELD_KEYS[0]) or {}).get("gender", "")))
    in_text = genders(record[TEXTS[0]])
    if len(said) == 1 and in_text and not said & in_text:
        yield Problem("mismatch", f"the field gender is {min(said)}, but the text says otherwise")


def _check_coverage(record: Record, requirements: Requirements) -> Iterator[Problem]:
    """Checks that enough attributes are named by the fields, and the phrases of the fields by the texts.

    Texts without fields are only searched for words: less coverage is required then, because a word list misses some.
    """
    identity, clothing = (record.get(key) or {} for key in FIELD_KEYS)
    phrases = (list(identity.items()), list(clothing_phrases(clothing)))
    covered = coverage(record, requirements).items()
    for key, (kind, named), pairs in zip(TEXTS, covered, phrases, strict=True):
        is_complete = pairs and record.get("fields_from") != "texts"
        needed = requirements.min_coverage * (1 if is_complete else _IN_WORDS[kind])
        missing = [name for name, is_named in named.items() if not is_named]
        if len(named) - len(missing) < needed * len(named):
            yield Problem("coverage", f"{key} did not name: {', '.join(missing)}")
            continue
        stems = stems_of(record[key])
        for details, share in ((False, requirements.min_coverage), (True, requirements.min_coverage / 2)):
            some = [pair for pair in pairs if (pair[0] in DETAILS) == details]
            absent = [
                f"{name} {phrase!r}" for name, phrase in some if not is_named_in(name, phrase, record[key], stems)
            ]
            if len(some) - len(absent) < share * len(some):
                yield Problem("coverage", f"{key} did not name its fields: {', '.join(absent)}")
        if pairs and not any(is_visible(phrase) for _, phrase in pairs):
            yield Problem("coverage", f"no attribute of {key} is visible")


def _quoted(words: list[str]) -> str:
    return ", ".join(f'"{word}"' for word in words[:8])
