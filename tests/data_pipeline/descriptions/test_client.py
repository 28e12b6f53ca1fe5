"""The client retries transient faults, and keeps its API key secret."""

import asyncio
import json
import logging
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest

from data_pipeline.descriptions.backend import Answer, RequestFailed, Sampling, ServerRefuses
from data_pipeline.descriptions.client import ChatClient

from .small_images import StartServer

KEY = "sk-secret-of-the-test"
MESSAGES = [{"role": "system", "content": "s"}, {"role": "user", "content": json.dumps("a text")}]
NOWHERE = "http://127.0.0.1:9/v1"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def ask(base_url: str, count: int = 1, **options: float) -> list[Answer | BaseException]:
    async def run() -> list[Answer | BaseException]:
        client = ChatClient("m", base_url, **options)  # type: ignore[arg-type]
        try:
            return await asyncio.gather(*[client.ask(MESSAGES, None) for _ in range(count)], return_exceptions=True)
        finally:
            await client.close()

    return asyncio.run(run())


@pytest.mark.parametrize("fault", ["429", "429 retry-after", "500", "reset", "half body"])
def test_ask_retries_transient_faults(start_server: StartServer, fault: str) -> None:
    answers = ask(start_server(first_faults=4, fault_kinds=fault, retry_after=0.1), 8)
    assert all(isinstance(answer, Answer) and json.loads(answer.text) == {"text": "a text"} for answer in answers)


def test_ask_cancels_a_stalled_request_at_the_timeout(start_server: StartServer) -> None:
    start = time.monotonic()
    (error,) = ask(start_server(faults=1, fault_kinds="stall"), timeout=0.3, max_tries=2)
    assert isinstance(error, RequestFailed) and str(error) == "no answer within 0.3 s (2 tries)"
    assert time.monotonic() - start < 5


def test_ask_respects_retry_after(start_server: StartServer, tmp_path: Path) -> None:
    log = tmp_path / "log"
    ask(start_server(first_faults=1, fault_kinds="429 retry-after", retry_after=1.5, log=log), 3, in_flight=1)
    events = [json.loads(line) for line in log.read_text().splitlines()]
    first, *others = [event["time"] for event in events if event["event"] == "asked"]
    assert len(others) == 3 and min(others) - first >= 1.5


@pytest.mark.parametrize(("fault", "max_tries", "tries"), [("500", 1, 1), ("429", 0.5, 2)])
def test_ask_counts_a_rate_limit_as_a_quarter_try(
    start_server: StartServer, fault: str, max_tries: float, tries: int
) -> None:
    (error,) = ask(start_server(faults=1, fault_kinds=fault), max_tries=max_tries)
    assert isinstance(error, RequestFailed) and str(error) == f"status {fault}: fault {fault} ({tries} tries)"


def test_ask_reports_a_missing_server() -> None:
    (error,) = ask(NOWHERE, max_tries=1)
    assert isinstance(error, RequestFailed) and "no connection" in str(error)


def test_ask_redacts_the_key_when_the_server_refuses_it(start_server: StartServer) -> None:
    (error,) = ask(start_server(key="another"))
    assert isinstance(error, ServerRefuses)
    expected = "the server refuses all requests: status 401: Incorrect API key provided: [key] [invalid_api_key]"
    assert str(error) == expected


def test_read_and_ask_redact_an_echoed_key(start_server: StartServer) -> None:
    echo = {"choices": [{"message": {"content": f"my key is {KEY}", "refusal": KEY}}]}
    answer = ChatClient("m", NOWHERE).read(echo)
    assert answer.text == "my key is [key]" and answer.refusal == "[key]"
    (error,) = ask(start_server(faults=1, fault_kinds="500", echo_key=1), max_tries=1)
    assert "[key]" in str(error) and KEY not in str(error)


def test_judge_redacts_before_it_cuts_a_message() -> None:
    response: Any = SimpleNamespace(status_code=400, headers={}, request=None)
    error = openai.BadRequestError("", response=response, body={"message": "x " * 145 + KEY, "code": {"was": KEY}})
    with pytest.raises(RequestFailed) as caught:
        ChatClient("m", NOWHERE)._judge(error)
    assert "sk-" not in str(caught.value) and "{'was': '[key]'}" in str(caught.value)


def test_client_redacts_secrets_of_requests_and_proxies(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:proxy-pass1@proxy:3128")
    extra = {"metadata": [{"api_key": "Bearer inner.pass-1"}], "min_tokens": 3}
    client = ChatClient("m", NOWHERE, sampling=Sampling(extra=extra))
    answer = client.read({"id": KEY, "choices": [{"message": {"content": "inner.pass-1 proxy-pass1 3"}}]})
    assert answer.text == "[key] [key] 3" and answer.response_id == "[key]"
    logging.getLogger("openai._base_client").error("Request options: %s", {"extra": "inner.pass-1"})
    assert "inner.pass-1" not in caplog.text and "Request options: {'extra': '[key]'}" in caplog.text


def test_client_redacts_each_logger_and_traceback_of_the_sdk(caplog: pytest.LogCaptureFixture) -> None:
    client = ChatClient("m", NOWHERE)
    names = [name for name in logging.root.manager.loggerDict if name.startswith(("openai", "httpx", "httpcore"))]
    assert {"openai", "openai._base_client", "openai._legacy_response", "httpx2"} <= set(names)
    for name in names:
        try:
            raise ValueError(KEY)
        except ValueError:
            logging.getLogger(name).critical("headers %s", {"x": KEY}, exc_info=True)
    assert KEY not in caplog.text and caplog.text.count("ValueError: [key]") == len(names)
    asyncio.run(client.close())
    assert not any(client._redact_record in logging.getLogger(name).filters for name in names)


@pytest.mark.parametrize("key", ["sk-tes\nt-1234", "“sk-test-1234”"])
def test_client_rejects_an_invalid_key_without_printing_it(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ValueError, match="OPENAI_API_KEY contains characters") as error:
        ChatClient("m", NOWHERE)
    assert "1234" not in str(error.value)


@pytest.mark.parametrize(
    "message",
    [
        {"content": "a text"},
        {"content": [{"type": "text", "text": "a "}, {"type": "text", "text": "text"}]},
        {"content": [{"type": "reasoning", "text": "hm"}, {"type": "output_text", "text": "a text"}]},
        {"content": "a text", "reasoning_content": "hm"},
        {"content": None, "reasoning_content": "a text"},
        {"content": "", "reasoning": "a text"},
    ],
)
def test_read_finds_the_text_among_parts_and_reasoning(message: dict[str, Any]) -> None:
    assert ChatClient("m", NOWHERE).read({"choices": [{"message": message}]}).text == "a text"


@pytest.mark.parametrize("completion", [None, "text", {}, {"choices": []}, {"choices": [{"message": None}]}, []])
def test_read_rejects_other_json(completion: object) -> None:
    with pytest.raises(ValueError, match="not a chat completion"):
        ChatClient("m", NOWHERE).read(completion)


@pytest.mark.parametrize(
    ("base_url", "message"),
    [
        ("localhost:8000", "must be like http://localhost:8000/v1, got 'localhost:8000'"),
        (f"http://user:{KEY}@host/v1", "must not contain a password or key: set OPENAI_API_KEY"),
        (f"user:{KEY}@host/v1", "must not contain a password or key: set OPENAI_API_KEY"),
        (f"http://host/v1#{KEY}", "must not contain a password or key: set OPENAI_API_KEY"),
        (f"http://host/v1?key={KEY}", "must not contain a password or key: set OPENAI_API_KEY"),
    ],
)
def test_client_rejects_invalid_addresses(monkeypatch: pytest.MonkeyPatch, base_url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        ChatClient("m", base_url)
    assert KEY not in str(error.value)
    monkeypatch.setenv("OPENAI_BASE_URL", base_url)
    with pytest.raises(ValueError, match=message) as error:
        ChatClient("m")
    assert KEY not in str(error.value)


def test_client_needs_a_key_only_for_the_default_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    ChatClient("m", NOWHERE)
    with pytest.raises(ValueError, match="no API key: set OPENAI_API_KEY"):
        ChatClient("m")


def test_sampling_body_has_only_the_given_values() -> None:
    schema = {"type": "json_schema", "json_schema": {}}
    base = {"model": "m", "messages": []}
    assert Sampling(None, None, "none").body("m", [], schema) == base
    given = {"temperature": 0.5, "max_completion_tokens": 9, "response_format": schema, "top_p": 0.9}
    assert Sampling(0.5, 9, "schema", {"top_p": 0.9}).body("m", [], schema) == base | given
    assert Sampling(structured="object").body("m", [], schema)["response_format"] == {"type": "json_object"}
