"""What an answer of the model must be before it is kept: parsable, complete, and each text about its own half alone."""

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

PROBLEM_KINDS = (
    "refusal",
    "unparsable",
    "schema",
    "empty",
    "language",
    "meta",
    "length",
    "coverage",
    "leak",
    "unasked",
    "duplicate",
)
"""Every kind of `Problem`."""


@dataclass(frozen=True)
class Requirements:
    """What is asked of a description.

    Attributes:
        identity_attributes: keys of `IDENTITY_ATTRIBUTES` that the identity text should name. It must name no other.
        min_words, max_words: bounds on the length of either description.
        min_coverage: share of the asked attributes, from 0 to 1, that each description must name.
        caption: whether a full caption in a style is asked for too.

    Raises:
        ValueError: a value is out of its range, or there is no such attribute.
    """

    identity_attributes: tuple[str, ...] = tuple(IDENTITY_ATTRIBUTES)
    min_words: int = 8
    max_words: int = 80
    min_coverage: float = 0.75
    caption: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.identity_attributes if name not in IDENTITY_ATTRIBUTES]
        if unknown or not self.identity_attributes:
            raise ValueError(
                f"attributes: {unknown[0]!r} is none of {', '.join(IDENTITY_ATTRIBUTES)}"
                if unknown
                else f"attributes: name at least one of {', '.join(IDENTITY_ATTRIBUTES)}"
            )
        if not 1 <= self.min_words <= self.max_words:
            raise ValueError(f"words: 1 <= {self.min_words} <= {self.max_words} does not hold")
        if not 0 <= self.min_coverage <= 1:
            raise ValueError(f"min_coverage must be between 0 and 1, got {self.min_coverage}")

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of an answer."""
        return ("identity_description", "clothing_description", *(("caption",) if self.caption else ()))

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of an answer: an object of these strings and no other key."""
        return {
            "type": "object",
            "properties": {key: {"type": "string"} for key in self.keys},
            "required": list(self.keys),
            "additionalProperties": False,
        }


@dataclass(frozen=True)
class Problem:
    """Why an answer is not kept: its kind, one of `PROBLEM_KINDS`, and what the model is told."""

    kind: str
    detail: str


class UnusableAnswer(ValueError):
    """An answer from which no description can be read."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.problem = Problem(kind, detail)


def parse_answer(content: str, keys: tuple[str, ...]) -> dict[str, str]:
    """The texts of an answer, by key. Prose or a code fence around the one JSON object does no harm.

    Raises:
        UnusableAnswer: it is empty or a refusal, holds no JSON object, or one with other keys or values than asked.
    """
    if not content.strip():
        raise UnusableAnswer("empty", "the answer was empty")
    objects = _json_objects(content)
    if not objects:
        if refusal_words(content):
            raise UnusableAnswer("refusal", "the answer was a refusal")
        raise UnusableAnswer("unparsable", "the answer held no complete JSON object")
    # The last one: a model that thinks aloud ends with its answer.
    found = next((candidate for candidate in reversed(objects) if set(candidate) == set(keys)), None)
    if found is None:
        raise UnusableAnswer("schema", f"the JSON object must have the keys {', '.join(keys)} and no other")
    texts = {}
    for key in keys:
        if not isinstance(found[key], str):
            raise UnusableAnswer("schema", f"{key} must be a string")
        if not _is_unicode(found[key]):
            raise UnusableAnswer("unparsable", f"{key} held half a character")
        texts[key] = " ".join(found[key].split())
    return texts


def check_description(texts: dict[str, str], requirements: Requirements) -> list[Problem]:
    """What is wrong with the texts of an answer; nothing if it may be kept.

    A caption is in the manner of a person's, so that only emptiness, refusals, language and length are looked at.
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
        return problems  # what the texts name can only be told of real ones
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
    """Parses and checks an answer: its texts, empty if none can be read, and what is wrong with them."""
    try:
        texts = parse_answer(content, requirements.keys)
    except UnusableAnswer as error:
        return {}, [error.problem]
    return texts, check_description(texts, requirements)


def _check_text(key: str, text: str, attributes: tuple[str, ...], requirements: Requirements) -> list[Problem]:
    """Length, talk about the picture, coverage."""
    problems = []
    words = len(text.split())
    if not requirements.min_words <= words <= requirements.max_words:
        wanted = f"between {requirements.min_words} and {requirements.max_words} words"
        problems.append(Problem("length", f"{key} had {words} words, it must have {wanted}"))
    if meta := meta_words(text):
        problems.append(Problem("meta", f"{key} must not speak of the picture or the task: {_quoted(meta)}"))
    named = named_attributes(text, attributes)
    if len(named) < requirements.min_coverage * len(attributes):
        missing = [name for name in attributes if name not in named]
        problems.append(Problem("coverage", f"{key} did not name: {', '.join(missing)}"))
    return problems


def _check_separation(identity: str, clothing: str, requirements: Requirements) -> list[Problem]:
    """No clothing in the identity text, no body in the clothing text, nothing of the body that was not asked for."""
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
    """The whole JSON objects in the first 20,000 characters of a text; those inside others do not count."""
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


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _quoted(words: list[str]) -> str:
    return ", ".join(f'"{word}"' for word in words[:8])
