"""Finds the JSON object of a model's answer, in fences, prose, lists or reasoning."""

import ast
import functools
import json
import re
from dataclasses import dataclass
from typing import Any

from .cleaning import clean_text, without_reasoning
from .lexicon import refusal_words

_MAX_CHARACTERS = 20_000


@dataclass(frozen=True)
class Problem:
    """A reason for rejecting an answer: its kind for the report, and the explanation for the model's next attempt."""

    kind: str
    detail: str


class UnusableAnswer(ValueError):
    """Raised for an answer that cannot be parsed into texts; `problem` has the kind and the detail."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.problem = Problem(kind, detail)


def find_answer(content: str, keys: tuple[str, ...]) -> tuple[dict[str, Any], list[str]]:
    """Finds the JSON object with the given keys in an answer; returns it and the repairs that it needed.

    Repairs are "format" (prose, fences, lists, reasoning or malformed JSON around or in the object) and "keys" (other
    spellings; further keys are kept for the caller).

    Raises:
        UnusableAnswer: an empty answer, a refusal, no JSON object, or none with the requested keys.
    """
    if not content.strip():
        raise UnusableAnswer("empty", "the answer was empty")
    is_plain = content.lstrip().startswith("{") and without_reasoning(content) == content
    plain = _loaded(content) if is_plain else None
    objects = [plain] if isinstance(plain, dict) else _json_objects(content)
    found = _matching(objects, keys)
    if found is None:
        objects += _json_objects(_mended(content))
        found = _matching(objects, keys)
    if found is not None:
        repairs = ["format"] * (found is not plain) + ["keys"] * (not set(keys) <= set(found))
        return {_spelled(key): value for key, value in found.items()}, repairs
    if objects:
        raise UnusableAnswer("schema", f"the JSON object must have the keys {', '.join(keys)}")
    if refusal_words(content):
        raise UnusableAnswer("refusal", "the answer was a refusal")
    raise UnusableAnswer("unparsable", "the answer contained no complete JSON object")


def parse_answer(content: str, keys: tuple[str, ...]) -> dict[str, str]:
    """Extracts the texts of an answer, by key; errors as in `find_answer` and `texts_of`."""
    return texts_of(find_answer(content, keys)[0], keys)[0]


def texts_of(found: dict[str, Any], keys: tuple[str, ...]) -> tuple[dict[str, str], bool]:
    """Returns the cleaned texts of an answer, and whether markup was removed.

    Raises:
        UnusableAnswer: a value is no string, or not encodable as UTF-8.
    """
    texts: dict[str, str] = {}
    changed = False
    for key in keys:
        if not isinstance(found[key], str):
            raise UnusableAnswer("schema", f"{key} must be a string")
        if not found[key].isascii() and any("\ud800" <= character <= "\udfff" for character in found[key]):
            raise UnusableAnswer("unparsable", f"{key} contained an unpaired surrogate")
        texts[key], cleaned = clean_text(found[key])
        changed |= cleaned
    return texts, changed


def _matching(objects: list[dict[str, Any]], keys: tuple[str, ...]) -> dict[str, Any] | None:
    """Returns the last object with the keys: a model that prints its reasoning puts the final answer last."""
    nested = (found for candidate in reversed(objects) for found in _nested(candidate))
    return next((found for found in nested if set(keys) <= {_spelled(key) for key in found}), None)


def _json_objects(content: str) -> list[dict[str, Any]]:
    """Returns the complete outermost JSON objects in the first characters of a text, without its reasoning."""
    content = without_reasoning(content)[:_MAX_CHARACTERS]
    if content.lstrip().startswith('"'):  # an object that was encoded twice
        decoded = _loaded(content)
        content = decoded if isinstance(decoded, str) else content
    decoder = json.JSONDecoder(strict=False)  # accepts line breaks in strings
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


def _mended(content: str) -> str:
    """Returns the JSON of an answer with trailing commas, comments, or the quotes of another language; else ""."""
    content = without_reasoning(content)[:_MAX_CHARACTERS]
    start, end = content.find("{"), content.rfind("}")
    if not 0 <= start < end:
        return ""
    body = re.sub(r",\s*([}\]])", r"\1", content[start : end + 1])
    body = re.sub(r"^\s*//.*$", "", body, flags=re.MULTILINE)
    if re.search(r"[“”]\s*:", body):
        body = re.sub(r"[“”]", '"', body)
    if _loaded(body) is not None:
        return body
    try:
        value = ast.literal_eval(body)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ""
    try:
        return json.dumps(value)
    except (TypeError, ValueError):
        return ""


def _nested(value: Any, depth: int = 3) -> list[dict[str, Any]]:
    """Returns an object and the objects inside it, down to a depth."""
    if isinstance(value, list):
        return [found for entry in value[:2] for found in _nested(entry, depth)]
    if not isinstance(value, dict) or not depth:
        return []
    return [value, *(found for entry in value.values() for found in _nested(entry, depth - 1))]


@functools.lru_cache(maxsize=1000)
def _spelled(key: str) -> str:
    """Returns a key in the spelling of the schema: "Identity Description" and "identityDescription" included."""
    return re.sub(r"\W+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key.strip())).lower()


def _loaded(content: str) -> Any:
    try:
        return json.loads(content, strict=False)
    except (ValueError, RecursionError):
        return None
