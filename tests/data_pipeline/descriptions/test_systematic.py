"""Systematic failures cost few requests, and are never recorded against images."""

import json
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.descriptions.answers import Problem
from data_pipeline.descriptions.backend import Sampling
from data_pipeline.descriptions.run import Outcome
from data_pipeline.descriptions.systematic import LEAST, WINDOW, StopRule

from .bench import Bench
from .small_images import StartServer

IMAGES = 640
KINDS = {
    "empty": "the same reason (empty), such as '': raise --max-tokens",
    "half json": "the same reason (cut off)",
    "schema": "the same reason (schema)",
    "refusal": "the same reason (refusal), such as",
    "foreign": "the same reason (language), such as '{",
    "filtered": "the same reason (filtered)",
    "repeated": "the same reason (duplicate)",
    "status 400": "consecutive requests failed: status 400: fault status 400",
    "status 401": "the server refuses all requests: status 401",
    "status 402": "the server refuses all requests: status 402",
    "status 403": "consecutive requests failed: status 403",
    "status 404": "the server refuses all requests: status 404",
    "status 413": "consecutive requests failed: status 413",
    "status 422": "consecutive requests failed: status 422",
}
FAST = ("half json", "status 403")
"""Kinds of which the second run is part of the fast tests."""


@pytest.fixture
def bench(start_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-of-systematic")
    return Bench(start_server, tmp_path)


def check(bench: Bench, kind: str, options: dict[str, Any], complete: bool) -> None:
    bench.write(IMAGES)
    max_duplicates = 3 if kind == "repeated" else 20
    outcome = bench.serve({**options, "max_duplicates": max_duplicates}, faults=1, fault_kinds=kind)
    assert outcome.refused and outcome.stopped is not None and KINDS[kind] in outcome.stopped
    assert bench.requests() <= 40 and not bench.lines("failed")
    assert "\n" not in outcome.stopped and len(outcome.stopped) < 500
    if complete:
        bench.serve(options)
        assert len(bench.lines()) == IMAGES and not bench.lines("failed")


@pytest.mark.parametrize("kind", KINDS)
def test_run_stops_after_few_requests(bench: Bench, kind: str) -> None:
    check(bench, kind, {}, complete=kind in FAST)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in FAST])
def test_next_run_completes_all_images(bench: Bench, kind: str) -> None:
    check(bench, kind, {}, complete=True)


# "repeated" is found after the probe, since a few copies of an answer are kept.
@pytest.mark.parametrize(
    "kind",
    [kind if kind in FAST else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind != "repeated"],
)
def test_batch_stops_after_its_probe(bench: Bench, kind: str) -> None:
    bench.write(60)
    outcome = bench.serve({"batch": True}, faults=1, fault_kinds=kind)
    assert outcome.refused and outcome.stopped is not None
    assert bench.requests() <= 40 and not bench.lines("failed")
    bench.serve({"batch": True})
    assert len(bench.lines()) == 60 and not bench.lines("failed")


def test_run_stops_if_answers_become_useless(bench: Bench) -> None:
    bench.write(300)
    outcome = bench.serve(faults=1, fault_kinds="empty", first_good=100)
    assert outcome.refused and outcome.described == 100 and outcome.failed == 0
    assert bench.requests() <= 100 + LEAST + 40  # 32 were in flight at the change
    assert bench.serve() == Outcome(200, 0)


@pytest.mark.parametrize("batch", [False, True])
def test_run_drops_parameters_that_the_server_does_not_support(
    bench: Bench, batch: bool, caplog: pytest.LogCaptureFixture
) -> None:
    bench.write(30)
    names = "max_completion_tokens,response_format,temperature"
    assert bench.serve({"batch": batch}, unsupported=names) == Outcome(30, 0)
    said = [record.getMessage() for record in caplog.records if "does not support" in record.getMessage()]
    assert [text.partition(", so ")[2].partition(":")[0] for text in said] == [
        "limit_key is max_tokens now",
        "structured is none now",
        "temperature is None now",
    ]


def test_run_records_no_failure_of_a_small_trial_with_a_wrong_setting(bench: Bench) -> None:
    bench.write(8)
    outcome = bench.serve({"limit": 5, "sampling": Sampling(extra={"top_k": 3})}, unsupported="top_k")
    assert outcome.refused and outcome.stopped is not None and "top_k" in outcome.stopped
    outcome = bench.serve({"limit": 5}, faults=1, fault_kinds="status 400")
    assert outcome.refused and not bench.lines("failed")
    assert bench.serve() == Outcome(8, 0)


@pytest.mark.parametrize("status", [400, 403])
def test_run_records_the_failure_of_one_image(bench: Bench, status: int) -> None:
    bench.write(20)
    outcome = bench.serve(first_faults=1, fault_kinds=f"status {status}")
    assert (outcome.described, outcome.failed, outcome.refused) == (19, 1, False)
    assert bench.lines("failed")[0]["reason"].startswith(f"status {status}")


@pytest.mark.parametrize("status", [401, 404, 413, 422])
def test_run_leaves_an_image_pending_that_is_not_at_fault(bench: Bench, status: int) -> None:
    bench.write(40)
    outcome = bench.serve({"in_flight": 1}, faults=0.1, first_good=2, fault_kinds=f"status {status}", seed=3)
    assert outcome.refused and outcome.described < 40 and not bench.lines("failed")
    assert outcome.stopped is not None and f"status {status}" in outcome.stopped
    bench.serve()
    assert len(bench.lines()) == 40


def test_batch_records_a_garbage_line_as_a_failed_attempt(bench: Bench) -> None:
    bench.write(40)
    outcome = bench.serve({"batch": True}, faults=0.2, fault_kinds="garbage")
    assert outcome.described + outcome.failed == 40 and outcome.stopped is None
    assert {problem["kind"] for line in bench.lines("rejected") for problem in line["problems"]} == {"server"}


def test_batch_repeats_a_cut_download(bench: Bench) -> None:
    bench.write(15)
    assert bench.serve({"batch": True}, cut_downloads=1) == Outcome(15, 0)
    assert bench.requests() == 15 and not bench.lines("rejected")


def test_batch_records_no_failure_under_an_expired_key(bench: Bench) -> None:
    bench.write(30)
    outcome = bench.serve({"batch": True}, faults=1, fault_kinds="status 401")
    assert outcome.refused and outcome.stopped is not None and "status 401" in outcome.stopped
    assert not bench.lines("failed") and bench.serve({"batch": True}) == Outcome(30, 0)


def test_max_cost_works_without_token_counts(bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bench.write(60)
    prices = tmp_path / "prices.json"
    prices.write_text(json.dumps({"m": {"input": 1.0, "output": 1.0}}))
    outcome = bench.serve({"prices": prices, "max_cost": 0.04}, usage=0)
    assert outcome.stopped is not None and "maximum cost" in outcome.stopped and 5 < outcome.described < 60
    assert sum("counts no tokens" in record.getMessage() for record in caplog.records) == 1
    assert all(line["usage"]["estimated"] for line in bench.lines())


def rule_of(*reasons: str) -> StopRule:
    rule = StopRule()
    for number, reason in enumerate(reasons):
        rule.add(str(number), [Problem(reason, "")] if reason else [], "an answer")
    return rule


@pytest.mark.parametrize(
    ("reasons", "stops"),
    [
        (["empty"] * LEAST, True),
        (["empty"] * (LEAST - 1), False),
        ([""] * (WINDOW - LEAST) + ["empty"] * LEAST, True),
        (["empty"] * LEAST + [""] * (WINDOW - LEAST + 1), False),
        (["empty", "refusal"] * LEAST, False),
    ],
)
def test_stop_rule_needs_25_of_30_with_one_reason(reasons: list[str], stops: bool) -> None:
    assert (rule_of(*reasons).reason_to_stop() is not None) == stops
