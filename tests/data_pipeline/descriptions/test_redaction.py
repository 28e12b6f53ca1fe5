"""Secrets in texts of a server, in the forms in which servers repeat them."""

import base64
from urllib.parse import quote

import pytest

from data_pipeline.descriptions.redaction import Redactor, secret_values

KEY = "sk-proj-a1B2c3D4/e5+F6g7H8i9J0kLmNoP"


@pytest.mark.parametrize(
    "form",
    [
        KEY,
        KEY.lower(),
        "sk-proj-********************mNoP",
        "sk-pr...mNoP",
        "sk-…oP",
        "****mNoP",
        "sk-xxxxxxxxxxxxNoP",
        KEY[:12],
        KEY[-9:],
        quote(KEY, safe=""),
        KEY.encode().hex().upper(),
        base64.b64encode(KEY.encode()).decode(),
        base64.urlsafe_b64encode(f":{KEY}".encode()).decode()[3:-4],
    ],
)
def test_redactor_replaces_a_key_in_all_its_forms(form: str) -> None:
    assert Redactor([KEY])(f"the key {form} is wrong, {form}") == "the key [key] is wrong, [key]"


@pytest.mark.parametrize("key", ["", "EMPTY", "none", "x", "a"])
def test_redactor_keeps_words_that_equal_a_placeholder(key: str) -> None:
    text = "a man ... with an EMPTY bag, none x *** of 100 %"
    assert Redactor([key])(text) == text


@pytest.mark.parametrize("key", ["sk-1", "pass1", "token-abc123", "ü" * 9, '"\\\n' * 3])
def test_redactor_replaces_short_and_odd_keys(key: str) -> None:
    for form in (key, repr(key)[1:-1]):
        assert Redactor([key])(f"({form})") == "([key])"


def test_redactor_replaces_user_and_password_of_any_url() -> None:
    assert Redactor([])("at http://user:p%40ss@host:1/v1?a=b@c") == "at http://[key]@host:1/v1?a=b@c"


def test_secret_values_finds_nested_secrets_by_name() -> None:
    extra = {"headers": [{"X-Api-Key": "a", "n": 1}], "auth": {"user": ["b"]}, "max_tokens": 5, "stop": "c"}
    assert list(secret_values(extra)) == ["a", "b"]
