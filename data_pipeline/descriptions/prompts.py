"""Prompts as short text files with {placeholders}; a user can replace each file separately."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .attributes import GARMENT_KEYS
from .lexicon import CLOTHING_ATTRIBUTES, IDENTITY_ATTRIBUTES
from .validation import Requirements

Message = dict[str, Any]

PLACEHOLDERS = {
    "describe_system.txt": ("identity_attributes", "clothing_attributes", "min_words", "max_words", "keys"),
    "describe_user.txt": (),
    "describe_style.txt": ("exemplars",),
    "describe_retry.txt": ("reason",),
}
"""The prompt files, each with the placeholders it may contain."""

PACKAGED = Path(__file__).parent


@dataclass(frozen=True)
class Style:
    """An annotator style: a name, and captions written in it."""

    name: str
    exemplars: tuple[str, ...]


class DescriptionPrompt:
    """Builds the chat messages that request the description of an image.

    Args:
        requirements: the checks that answers must pass; the prompt states them.
        folder: contains any of the files of `PLACEHOLDERS`; the packaged file is used for each missing one.

    Raises:
        ValueError: a file contains an unknown placeholder.
        OSError: a file cannot be read, or the folder contains none of the files.
    """

    def __init__(self, requirements: Requirements, folder: Path | None = None) -> None:
        self.requirements = requirements
        templates = {name: _read(name, folder) for name in PLACEHOLDERS}
        if folder is not None and not any((folder / name).is_file() for name in PLACEHOLDERS):
            raise FileNotFoundError(f"{folder}: contains none of the prompt files {', '.join(PLACEHOLDERS)}")
        system, self._user, self._style, self._retry = templates.values()
        values = {
            "identity_attributes": [IDENTITY_ATTRIBUTES[name].wording for name in requirements.identity_attributes],
            "clothing_attributes": [attribute.wording for attribute in CLOTHING_ATTRIBUTES.values()],
            "min_words": [str(requirements.min_words)],
            "max_words": [str(requirements.max_words)],
            "keys": [
                f"identity_attributes (an object with the keys {', '.join(requirements.identity_attributes)})",
                "clothing_attributes (an object with the keys garments, a list of objects with the keys "
                f"{', '.join(GARMENT_KEYS)}; shoes; accessories, a list)",
                *requirements.keys,
            ],
        }
        self._system = _fill(system, {name: ", ".join(words) for name, words in values.items()})
        parts = [self._system, self._user, self._style, self._retry, json.dumps(requirements.schema)]
        self.version = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
        """Hash of all files and of the requirements."""
        schema = {"name": "person_description", "strict": True, "schema": requirements.schema}
        self.response_format: dict[str, Any] = {"type": "json_schema", "json_schema": schema}
        """The `response_format` of a request, with the JSON schema of an answer. Servers may ignore it."""
        self.letters = len(self._system) + len(self._user) + len(json.dumps(self.response_format))
        """Characters of a request without image and style, for token estimates."""

    def messages(
        self, image_url: str, style: Style | None = None, rejected: tuple[str, Sequence[str]] | None = None
    ) -> list[Message]:
        """Builds the messages for one image (a data URI); `rejected` is the previous answer with its problems."""
        text = self._user
        if style is not None:
            text += "\n\n" + _fill(self._style, {"exemplars": _as_data(style.exemplars)})
        content = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": image_url}}]
        messages: list[Message] = [{"role": "system", "content": self._system}, {"role": "user", "content": content}]
        if rejected is not None:
            answer, reasons = rejected
            messages.append({"role": "assistant", "content": answer[:2000] or "(nothing)"})
            messages.append({"role": "user", "content": _fill(self._retry, {"reason": "; ".join(reasons)})})
        return messages

    def key(self, image_digest: str, model: str, style: Style | None) -> str:
        """Returns the store key of an image under this prompt, a model and a style."""
        asked = [image_digest, self.version, model, *((style.name, *style.exemplars) if style else ())]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32]


def _read(name: str, folder: Path | None) -> str:
    path = folder / name if folder is not None and (folder / name).is_file() else PACKAGED / name
    text = path.read_text(encoding="utf-8").strip()
    unknown = set(re.findall(r"\{(\w+)\}", text)).difference(PLACEHOLDERS[name])
    if unknown:
        allowed = ", ".join(f"{{{known}}}" for known in PLACEHOLDERS[name]) or "none"
        raise ValueError(f"{path}: unknown placeholder {{{min(unknown)}}}; allowed: {allowed}")
    return text


def _fill(template: str, values: dict[str, str]) -> str:
    """Fills all placeholders in one pass, so that placeholders inside the values stay unchanged."""
    return re.sub(r"\{(\w+)\}", lambda match: values[match[1]], template)


def _as_data(texts: Sequence[str]) -> str:
    """Encodes untrusted texts as JSON strings without `<`, so that they cannot close the prompt's tag (injection)."""
    return "\n".join(json.dumps(text[:600], ensure_ascii=False).replace("<", "\\u003c") for text in texts)
