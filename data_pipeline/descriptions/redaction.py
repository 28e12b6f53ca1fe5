"""Redacts API keys and other secrets from texts that a server returned, also masked, shortened or encoded ones."""

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

REDACTED = "[key]"
_WINDOW = 8  # characters of a longer secret that count as a part of it
_SHORTEST = 4  # characters; shorter ones, and short plain words such as EMPTY, are placeholders of local servers
_MASK = re.compile(r"[*•●…·]+|\.{3,}|[xX]{4,}|#{3,}")
_USER_INFO = re.compile(r"(?<=://)[^\s/@\"']+(?=@)")
_SECRET_NAME = re.compile(
    r"(key|token|secret|password|passwd|authorization|auth|credentials?|cookie)s?$", re.IGNORECASE
)


class Redactor:
    """Replaces secrets in texts by `[key]`: plain, masked (`sk-ab***yz`), shortened, URL-encoded, in base64
    or in hexadecimal digits, and the user and password of any URL.

    Args:
        secrets: the secrets; placeholders of fewer than four characters or short plain words are ignored.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = {
            secret
            for secret in secrets
            if len(secret) >= _WINDOW or (len(secret) >= _SHORTEST and not secret.isalpha())
        }
        self._windows: dict[int, set[str]] = {}  # length -> parts of that length, lowercase
        for secret in self._secrets:
            for form in map(str.lower, _encoded(secret)):
                size = _WINDOW if len(form) >= 2 * _WINDOW else len(form)
                self._windows.setdefault(size, set()).update(form[i : i + size] for i in range(len(form) - size + 1))

    def __call__(self, text: str) -> str:
        """Returns the text without the secrets."""
        text = _USER_INFO.sub(REDACTED, text)
        spans = sorted([*self._parts(text.lower()), *self._masked(text)])
        redacted, end = "", 0
        for start, stop in spans:
            if start > end or not end:
                redacted += text[end:start] + REDACTED
            end = max(end, stop)
        return redacted + text[end:]

    def _parts(self, text: str) -> Iterator[tuple[int, int]]:
        """Yields the spans of parts of the secrets."""
        for size, parts in self._windows.items():
            yield from ((i, i + size) for i in range(len(text) - size + 1) if text[i : i + size] in parts)

    def _masked(self, text: str) -> Iterator[tuple[int, int]]:
        """Yields the spans of a mask with at least two characters of a secret's begin or end beside it."""
        for mask in _MASK.finditer(text) if self._secrets else ():
            for secret in self._secrets:
                sizes = range(len(secret), 1, -1)
                begin = next((n for n in sizes if text.endswith(secret[:n], 0, mask.start())), 0)
                end = next((n for n in sizes if text.startswith(secret[-n:], mask.end())), 0)
                if begin or end:
                    yield mask.start() - begin, mask.end() + end


def secret_values(value: Any, name: str = "") -> Iterator[str]:
    """Yields the strings of nested JSON whose key is the name of a secret, such as `api_key`."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from secret_values(inner, key if _SECRET_NAME.search(str(key)) else name)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from secret_values(inner, name)
    elif isinstance(value, str) and name:
        yield value.removeprefix("Bearer ").removeprefix("Basic ")


def _encoded(secret: str) -> set[str]:
    """Returns the forms of a secret. Those in base64 are the ones inside of any text, such as `user:secret`."""
    data = secret.encode()
    forms = {
        secret,
        quote(secret, safe=""),
        quote_plus(secret),
        json.dumps(secret)[1:-1],
        repr(secret)[1:-1],
        data.hex(),
    }
    for offset in range(3):
        digits = base64.b64encode(b"\0" * offset + data).decode().rstrip("=")
        inner = digits[-(-8 * offset // 6) : (offset + len(data)) * 8 // 6]
        forms |= {inner, inner.translate(str.maketrans("+/", "-_"))}
    return {form for form in forms if len(form) >= _SHORTEST}
