"""Faults of every kind, and a process that is killed again and again: nothing is lost, nothing is paid twice."""

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

from data_pipeline.descriptions.jsonl import read_json_lines
from data_pipeline.descriptions.validation import Requirements, check_description

RUN = """
import sys
from pathlib import Path
from data_pipeline.descriptions.images import ImageItem
from data_pipeline.descriptions.pipeline import DescribeOptions, describe_images

class Images:
    def __init__(self, folder):
        self.paths = sorted(folder.iterdir())
    def __len__(self):
        return len(self.paths)
    def file_paths(self):
        return (path.name for path in self.paths)
    def __iter__(self):
        return (ImageItem(path.name, path) for path in self.paths)

folder, output, base_url, timeout = sys.argv[1:]
options = DescribeOptions(
    output=Path(output), model="m", base_url=base_url, timeout=float(timeout), max_attempts=3, progress=False
)
outcome = describe_images(Images(Path(folder)), options)
print(outcome)
sys.exit(1 if outcome.refused else 0)
"""


def complete_lines(path: Path) -> list[dict[str, Any]]:
    """Every line of a file as it lies there now; a line that is no JSON fails the test."""
    return [value for _, value in read_json_lines(path)] if path.exists() else []


def answers_read(output: Path) -> set[str]:
    """The server's ids of all answers that are on disk."""
    files = (output, output.with_suffix(".rejected.jsonl"))
    return {line["response_id"] for path in files for line in complete_lines(path)}


@pytest.mark.parametrize(("count", "num_kills"), [(300, 2), pytest.param(2000, 5, marks=pytest.mark.slow)])
def test_nothing_is_lost_or_paid_twice_under_faults_and_kills(
    count: int, num_kills: int, start_server: Callable[..., str], write_images: Callable[[int], Path], tmp_path: Path
) -> None:
    log, output = tmp_path / "log", tmp_path / "d.jsonl"
    folder = write_images(count)
    flags = ["--faults", "0.2", "--late", "9", "--stall", "30", "--retry_after", "0.5", "--delay", "0.1"]
    server = start_server(*flags, "--log", str(log))
    command = [sys.executable, "-c", RUN, str(folder), str(output), server, "3"]
    environment = {**os.environ, "OPENAI_API_KEY": "sk-test", "OMP_NUM_THREADS": "1"}
    kills: list[tuple[float, set[str]]] = []
    for kill in range(num_kills):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        goal = (kill + 1) * count // (num_kills + 1)
        while len(complete_lines(output)) < goal and process.poll() is None:
            time.sleep(0.05)  # and the file was readable
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills.append((time.time(), answers_read(output)))
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    while process.poll() is None:
        complete_lines(output)
        time.sleep(0.05)
    assert process.returncode == 0

    described = Counter(line["file_path"] for line in complete_lines(output))
    failed = Counter(line["file_path"] for line in complete_lines(output.with_suffix(".failed.jsonl")))
    assert set((described + failed).values()) == {1}
    assert len(described) + len(failed) == count
    assert len(described) > 0.97 * count  # three attempts, of which one in ten is spoilt
    for line in complete_lines(output):
        assert not check_description(line, Requirements())

    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert {event["fault"] for event in events if event["event"] == "asked"} >= {"stall", "timeout", "reset", "schema"}
    answered = {event["id"]: event["request"] for event in events if event["event"] == "answered"}
    for time_of_kill, read in kills:
        known = {answered[response_id] for response_id in read}
        later = {event["request"] for event in events if event["event"] == "asked" and event["time"] > time_of_kill}
        assert not known & later
    # What was answered and is nowhere on disk was in flight at a kill, or came after the time-out.
    late = sum(event["event"] == "asked" and event["fault"] in ("timeout", "stall") for event in events)
    assert len(set(answered) - answers_read(output)) <= num_kills * 32 + late


def test_an_interrupted_run_keeps_the_answers_in_flight(
    start_server: Callable[..., str], write_images: Callable[[int], Path], tmp_path: Path
) -> None:
    log, output = tmp_path / "log", tmp_path / "d.jsonl"
    server = start_server("--delay", "0.5", "--log", str(log))
    command = [sys.executable, "-c", RUN, str(write_images(200)), str(output), server, "60"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while len(complete_lines(output)) < 40:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None and "stopped='interrupted'" in process.communicate()[0]
    events = [json.loads(line) for line in log.read_text().splitlines()]
    asked = {event["id"] for event in events if event["event"] == "asked"}
    assert answers_read(output) == asked and len(asked) < 200


def test_a_second_interrupt_waits_for_no_answer(
    start_server: Callable[..., str], write_images: Callable[[int], Path], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    server = start_server("--delay", "60", "--log", str(log))
    command = [sys.executable, "-c", RUN, str(write_images(5)), str(tmp_path / "d.jsonl"), server, "90"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while len(complete_lines(log)) < 5:
        time.sleep(0.05)
    assert process.stderr is not None
    process.send_signal(signal.SIGINT)
    assert "Ctrl-C once more" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=30)
    assert "stopped='interrupted'" in printed and not errors
