"""Third-party models with random weights: their garbage is rejected, from a server and in this process."""

import asyncio
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_pipeline.descriptions.backend import Sampling
from data_pipeline.descriptions.images import data_uri
from data_pipeline.descriptions.local import TransformersBackend
from data_pipeline.descriptions.prompts import DescriptionPrompt
from data_pipeline.descriptions.validation import Requirements

from .small_images import WriteImages, jpeg
from .tiny_llava import save_tiny_llava

HERE = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture
def transformers_server(model: Path, tmp_path: Path) -> Iterator[str]:
    """Address of a `transformers serve` process."""
    if importlib.util.find_spec("fastapi") is None or importlib.util.find_spec("uvicorn") is None:
        pytest.skip("transformers serve needs fastapi and uvicorn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--device", "cpu"]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen([*command, "--port", str(port)], env=HERE, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(f"http://localhost:{port}/health", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline, (tmp_path / "server.log").read_text()
                time.sleep(0.5)
        yield f"http://localhost:{port}/v1"
    finally:
        server.kill()
        server.wait()


def describe(folder: Path, output: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("bdam")), "describe", "run", "folder", "--data-dir", str(folder)]
    return subprocess.run(
        [*command, "--output", str(output), "--max-tokens", "24", "--attempts", "2", "--no-sheet", *flags],
        env=HERE,
        capture_output=True,
        text=True,
    )


def assert_all_failed(run: subprocess.CompletedProcess[str], output: Path, images: int) -> None:
    """Nothing is kept, all answers are recorded, no traceback, exit status 1."""
    assert run.returncode == 1 and "Traceback" not in run.stderr, run.stderr
    assert output.read_text() == ""
    failed = [json.loads(line) for line in output.with_suffix(".failed.jsonl").read_text().splitlines()]
    assert sorted(line["file_path"] for line in failed) == [f"{number:05d}.jpg" for number in range(images)]
    assert {kind for line in failed for kind in line["kinds"]} <= {"unparsable", "empty"}
    rejected = [json.loads(line) for line in output.with_suffix(".rejected.jsonl").read_text().splitlines()]
    assert len(rejected) == 2 * images
    assert all(line["usage"]["completion_tokens"] > 0 for line in rejected)
    report = json.loads(output.with_suffix(".report.json").read_text())
    assert (report["images"], report["failed"], report["answers"]) == (0, images, 2 * images)


@pytest.mark.parametrize("backend", [pytest.param("server", marks=pytest.mark.slow), "transformers"])
def test_run_reports_garbage_as_failures(
    backend: str, model: Path, write_images: WriteImages, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    flags = ["--backend", "transformers", "--device", "cpu"]
    if backend == "server":
        flags = ["--base-url", request.getfixturevalue("transformers_server"), "--in-flight", "2"]
    output = tmp_path / "d.jsonl"
    assert_all_failed(describe(write_images(3), output, "--model", str(model), *flags), output, 3)


def test_backend_batches_equal_single_requests(model: Path) -> None:
    prompt = DescriptionPrompt(Requirements())
    conversations = [
        prompt.messages(data_uri(jpeg(1))),
        prompt.messages(data_uri(jpeg(2)), rejected=("a long answer " * 20, ["too long"])),
    ]

    def answers(batch_size: int) -> list[tuple[str, int, int, bool]]:
        async def ask() -> list[tuple[str, int, int, bool]]:
            backend = TransformersBackend(str(model), sampling=Sampling(None, 12), batch_size=batch_size, device="cpu")
            found = await asyncio.gather(*[backend.ask(messages, None) for messages in conversations])
            await backend.close()
            return [(answer.text, answer.prompt_tokens, answer.completion_tokens, answer.cut_off) for answer in found]

        return asyncio.run(ask())

    together, apart = answers(2), answers(1)
    assert together == apart
    assert together[1][1] > together[0][1] > 100


def test_backend_rejects_a_model_without_chat_template(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    for path in copy.glob("chat_template*"):
        path.unlink()
    with pytest.raises(ValueError, match="has no chat template"):
        TransformersBackend(str(copy), device="cpu")
