"""A client of any server that speaks the OpenAI API: it keeps many requests in flight and gets through bad weather."""

import asyncio
import email.utils
import os
import random
import time
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import openai

from .prompts import Message
from .throttle import Throttle

KEY_VARIABLE = "OPENAI_API_KEY"


@dataclass(frozen=True)
class Answer:
    """What a model answered: the text ("" if it refused), tokens used, and the server's id for it."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    response_id: str | None = None
    refusal: str | None = None
    cut_off: bool = False


class RequestFailed(Exception):
    """One request got no answer, however often it was sent; others may."""


class ServerRefuses(Exception):
    """No request can get an answer: a wrong key, address or model, or no money left."""


class Backend(Protocol):
    """Something that answers messages, several at a time."""

    model: str
    in_flight: int

    async def ask(self, messages: list[Message], response_format: dict[str, Any] | None) -> Answer:
        """One answer.

        Raises:
            RequestFailed: this request gets no answer.
            ServerRefuses: no request will get one.
        """
        ...

    async def close(self) -> None:
        """Gives back connections and threads."""
        ...


@dataclass(frozen=True)
class Sampling:
    """How texts are drawn. None leaves a value to the server; `extra` is merged into every request."""

    temperature: float | None = 0.7
    max_tokens: int | None = 600
    structured: str = "schema"
    extra: dict[str, Any] | None = None

    def body(self, model: str, messages: list[Message], response_format: dict[str, Any] | None) -> dict[str, Any]:
        """A request of `/chat/completions`."""
        body: dict[str, Any] = {"model": model, "messages": messages}
        if self.temperature is not None:
            body["temperature"] = self.temperature
        if self.max_tokens is not None:
            body["max_completion_tokens"] = self.max_tokens
        if response_format is not None and self.structured != "none":
            body["response_format"] = response_format if self.structured == "schema" else {"type": "json_object"}
        return {**body, **(self.extra or {})}


class ChatClient:
    """Asks a server that speaks the OpenAI API. The key comes from the environment variable `OPENAI_API_KEY` alone.

    Args:
        model: the model's name at the server.
        base_url: the server's address, such as `http://localhost:8000/v1`; the service of OpenAI by default.
        sampling: how texts are drawn.
        in_flight: the most requests at once.
        timeout: seconds until a request is given up and sent again, from its start to its last byte.
        max_tries: how often a request is sent while it fails for the server's sake; refusals for too many requests
            count a fourth.
        requests_per_minute, tokens_per_minute: limits of the server, if known.

    Raises:
        ValueError: the address holds a password, a value is out of its range, or a key is needed and there is none.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        *,
        sampling: Sampling | None = None,
        in_flight: int = 32,
        timeout: float = 120.0,
        max_tries: int = 6,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
    ) -> None:
        if timeout <= 0:
            raise ValueError(f"timeout must be positive, got {timeout}")
        if base_url is not None:
            address = urlsplit(base_url)
            if address.scheme not in ("http", "https") or not address.hostname:
                raise ValueError(f"the server's address must be like http://localhost:8000/v1, got {base_url!r}")
            if address.username or address.password or address.query:
                raise ValueError(
                    f"the server's address must hold no password or key: set {KEY_VARIABLE} in the environment"
                )
        key = os.environ.get(KEY_VARIABLE, "")
        if not key and base_url is None and not os.environ.get("OPENAI_BASE_URL"):
            raise ValueError(f"no key: set {KEY_VARIABLE} in the environment, or name a server of your own")
        self.model = model
        self.in_flight = in_flight
        self.sampling = sampling or Sampling()
        self._key = key
        self._timeout = timeout
        self._max_tries = max_tries
        self._throttle = Throttle(in_flight, requests_per_minute, tokens_per_minute)
        # Its own retries are off: they know nothing of the other requests in flight.
        self.api = openai.AsyncOpenAI(api_key=key or "none", base_url=base_url, max_retries=0, timeout=timeout)

    async def ask(self, messages: list[Message], response_format: dict[str, Any] | None) -> Answer:
        """One answer; see `Backend`."""
        body = self.sampling.body(self.model, messages, response_format)
        spent = 0.0
        tries = 0
        while True:
            tries += 1
            async with self._throttle.slot():
                try:
                    # The parsed JSON as it is: the client's own model of an answer costs more time than all the rest.
                    answer = await asyncio.wait_for(
                        self.api.post("/chat/completions", cast_to=object, body=body), self._timeout
                    )
                    result = self.read(answer)
                    self._throttle.answered(result.prompt_tokens + result.completion_tokens)
                    return result
                except Exception as error:
                    reason, wait, share = self._judge(error)
            spent += share
            if spent >= self._max_tries:
                raise RequestFailed(f"{reason} ({tries} tries)")
            await asyncio.sleep(max(wait, min(60.0, 0.5 * 2 ** min(tries, 10)) * random.uniform(0.5, 1.0)))

    def read(self, completion: Any) -> Answer:
        """The answer in a chat completion as the server sends it. The key is struck out wherever it may stand.

        Raises:
            ValueError: this is no chat completion.
        """
        try:
            choice = completion["choices"][0]
            message = choice["message"]
            usage = completion.get("usage") or {}
            return Answer(
                text=self.redact(message.get("content") or ""),
                prompt_tokens=int(usage.get("prompt_tokens") or 0),
                completion_tokens=int(usage.get("completion_tokens") or 0),
                response_id=completion.get("id"),
                refusal=self.redact(message.get("refusal") or "") or None,
                cut_off=choice.get("finish_reason") == "length",
            )
        except (LookupError, TypeError, AttributeError):
            raise ValueError("the server's answer was no chat completion") from None

    def redact(self, text: str) -> str:
        """The text without the key."""
        return text.replace(self._key, "[key]") if self._key else text

    async def close(self) -> None:
        """Closes the connections."""
        await self.api.close()

    def _judge(self, error: Exception) -> tuple[str, float, float]:
        """The reason in words, how long to wait at least, and how much of a try it was.

        Raises:
            RequestFailed: sending the same again is of no use.
            ServerRefuses: nor is sending anything else.
        """
        if isinstance(error, openai.APIStatusError):
            status = error.status_code
            reason = self.redact(f"status {status}: {_message(error)}")
            if status in (401, 403, 404, 405) or "insufficient_quota" in reason:
                raise ServerRefuses(f"the server refuses all requests: {reason}") from None
            wait = _retry_after(error)
            if status == 429 or (status == 503 and wait is not None):
                self._throttle.overloaded(wait)
                return reason, wait or 0.0, 0.25
            if status in (408, 409, 425) or status >= 500:
                return reason, wait or 0.0, 1.0
            raise RequestFailed(reason) from None
        if isinstance(error, (TimeoutError, asyncio.TimeoutError, openai.APITimeoutError)):
            return f"no answer within {self._timeout:g} s", 0.0, 1.0
        if isinstance(error, openai.APIConnectionError):
            return self.redact(f"no connection: {error.__cause__ or error}"), 0.0, 1.0
        if isinstance(error, ValueError):  # a body that is cut short, or something else altogether
            return self.redact(f"unreadable answer: {error}"), 0.0, 1.0
        raise error


def _message(error: openai.APIStatusError) -> str:
    body = error.body
    if isinstance(body, dict):
        code = body.get("code")
        return " ".join(f"{body.get('message') or body.get('detail') or body}".split())[:300] + (
            f" [{code}]" if code else ""
        )
    return " ".join(str(body or error.message).split())[:300]


def _retry_after(error: openai.APIStatusError) -> float | None:
    """Seconds that the server asks to wait, at most five minutes."""
    headers = error.response.headers
    try:
        if "retry-after-ms" in headers:
            return min(300.0, max(0.0, float(headers["retry-after-ms"]) / 1000))
        value = headers.get("retry-after")
        if value is None:
            return None
        if value.replace(".", "", 1).strip().isdigit():
            return min(300.0, float(value))
        return min(300.0, max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time()))
    except (TypeError, ValueError):
        return None
