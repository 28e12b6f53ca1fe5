"""The Batch API: each request is submitted once, collected once, and retried after a rejected answer."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.descriptions import batch
from data_pipeline.descriptions.batch import BatchRun
from data_pipeline.descriptions.images import ImageItem
from data_pipeline.descriptions.run import Outcome

from .bench import Bench
from .small_images import StartServer

RUN = """
import sys
from pathlib import Path
from tests.data_pipeline.descriptions.test_batch import BatchBench
bench = BatchBench(None, Path(sys.argv[1]))
bench.write(10)
bench.server = sys.argv[2]
print(bench.run())
"""


class BatchBench(Bench):
    def run(self, **options: Any) -> Outcome:
        return super().run(batch=True, **options)


@pytest.fixture
def bench(start_server: StartServer, tmp_path: Path) -> Bench:
    return BatchBench(start_server, tmp_path)


def test_run_describes_all_images_in_rounds(bench: Bench) -> None:
    bench.start(50, faults=0.3, fault_kinds="500,half json,schema")
    outcome = bench.run(batch_requests=20)
    assert outcome.described + outcome.failed == 50 and outcome.stopped is None
    assert {line["batch"] for line in bench.lines()} == {True}
    batches = Counter(event["id"] for event in bench.events("batched"))
    assert max(batches.values()) == 20 and len(batches) > 3
    assert bench.lines("rejected")
    assert not bench.output.with_suffix(".batch").exists()


def test_run_bounds_the_bytes_of_a_request_file(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "_MOST_BYTES", 20_000)
    bench.start(20)
    assert bench.run().described == 20 and len(bench.events("uploaded")) > 3


def test_run_submits_identical_images_once(bench: Bench) -> None:
    bench.start(3)
    bench.images.append(ImageItem("same.jpg", bench.images[0].source))
    assert bench.run().described == 4
    assert len(bench.events("batched")) == 3


def test_run_finds_a_batch_with_a_lost_confirmation(bench: Bench) -> None:
    bench.start(10, first_batch_reply="drop")
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", RUN, str(bench.output.parent), bench.server]
    process = subprocess.Popen(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
    while not bench.events("dropped reply"):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert bench.run() == Outcome(10, 0)
    assert len(bench.events("batched")) == 10


def test_run_does_not_resubmit_after_a_broken_connection(bench: Bench) -> None:
    bench.start(10, first_batch_reply="reset")
    assert bench.run() == Outcome(10, 0)
    assert len(bench.events("batched")) == 10


def test_run_waits_for_room_in_the_queue(bench: Bench) -> None:
    bench.start(20, batch_queue=8, batch_seconds=0.5)
    assert bench.run(batch_requests=4) == Outcome(20, 0)
    assert len(bench.events("batched")) == 20 and len(bench.events("uploaded")) == 5
    assert bench.events("no room")


def test_run_stops_if_the_queue_accepts_no_batch(bench: Bench) -> None:
    bench.start(9, batch_queue=4)
    outcome = bench.run()
    assert outcome.refused and outcome.stopped is not None and "(--batch-requests)" in outcome.stopped
    assert bench.run(batch_requests=3) == Outcome(9, 0)


def test_run_records_no_answer_twice_after_a_kill(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.start(12, faults=0.3, fault_kinds="half json", seed=1)
    recorded = []
    original = BatchRun._record

    def record_then_die(run: BatchRun, job: Any, *arguments: Any) -> str | None:
        recorded.append(job)
        error = original(run, job, *arguments)
        if len(recorded) == 7:
            raise KeyboardInterrupt
        return error

    monkeypatch.setattr(BatchRun, "_record", record_then_die)
    with pytest.raises(KeyboardInterrupt):
        bench.run()
    monkeypatch.undo()
    bench.run()
    assert Counter(line["file_path"] for line in bench.lines()).most_common(1)[0][1] == 1
    attempts = Counter((line["key"], line["attempt"]) for line in bench.lines("rejected"))
    assert set(attempts.values()) <= {1}


def test_run_refuses_other_settings_with_unfinished_batches(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.start(2)

    async def dies(run: BatchRun) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(BatchRun, "_submit_and_collect", dies)
    with pytest.raises(KeyboardInterrupt):
        bench.run()
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"batches with model 'm' and prompt .* are unfinished"):
        bench.run(model="n")
    assert bench.run() == Outcome(2, 0)


def test_run_respects_the_limit(bench: Bench) -> None:
    bench.start(9)
    outcome = bench.run(limit=4)
    assert outcome.described == 4 and outcome.stopped == "the limit of 4 images is reached"
    assert len(bench.events("batched")) == 4


def test_run_stops_on_a_server_without_batches(bench: Bench) -> None:
    bench.start(2)
    bench.server = bench.server.replace("/v1", "/nothing")
    outcome = bench.run()
    assert outcome.refused and outcome.stopped is not None and outcome.stopped.startswith("the Batch API: ")
