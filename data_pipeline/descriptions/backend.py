"""Interface of anything that answers chat messages, its answers and errors, and the sampling parameters."""

import re
from dataclasses import dataclass, replace
from typing import Any, Protocol

from .prompts import Message


@dataclass(frozen=True)
class Answer:
    """A model's answer: its text ("" if it refused), token counts, and the server's response id.

    `cut_off` is true if the answer reached the token limit, `filtered` if a content filter blocked it. `cached_tokens`
    and `image_tokens` are parts of the prompt tokens.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    response_id: str | None = None
    refusal: str | None = None
    cut_off: bool = False
    filtered: bool = False
    cached_tokens: int = 0
    image_tokens: int = 0


class RequestFailed(Exception):
    """One request failed in all its `tries`; `blames_image` if the image can be the cause, unlike a setting."""

    def __init__(self, reason: str, tries: int = 1, blames_image: bool = True) -> None:
        super().__init__(reason)
        self.tries = tries
        self.blames_image = blames_image


class ServerRefuses(Exception):
    """All requests will fail: wrong key, address, model or parameter, or no quota left."""


class Backend(Protocol):
    """Interface of anything that answers chat messages, several at a time."""

    model: str
    in_flight: int

    async def ask(self, messages: list[Message], response_format: dict[str, Any] | None) -> Answer:
        """Requests one answer; raises `RequestFailed` or `ServerRefuses`."""
        ...

    async def close(self) -> None:
        """Releases connections and threads."""
        ...


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters. None leaves a value to the server; `extra` is merged into every request.

    `structured` selects the `response_format`: "schema" (JSON schema), "object" (any JSON object) or "none".
    `limit_key` is the name of the token limit; older servers have "max_tokens".
    """

    temperature: float | None = 0.7
    max_tokens: int | None = 900
    structured: str = "schema"
    extra: dict[str, Any] | None = None
    limit_key: str = "max_completion_tokens"

    def without(self, message: str) -> "Sampling | None":
        """Returns the sampling without the parameter that a server's error message names; None if there is none."""
        if self.limit_key == "max_completion_tokens" and self.max_tokens is not None and self.limit_key in message:
            return replace(self, limit_key="max_tokens")
        if self.structured != "none" and re.search(r"response_format|json_schema|guided_json", message):
            return replace(self, structured="none")
        if self.temperature is not None and "temperature" in message:
            return replace(self, temperature=None)
        return None

    def body(self, model: str, messages: list[Message], response_format: dict[str, Any] | None) -> dict[str, Any]:
        """Builds the body of a `/chat/completions` request."""
        body: dict[str, Any] = {"model": model, "messages": messages}
        if self.temperature is not None:
            body["temperature"] = self.temperature
        if self.max_tokens is not None:
            body[self.limit_key] = self.max_tokens
        if response_format is not None and self.structured != "none":
            body["response_format"] = response_format if self.structured == "schema" else {"type": "json_object"}
        return {**body, **(self.extra or {})}
