"""Checks of a model's answer: valid JSON, all attributes named, no clothing in the identity text and vice versa."""

import json
from dataclasses import dataclass
from typing import Any

from .lexicon import (
    CLOTHING_ATTRIBUTES,
    IDENTITY_ATTRIBUTES,
    body_words,
    clothing_words,
    is_english,
    meta_words,
    named_attributes,
    refusal_words,
)


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
        """The JSON keys of an answer."""
        return ("identity_description", "clothing_description", *(("caption",) if self.caption else ()))

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of an answer: an object with exactly these keys, all strings."""
        return {
            "type": "object",
            "properties": {key: {"type": "string"} for key in self.keys},
            "required": list(self.keys),
            "additionalProperties": False,
        }


@dataclass(frozen=True)
class Problem:
    """A reason for rejecting an answer.

    Attributes:
        kind: one of refusal, unparsable, schema, empty, language, meta, length, coverage, leak, unasked, duplicate.
        detail: the explanation that a retry sends to the model.
    """

    kind: str
    detail: str


class UnusableAnswer(ValueError):
    """Raised for an answer that cannot be parsed into texts; `problem` has the kind and the detail."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.problem = Problem(kind, detail)


def parse_answer(content: str, keys: tuple[str, ...]) -> dict[str, str]:
    """Extracts the texts of an answer, by key. Prose or a code fence around the JSON object is ignored.

    Raises:
        UnusableAnswer: an empty answer, a refusal, no JSON object, or none with the requested keys and strings.
    """
    if not content.strip():
        raise UnusableAnswer("empty", "the answer was empty")
    objects = _json_objects(content)
    if not objects:
        if refusal_words(content):
            raise UnusableAnswer("refusal", "the answer was a refusal")
        raise UnusableAnswer("unparsable", "the answer contained no complete JSON object")
    # The last match: a model that prints its reasoning puts the final answer last.
    found = next((candidate for candidate in reversed(objects) if set(candidate) == set(keys)), None)
    if found is None:
        raise UnusableAnswer("schema", f"the JSON object must have the keys {', '.join(keys)} and no other")
    texts = {}
    for key in keys:
        if not isinstance(found[key], str):
            raise UnusableAnswer("schema", f"{key} must be a string")
        if any("\ud800" <= character <= "\udfff" for character in found[key]):  # not encodable as UTF-8
            raise UnusableAnswer("unparsable", f"{key} contained an unpaired surrogate")
        texts[key] = " ".join(found[key].split())
    return texts


def check_description(texts: dict[str, str], requirements: Requirements) -> list[Problem]:
    """Returns the problems of the texts of an answer; an empty list if it can be kept.

    A caption imitates a human annotator: it is checked only for emptiness, refusals, language and length.
    """
    problems = []
    for key in requirements.keys:
        text = texts[key]
        if not text:
            problems.append(Problem("empty", f"{key} was empty"))
        elif refused := refusal_words(text):
            problems.append(Problem("refusal", f"{key} was a refusal: {_quoted(refused)}"))
        elif not is_english(text):
            problems.append(Problem("language", f"{key} must be in English"))
    if problems:
        return problems  # the checks of content need real texts
    asked = {
        "identity_description": requirements.identity_attributes,
        "clothing_description": tuple(CLOTHING_ATTRIBUTES),
    }
    for key, attributes in asked.items():
        problems += _check_text(key, texts[key], attributes, requirements)
    problems += _check_separation(texts["identity_description"], texts["clothing_description"], requirements)
    if requirements.caption and not 3 <= len(texts["caption"].split()) <= 2 * requirements.max_words:
        problems.append(Problem("length", f"caption must have between 3 and {2 * requirements.max_words} words"))
    return problems


def check_answer(content: str, requirements: Requirements) -> tuple[dict[str, str], list[Problem]]:
    """Parses and checks an answer; returns its texts (empty if unparsable) and its problems."""
    try:
        texts = parse_answer(content, requirements.keys)
    except UnusableAnswer as error:
        return {}, [error.problem]
    return texts, check_description(texts, requirements)


def _check_text(key: str, text: str, attributes: tuple[str, ...], requirements: Requirements) -> list[Problem]:
    """Checks length, talk about the picture, and coverage of the attributes."""
    problems = []
    words = len(text.split())
    if not requirements.min_words <= words <= requirements.max_words:
        bounds = f"between {requirements.min_words} and {requirements.max_words}"
        problems.append(Problem("length", f"{key} had {words} words, it must have {bounds}"))
    if meta := meta_words(text):
        problems.append(Problem("meta", f"{key} must not speak of the picture or the task: {_quoted(meta)}"))
    named = named_attributes(text, attributes)
    if len(named) < requirements.min_coverage * len(attributes):
        missing = [name for name in attributes if name not in named]
        problems.append(Problem("coverage", f"{key} did not name: {', '.join(missing)}"))
    return problems


def _check_separation(identity: str, clothing: str, requirements: Requirements) -> list[Problem]:
    """Checks for leaks between the two texts, and for identity attributes that were not requested."""
    problems = []
    if leaked := clothing_words(identity):
        problems.append(Problem("leak", f"identity_description must not name clothing: {_quoted(leaked)}"))
    if leaked := body_words(clothing):
        problems.append(Problem("leak", f"clothing_description must not name the body: {_quoted(leaked)}"))
    others = [name for name in IDENTITY_ATTRIBUTES if name not in requirements.identity_attributes]
    if unasked := named_attributes(identity, others):
        problems.append(Problem("unasked", f"identity_description must not name: {', '.join(unasked)}"))
    return problems


def _json_objects(content: str) -> list[dict[str, Any]]:
    """Returns the complete outermost JSON objects in the first 20,000 characters of a text."""
    content = content[:20_000]
    decoder = json.JSONDecoder()
    objects = []
    start = content.find("{")
    while start >= 0:
        try:
            found, end = decoder.raw_decode(content, start)
            objects.append(found)
        except (json.JSONDecodeError, RecursionError):
            end = start + 1
        start = content.find("{", end)
    return objects


def _quoted(words: list[str]) -> str:
    return ", ".join(f'"{word}"' for word in words[:8])
