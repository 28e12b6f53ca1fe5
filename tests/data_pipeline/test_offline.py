"""Without a network, a command that needs the Hub ends with one line within seconds."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

LOAD = {
    "style encoder": "data_pipeline.styles.style_encoder.StyleEncoder.load('owner/encoder')",
    "local model": "data_pipeline.descriptions.local.TransformersBackend('owner/model')",
    "data set": "loading.load_person_dataset('hub:owner/set')",
    "gallery": "data_pipeline.search.embedder.Embedder.load('owner/model')",
    "convert-clip": "convert.convert_clip(Path('clip.pth'), Path('none'), tokenizer='owner/tokenizer')",
}
RUN = """
import time, torch, datasets, transformers, typer
from pathlib import Path
import data_pipeline.descriptions.local, data_pipeline.styles.style_encoder, data_pipeline.search.embedder
from data_pipeline.benchmarks import loading
from data_pipeline.commands import convert
start = time.monotonic()
try:
    {load}
except (OSError, typer.Exit) as error:
    print(len(str(error).splitlines()), time.monotonic() - start)
"""


def load_from(endpoint: str, load: str, folder: Path) -> float:
    """Checks the messages of a load from an endpoint that cannot be reached; returns its seconds."""
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder)}
    command = [sys.executable, "-c", RUN.format(load=load)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    lines, seconds = result.stdout.split()
    assert int(lines) <= 12 and result.stderr.count("cannot be reached") == 1
    return float(seconds)


@pytest.mark.parametrize("load", LOAD.values(), ids=LOAD)
def test_load_without_a_network_fails_within_10_seconds(load: str, tmp_path: Path) -> None:
    assert load_from("http://127.0.0.1:9", load, tmp_path) < 10


def test_load_from_a_silent_endpoint_does_not_retry(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts connections and never answers
        port = server.getsockname()[1]
        assert 5 <= load_from(f"http://127.0.0.1:{port}", LOAD["gallery"], tmp_path) < 60
