"""The client gets answers through bad weather, and lets its key out to nobody but the server."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline.descriptions.client import Answer, ChatClient, RequestFailed, Sampling, ServerRefuses

KEY = "sk-secret-of-the-test"
MESSAGES = [{"role": "system", "content": "s"}, {"role": "user", "content": json.dumps("a text")}]


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
def test_faults_that_pass_cost_nothing_but_time(start_server: Callable[..., str], fault: str) -> None:
    server = start_server("--first_faults", "4", "--fault_kinds", fault, "--retry_after", "0.1")
    answers = ask(server, 8)
    assert all(isinstance(answer, Answer) and json.loads(answer.text) == {"text": "a text"} for answer in answers)


def test_a_request_that_stalls_is_given_up_in_time_as_a_whole(start_server: Callable[..., str]) -> None:
    start = time.monotonic()
    (error,) = ask(start_server("--faults", "1", "--fault_kinds", "stall"), timeout=0.3, max_tries=2)
    assert isinstance(error, RequestFailed) and str(error) == "no answer within 0.3 s (2 tries)"
    assert time.monotonic() - start < 5


def test_the_wait_that_the_server_asks_for_is_kept(start_server: Callable[..., str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    flags = ("--first_faults", "1", "--fault_kinds", "429 retry-after", "--retry_after", "1.5", "--log", str(log))
    ask(start_server(*flags), 3, in_flight=1)
    events = [json.loads(line) for line in log.read_text().splitlines()]
    first, *others = [event["time"] for event in events if event["event"] == "asked"]
    assert len(others) == 3 and min(others) - first >= 1.5


@pytest.mark.parametrize("fault", ["500", "429"])
def test_a_request_fails_after_its_tries(start_server: Callable[..., str], fault: str) -> None:
    server = start_server("--faults", "1", "--fault_kinds", fault)
    (error,) = ask(server, max_tries=1)
    assert isinstance(error, RequestFailed)
    assert str(error).startswith(f"status {fault}: fault {fault}")


def test_nobody_there_is_a_failed_request() -> None:
    (error,) = ask("http://127.0.0.1:9/v1", max_tries=1)
    assert isinstance(error, RequestFailed) and "no connection" in str(error)


def test_a_wrong_key_refuses_everything_and_is_not_told(start_server: Callable[..., str]) -> None:
    (error,) = ask(start_server("--key", "another"))
    assert isinstance(error, ServerRefuses)
    assert str(error) == (
        "the server refuses all requests: status 401: Incorrect API key provided: [key] [invalid_api_key]"
    )


def test_a_key_that_a_server_sends_back_is_struck_out(start_server: Callable[..., str]) -> None:
    client = ChatClient("m", "http://127.0.0.1:9/v1")
    echo = {"choices": [{"message": {"content": f"my key is {KEY}", "refusal": KEY}}]}
    answer = client.read(echo)
    assert answer.text == "my key is [key]" and answer.refusal == "[key]"
    server = start_server("--faults", "1", "--fault_kinds", "500", "--echo_key")
    (error,) = ask(server, max_tries=1)
    assert "[key]" in str(error) and KEY not in str(error)


@pytest.mark.parametrize("completion", [None, "text", {}, {"choices": []}, {"choices": [{"message": None}]}, []])
def test_what_is_no_completion_is_told(completion: object) -> None:
    with pytest.raises(ValueError, match="no chat completion"):
        ChatClient("m", "http://127.0.0.1:9/v1").read(completion)


@pytest.mark.parametrize(
    ("base_url", "message"),
    [
        ("localhost:8000", "must be like http://localhost:8000/v1, got 'localhost:8000'"),
        (f"http://user:{KEY}@host/v1", "must hold no password or key: set OPENAI_API_KEY"),
        (f"http://host/v1?key={KEY}", "must hold no password or key: set OPENAI_API_KEY"),
    ],
)
def test_addresses_that_cannot_be_meant_are_refused(base_url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        ChatClient("m", base_url)
    assert KEY not in str(error.value)


def test_the_service_needs_a_key_and_a_server_of_ones_own_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    ChatClient("m", "http://127.0.0.1:9/v1")
    with pytest.raises(ValueError, match="no key: set OPENAI_API_KEY"):
        ChatClient("m")


def test_a_request_holds_what_was_chosen_and_no_more() -> None:
    schema = {"type": "json_schema", "json_schema": {}}
    assert Sampling(None, None, "none").body("m", [], schema) == {"model": "m", "messages": []}
    assert Sampling(0.5, 9, "schema", {"top_p": 0.9}).body("m", [], schema) == {
        "model": "m",
        "messages": [],
        "temperature": 0.5,
        "max_completion_tokens": 9,
        "response_format": schema,
        "top_p": 0.9,
    }
    assert Sampling(structured="object").body("m", [], schema)["response_format"] == {"type": "json_object"}
