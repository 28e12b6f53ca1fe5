"""What the model is asked: short text files with {placeholders}, which a user can replace one by one."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .lexicon import CLOTHING_ATTRIBUTES, IDENTITY_ATTRIBUTES
from .validation import Requirements

Message = dict[str, Any]

PLACEHOLDERS = {
    "describe_system.txt": ("identity_attributes", "clothing_attributes", "min_words", "max_words", "keys"),
    "describe_user.txt": (),
    "describe_style.txt": ("exemplars",),
    "describe_retry.txt": ("reason",),
}
"""The files of a prompt, and what each may hold in braces."""

PACKAGED = Path(__file__).parent


@dataclass(frozen=True)
class Style:
    """A manner of writing: a name, and captions that show it."""

    name: str
    exemplars: tuple[str, ...]


class DescriptionPrompt:
    """The messages that ask for the description of an image.

    Args:
        requirements: what the answer must be; the prompt tells the model.
        folder: holds any of the files of `PLACEHOLDERS`; the package's own stand in for those it does not hold.

    Raises:
        ValueError: a file has a placeholder that means nothing there.
        OSError: a file cannot be read, or the folder holds none.
    """

    def __init__(self, requirements: Requirements, folder: Path | None = None) -> None:
        self.requirements = requirements
        templates = {name: _read(name, folder) for name in PLACEHOLDERS}
        if folder is not None and not any((folder / name).is_file() for name in PLACEHOLDERS):
            raise FileNotFoundError(f"{folder}: holds none of {', '.join(PLACEHOLDERS)}")
        self._system = _fill(
            templates["describe_system.txt"],
            {
                "identity_attributes": _listed(
                    [IDENTITY_ATTRIBUTES[n].wording for n in requirements.identity_attributes]
                ),
                "clothing_attributes": _listed([attribute.wording for attribute in CLOTHING_ATTRIBUTES.values()]),
                "min_words": str(requirements.min_words),
                "max_words": str(requirements.max_words),
                "keys": _listed(requirements.keys),
            },
        )
        self._user = templates["describe_user.txt"]
        self._style = templates["describe_style.txt"]
        self._retry = templates["describe_retry.txt"]
        parts = [self._system, self._user, self._style, self._retry, json.dumps(requirements.schema)]
        self.version = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
        """Changes with every word of the files and with the requirements."""

    @property
    def letters(self) -> int:
        """How long the text of a request is, without image and style."""
        return len(self._system) + len(self._user) + len(json.dumps(self.response_format))

    @property
    def response_format(self) -> dict[str, Any]:
        """What asks a server for structured output. Servers may ignore it."""
        schema = {"name": "person_description", "strict": True, "schema": self.requirements.schema}
        return {"type": "json_schema", "json_schema": schema}

    def messages(
        self, image_url: str, style: Style | None = None, rejected: tuple[str, Sequence[str]] | None = None
    ) -> list[Message]:
        """The messages for an image.

        Args:
            image_url: the image as a data URI.
            style: how the caption is to be written; needed where the requirements ask for one.
            rejected: the answer before, and what was wrong with it.
        """
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
        """Stands for an image under this prompt, a model and a style."""
        asked = [image_digest, self.version, model, *((style.name, *style.exemplars) if style else ())]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32]


def _read(name: str, folder: Path | None) -> str:
    path = folder / name if folder is not None and (folder / name).is_file() else PACKAGED / name
    text = path.read_text(encoding="utf-8").strip()
    unknown = set(re.findall(r"\{(\w+)\}", text)).difference(PLACEHOLDERS[name])
    if unknown:
        allowed = ", ".join(f"{{{known}}}" for known in PLACEHOLDERS[name]) or "none"
        raise ValueError(f"{path}: {{{min(unknown)}}} means nothing there; what may stand in braces: {allowed}")
    return text


def _fill(template: str, values: dict[str, str]) -> str:
    """Fills the placeholders in one pass: what is filled in is never looked at again."""
    return re.sub(r"\{(\w+)\}", lambda match: values[match[1]], template)


def _as_data(texts: Sequence[str]) -> str:
    """Texts by strangers as JSON strings in which no tag can be closed."""
    return "\n".join(json.dumps(text[:600], ensure_ascii=False).replace("<", "\\u003c") for text in texts)


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words)
