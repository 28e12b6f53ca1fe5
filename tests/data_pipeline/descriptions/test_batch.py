"""The Batch API: submitted once, collected once, asked again where an answer was rejected."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.descriptions.batch import BatchRun
from data_pipeline.descriptions.client import ChatClient
from data_pipeline.descriptions.describer import Describer
from data_pipeline.descriptions.images import ImageItem
from data_pipeline.descriptions.pipeline import DescribeOptions
from data_pipeline.descriptions.prompts import DescriptionPrompt
from data_pipeline.descriptions.run import Outcome
from data_pipeline.descriptions.store import DescriptionStore
from data_pipeline.descriptions.validation import Requirements

RUN = """
import asyncio, sys
from pathlib import Path
from tests.data_pipeline.descriptions.test_batch import run_batches
print(run_batches(*map(Path, sys.argv[1:3]), sys.argv[3]))
"""


def run_batches(folder: Path, output: Path, base_url: str, model: str = "m", **options: Any) -> Outcome:
    import asyncio

    async def run() -> Outcome:
        with DescriptionStore(output) as store:
            describer = Describer(store, DescriptionPrompt(Requirements()), model, batch=True)
            client = ChatClient(model, base_url)
            try:
                batches = BatchRun(describer, client, poll_seconds=0.05, progress=False, **options)
                return await batches.run([ImageItem(path.name, path) for path in sorted(folder.iterdir())])
            finally:
                await client.close()

    return asyncio.run(run())


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def events(log: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in lines(log) if event["event"] == kind]


def test_batches_describe_every_image_in_rounds(
    start_server: Callable[..., str], write_images: Callable[[int], Path], tmp_path: Path
) -> None:
    log, output = tmp_path / "log", tmp_path / "d.jsonl"
    server = start_server("--faults", "0.3", "--fault_kinds", "500,half json,schema", "--log", str(log))
    outcome = run_batches(write_images(50), output, server, max_requests=20)
    assert outcome.described + outcome.failed == 50 and outcome.stopped is None
    assert {line["batch"] for line in lines(output)} == {True}
    first_round = Counter(event["id"] for event in events(log, "batched"))
    assert max(first_round.values()) == 20 and len(first_round) > 3
    assert lines(output.with_suffix(".rejected.jsonl"))
    assert not (tmp_path / "d.batch").exists()


def test_a_file_of_requests_stays_below_its_bound_in_bytes(
    start_server: Callable[..., str], write_images: Callable[[int], Path], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    outcome = run_batches(write_images(20), tmp_path / "d.jsonl", start_server("--log", str(log)), max_bytes=20_000)
    assert outcome.described == 20 and len(events(log, "uploaded")) > 3


def test_identical_images_are_batched_once(
    start_server: Callable[..., str], write_images: Callable[[int], Path], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    folder = write_images(3)
    (folder / "same.jpg").write_bytes((folder / "00000.jpg").read_bytes())
    assert run_batches(folder, tmp_path / "d.jsonl", start_server("--log", str(log))).described == 4
    assert len(events(log, "batched")) == 3


def test_a_batch_whose_confirmation_was_lost_is_found_again(
    start_server: Callable[..., str], write_images: Callable[[int], Path], tmp_path: Path
) -> None:
    log, output = tmp_path / "log", tmp_path / "d.jsonl"
    server = start_server("--drop_batch_reply", "--log", str(log))
    folder = write_images(10)
    root = Path(__file__).parents[3]
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder), str(output), server],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    while not log.exists() or not events(log, "dropped reply"):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run_batches(folder, output, server) == Outcome(10, 0)
    assert len(events(log, "batched")) == 10


def test_a_batch_whose_connection_broke_is_not_submitted_again(
    start_server: Callable[..., str], write_images: Callable[[int], Path], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    server = start_server("--reset_batch_reply", "--log", str(log))
    assert run_batches(write_images(10), tmp_path / "d.jsonl", server) == Outcome(10, 0)
    assert len(events(log, "batched")) == 10


def test_batches_wait_until_the_queue_has_room(
    start_server: Callable[..., str], write_images: Callable[[int], Path], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    server = start_server("--batch_queue", "8", "--batch_seconds", "0.5", "--log", str(log))
    assert run_batches(write_images(20), tmp_path / "d.jsonl", server, max_requests=4) == Outcome(20, 0)
    assert len(events(log, "batched")) == 20 and len(events(log, "uploaded")) == 5
    assert events(log, "no room")


def test_batches_beyond_the_queue_can_be_written_smaller(
    start_server: Callable[..., str], write_images: Callable[[int], Path], tmp_path: Path
) -> None:
    folder, output, server = write_images(9), tmp_path / "d.jsonl", start_server("--batch_queue", "4")
    outcome = run_batches(folder, output, server)
    assert outcome.refused and outcome.stopped is not None and "(--batch-requests)" in outcome.stopped
    assert run_batches(folder, output, server, max_requests=3) == Outcome(9, 0)


def test_answers_that_were_recorded_before_a_kill_are_not_recorded_twice(
    start_server: Callable[..., str],
    write_images: Callable[[int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "d.jsonl"
    server = start_server("--faults", "0.3", "--fault_kinds", "half json", "--seed", "1")
    folder = write_images(12)
    recorded = []

    def record_then_die(run: BatchRun, job: Any, attempt: int, line: dict[str, Any]) -> None:
        recorded.append(job)
        original(run, job, attempt, line)
        if len(recorded) == 7:
            raise KeyboardInterrupt

    original = BatchRun._record
    monkeypatch.setattr(BatchRun, "_record", record_then_die)
    with pytest.raises(KeyboardInterrupt):
        run_batches(folder, output, server)
    monkeypatch.undo()
    run_batches(folder, output, server)
    assert Counter(line["file_path"] for line in lines(output)).most_common(1)[0][1] == 1
    attempts = Counter((line["key"], line["attempt"]) for line in lines(output.with_suffix(".rejected.jsonl")))
    assert set(attempts.values()) <= {1}


def test_other_settings_wait_until_what_is_under_way_is_collected(
    start_server: Callable[..., str],
    write_images: Callable[[int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output, folder, server = tmp_path / "d.jsonl", write_images(2), start_server()

    async def dies(run: BatchRun) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(BatchRun, "_submit_and_collect", dies)
    with pytest.raises(KeyboardInterrupt):
        run_batches(folder, output, server)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"batches of model 'm' and prompt .* are under way"):
        run_batches(folder, output, server, model="n")
    assert run_batches(folder, output, server) == Outcome(2, 0)


def test_a_limit_bounds_what_is_submitted(
    start_server: Callable[..., str], write_images: Callable[[int], Path], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    outcome = run_batches(write_images(9), tmp_path / "d.jsonl", start_server("--log", str(log)), limit=4)
    assert outcome.described == 4 and outcome.stopped == "the limit of 4 images is reached"
    assert len(events(log, "batched")) == 4


def test_a_server_without_batches_is_refused_in_one_line(
    start_server: Callable[..., str], write_images: Callable[[int], Path], tmp_path: Path
) -> None:
    outcome = run_batches(write_images(2), tmp_path / "d.jsonl", start_server().replace("/v1", "/nothing"))
    assert outcome.refused and outcome.stopped is not None and outcome.stopped.startswith("the Batch API: ")
    assert DescribeOptions(Path("x"), "m", batch=True).poll_seconds == 30.0
