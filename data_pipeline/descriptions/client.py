"""Client of any server with the OpenAI API: many requests in flight, retries with exponential backoff."""

import asyncio
import email.utils
import logging
import os
import random
import re
import time
from dataclasses import KW_ONLY, dataclass, field
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import openai

from .backend import Answer, RequestFailed, Sampling, ServerRefuses
from .prompts import Message
from .redaction import Redactor, secret_values
from .throttle import Throttle

KEY_VARIABLE = "OPENAI_API_KEY"
_LOG = logging.getLogger(__name__)
_OF_SETTING = (413, 422)  # never recorded against an image: a limit of the server, such as its size of a request
_BAD_PARAMETER = re.compile(
    r"(?:unsupported|unrecogni[sz]ed|unknown|unexpected|invalid)[\s_](?:request[\s_])?(?:parameter|argument|keyword|field)"
    r"|extra[\s_](?:inputs?|fields?|forbidden)|not\spermitted|max_(?:completion_)?tokens",
    re.IGNORECASE,
)
_FORMATTER = logging.Formatter()
_SDK_LOGGERS = ("openai", "httpx", "httpcore")  # with OPENAI_LOG=debug they log whole requests and headers


@dataclass
class ChatClient:
    """A `Backend` for servers with the OpenAI API. The key comes only from the variable `OPENAI_API_KEY`.

    Requests are retried with jittered exponential backoff on rate limits (429), 5xx responses, timeouts and broken
    connections.

    Args:
        model: the model's name at the server.
        base_url: the server's address, such as `http://localhost:8000/v1`; the OpenAI service by default.
        sampling: sampling parameters of every request.
        in_flight: maximum number of concurrent requests.
        timeout: seconds until a request is canceled and retried, from its start to its last byte.
        max_tries: tries per request; a rate-limit response counts as a quarter of a try.
        requests_per_minute, tokens_per_minute: rate limits of the server, if known.

    Raises:
        ValueError: the address contains a password, a value is out of range, or the required key is missing.
    """

    model: str
    base_url: str | None = None
    _: KW_ONLY
    sampling: Sampling = field(default_factory=Sampling)
    in_flight: int = 32
    timeout: float = 120.0
    max_tries: int = 6
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None

    def __post_init__(self) -> None:
        if self.timeout <= 0:
            raise ValueError(f"timeout must be positive, got {self.timeout}")
        base_url = self.base_url or os.environ.get("OPENAI_BASE_URL")
        if base_url:
            address = urlsplit(base_url)
            if address.query or address.fragment or "@" in base_url:
                raise ValueError(
                    f"the server's address must not contain a password or key: set {KEY_VARIABLE} in the environment"
                )
            if address.scheme not in ("http", "https") or not address.hostname:
                raise ValueError(f"the server's address must be like http://localhost:8000/v1, got {base_url!r}")
        key = os.environ.get(KEY_VARIABLE, "").strip()
        if not key and not base_url:
            raise ValueError(f"no API key: set {KEY_VARIABLE} in the environment, or give a server's address")
        if not (key.isascii() and key.isprintable()):
            raise ValueError(f"{KEY_VARIABLE} contains characters that a key cannot have: set it again")
        proxies = (urlsplit(proxy).password or "" for proxy in getproxies().values())
        self.redact = Redactor([key, *secret_values(self.sampling.extra), *proxies])
        self._throttle = Throttle(self.in_flight, self.requests_per_minute, self.tokens_per_minute)
        # The SDK's own retries are off: they ignore the throttle that all requests share.
        self.api = openai.AsyncOpenAI(
            api_key=key or "none", base_url=self.base_url, max_retries=0, timeout=self.timeout
        )
        for logger in self._loggers():
            logger.addFilter(self._redact_record)

    async def ask(self, messages: list[Message], response_format: dict[str, Any] | None) -> Answer:
        """Requests one answer; see `Backend`."""
        spent = 0.0
        tries = 0
        while True:
            tries += 1
            sampling = self.sampling  # another request may have changed it
            body = sampling.body(self.model, messages, response_format)
            async with self._throttle.slot():
                try:
                    # cast_to=object: building the SDK's response model would take more time than all the rest.
                    answer = await asyncio.wait_for(
                        self.api.post("/chat/completions", cast_to=object, body=body), self.timeout
                    )
                    result = self.read(answer)
                    self._throttle.answered(result.prompt_tokens + result.completion_tokens)
                    return result
                except Exception as error:
                    if isinstance(error, openai.APIStatusError) and self.adapt(
                        error.status_code, self._message(error), sampling
                    ):
                        continue
                    reason, wait, share = self._judge(error)
            spent += share
            if spent >= self.max_tries:
                raise RequestFailed(f"{reason} ({tries} tries)", tries)
            backoff = min(60.0, 0.5 * 2 ** min(tries, 10))
            await asyncio.sleep(max(wait, backoff * random.uniform(0.5, 1.0)))

    def adapt(self, status: int | None, message: str, sampling: Sampling) -> bool:
        """Drops a parameter that the server does not support, once; returns whether to send the request again.

        `status` and `message` are the server's error response to a request with `sampling`.
        """
        if status not in (400, 422):
            return False
        if sampling is not self.sampling:
            return True
        fallback = sampling.without(message)
        if fallback is None:
            return False
        self.sampling = fallback
        name, value = next(pair for pair in vars(fallback).items() if pair[1] != getattr(sampling, pair[0]))
        _LOG.warning("the server does not support a parameter, so %s is %s now: %s", name, value, message)
        return True

    def read(self, completion: Any) -> Answer:
        """Parses a chat completion and redacts its secrets; raises `ValueError` for any other JSON."""
        try:
            choice = completion["choices"][0]
            message = choice["message"]
            usage = completion.get("usage") or {}
            details = usage.get("prompt_tokens_details") or {}
            finish = choice.get("finish_reason")
            # Some servers return all of an answer as reasoning.
            text = _text_of(message.get("content"))
            if not text and not message.get("refusal"):
                text = _text_of(message.get("reasoning_content") or message.get("reasoning"))
            return Answer(
                text=self.redact(text),
                prompt_tokens=int(usage.get("prompt_tokens") or 0),
                completion_tokens=int(usage.get("completion_tokens") or 0),
                response_id=self.redact(str(completion.get("id") or "")) or None,
                refusal=self.redact(message.get("refusal") or "") or None,
                cut_off=finish == "length",
                filtered=finish == "content_filter",
                cached_tokens=int(details.get("cached_tokens") or 0),
                image_tokens=int(details.get("image_tokens") or 0),
            )
        except (LookupError, TypeError, AttributeError):
            raise ValueError("the response is not a chat completion") from None

    async def close(self) -> None:
        """Closes the connections."""
        for logger in self._loggers():
            logger.removeFilter(self._redact_record)
        await self.api.close()

    def _judge(self, error: Exception) -> tuple[str, float, float]:
        """Returns the reason of an error, the minimum delay in seconds and the share of a try that it counts.

        Raises `RequestFailed` if a retry is useless, and `ServerRefuses` if all requests will fail.
        """
        if isinstance(error, openai.APIStatusError):
            status = error.status_code
            reason = f"status {status}: {self._message(error)}"
            if is_final(status, reason):
                raise ServerRefuses(f"the server refuses all requests: {reason}") from None
            wait = _retry_after(error)
            if status == 429 or (status == 503 and wait is not None):
                self._throttle.overloaded(wait)
                return reason, wait or 0.0, 0.25
            if status in (408, 409, 425) or status >= 500:
                return reason, wait or 0.0, 1.0
            raise RequestFailed(reason, blames_image=status not in _OF_SETTING) from None
        if isinstance(error, (TimeoutError, asyncio.TimeoutError, openai.APITimeoutError)):
            return f"no answer within {self.timeout:g} s", 0.0, 1.0
        if isinstance(error, openai.APIConnectionError):
            return self.redact(f"no connection: {error.__cause__ or error}"), 0.0, 1.0
        if isinstance(error, (ValueError, openai.OpenAIError)):  # a truncated or malformed body
            return self.redact(f"unreadable response: {error}"), 0.0, 1.0
        raise error

    def _message(self, error: openai.APIStatusError) -> str:
        """Extracts the server's message and error code, on one line."""
        body: Any = error.body
        code = body.get("code") if isinstance(body, dict) else None
        if isinstance(body, dict):
            body = body.get("message") or body.get("detail") or body
        # Redacted before it is cut, since a part of a key may remain otherwise
        text = " ".join(self.redact(str(body or error.message)).split())
        return text[:300] + (f" [{self.redact(str(code))}]" if code else "")

    def _loggers(self) -> list[logging.Logger]:
        """Returns the loggers of the SDK: filters of a logger do not apply to those below it."""
        loggers = logging.root.manager.loggerDict
        return [logging.getLogger(name) for name in list(loggers) if name.startswith(_SDK_LOGGERS)]

    def _redact_record(self, record: logging.LogRecord) -> bool:
        """Redacts a record of the log, and its traceback."""
        record.msg, record.args = self.redact(record.getMessage()), ()
        if record.exc_info:
            record.exc_text, record.exc_info = self.redact(_FORMATTER.formatException(record.exc_info)), None
        return True


def is_final(status: int, reason: str) -> bool:
    """Whether the key, the address, the model or a parameter caused an error response, so that all requests will fail.

    A 403 is not among them: content filters answer so for one image.
    """
    bad_parameter = status in (400, 422) and _BAD_PARAMETER.search(reason)
    return status in (401, 402, 404, 405) or "insufficient_quota" in reason or bool(bad_parameter)


def _text_of(content: Any) -> str:
    """Returns the text of a message's content: a string, or a list of parts of which reasoning is left out."""
    if isinstance(content, list):
        parts = (part for part in content if isinstance(part, dict) and "reason" not in str(part.get("type")))
        content = "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    return content if isinstance(content, str) else ""


def _retry_after(error: openai.APIStatusError) -> float | None:
    """Returns the delay of the Retry-After header in seconds, at most five minutes."""
    value = error.response.headers.get("retry-after")
    try:
        if value is None:
            return None
        if value.replace(".", "", 1).strip().isdigit():
            seconds = float(value)
        else:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except (TypeError, ValueError):
        return None
    return min(300.0, max(0.0, seconds))
