"""Under faults of all kinds and repeated kills, no answer is lost and none is paid for twice."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.descriptions.jsonl import read_json_lines
from data_pipeline.descriptions.validation import Requirements, check_description

from .small_images import StartServer, WriteImages

RUN = """
import sys
from pathlib import Path
from data_pipeline.descriptions.images import ImageItem
from data_pipeline.descriptions.options import DescribeOptions
from data_pipeline.descriptions.pipeline import describe_images

class Images(list):
    def file_paths(self):
        return (item.file_path for item in self)

folder, output, base_url, timeout = sys.argv[1:]
options = DescribeOptions(
    output=Path(output), model="m", base_url=base_url, timeout=float(timeout), max_attempts=3, progress=False
)
images = Images(ImageItem(path.name, path) for path in sorted(Path(folder).iterdir()))
outcome = describe_images(images, options)
print(outcome)
sys.exit(1 if outcome.refused else 0)
"""


def start_run(folder: Path, output: Path, server: str, timeout: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, *map(str, (folder, output, server, timeout))]
    environment = {**os.environ, "OPENAI_API_KEY": "sk-test", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def complete_lines(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a file at this moment; a malformed line fails the test."""
    return [value for _, value in read_json_lines(path)] if path.exists() else []


def answers_read(output: Path) -> set[str]:
    """The response ids of all stored answers."""
    files = (output, output.with_suffix(".rejected.jsonl"))
    return {line["response_id"] for path in files for line in complete_lines(path)}


def wait_for_silence(log: Path) -> None:
    """Waits until the server has logged no request for a second; it may log some that were sent before a kill."""
    last, count = -1, 0
    while count != last:
        time.sleep(1)
        last, count = count, sum(event["event"] == "asked" for event in complete_lines(log))


@pytest.mark.parametrize(("count", "num_kills"), [(300, 2), pytest.param(2000, 5, marks=pytest.mark.slow)])
def test_run_loses_and_repeats_no_answer_under_kills(
    count: int, num_kills: int, start_server: StartServer, write_images: WriteImages, tmp_path: Path
) -> None:
    log, output = tmp_path / "log", tmp_path / "d.jsonl"
    folder = write_images(count)
    server = start_server(faults=0.2, late=9, stall=30, retry_after=0.5, delay=0.1, log=log)
    kills: list[tuple[float, set[str]]] = []
    for kill in range(num_kills):
        process = start_run(folder, output, server, 3)
        goal = (kill + 1) * count // (num_kills + 1)
        while len(complete_lines(output)) < goal and process.poll() is None:
            time.sleep(0.05)
        assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.5)  # the server logs requests that were sent before the kill
        kills.append((time.time(), answers_read(output)))
    process = start_run(folder, output, server, 3)
    while process.poll() is None:
        complete_lines(output)
        time.sleep(0.05)
    assert process.returncode == 0, process.communicate()

    described = Counter(line["file_path"] for line in complete_lines(output))
    failed = Counter(line["file_path"] for line in complete_lines(output.with_suffix(".failed.jsonl")))
    assert set((described + failed).values()) == {1}
    assert len(described) + len(failed) == count
    assert len(described) > 0.97 * count  # three attempts, of which about one in ten is faulty
    for line in complete_lines(output):
        assert not check_description(line, Requirements())

    events = complete_lines(log)
    assert {event["fault"] for event in events if event["event"] == "asked"} >= {"stall", "timeout", "reset", "schema"}
    answered = {event["id"]: event["request"] for event in events if event["event"] == "answered"}
    for time_of_kill, read in kills:
        known = {answered[response_id] for response_id in read}
        later = {event["request"] for event in events if event["event"] == "asked" and event["time"] > time_of_kill}
        assert not known & later
    # Answers that are not stored were in flight at a kill, or came after the timeout.
    late = sum(event["event"] == "asked" and event["fault"] in ("timeout", "stall") for event in events)
    assert len(set(answered) - answers_read(output)) <= num_kills * 32 + late


def test_interrupt_keeps_the_answers_in_flight(
    start_server: StartServer, write_images: WriteImages, tmp_path: Path
) -> None:
    log, output = tmp_path / "log", tmp_path / "d.jsonl"
    process = start_run(write_images(200), output, start_server(delay=0.5, log=log), 60)
    while len(complete_lines(output)) < 40:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert "stopped='interrupted'" in process.communicate()[0]
    asked = {event["id"] for event in complete_lines(log) if event["event"] == "asked"}
    assert answers_read(output) == asked and len(asked) < 200


def test_second_interrupt_drops_the_answers_in_flight(
    start_server: StartServer, write_images: WriteImages, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    process = start_run(write_images(5), tmp_path / "d.jsonl", start_server(delay=6, log=log), 90)
    while len(complete_lines(log)) < 5:
        time.sleep(0.05)
    assert process.stderr is not None
    process.send_signal(signal.SIGINT)
    assert "press Ctrl-C again" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=30)
    assert "stopped='interrupted'" in printed and not errors
