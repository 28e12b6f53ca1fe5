"""Without a network, a command that needs the Hub ends with one line within seconds."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

LOAD = {
    "style encoder": "data_pipeline.styles.style_encoder.StyleEncoder.load('owner/encoder')",
    "local model": "data_pipeline.descriptions.local.TransformersBackend('owner/model')",
    "data set": "loading.load_person_dataset('hub:owner/set')",
}
RUN = """
import time
import torch, datasets, transformers
import data_pipeline.descriptions.local, data_pipeline.styles.style_encoder
from data_pipeline.benchmarks import loading
start = time.monotonic()
try:
    {load}
except OSError as error:
    print(len(str(error).splitlines()), time.monotonic() - start)
"""


@pytest.mark.parametrize("load", LOAD.values(), ids=LOAD)
def test_load_without_a_network_fails_within_10_seconds(load: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", RUN.format(load=load)]
    start = time.monotonic()
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    lines, seconds = result.stdout.split()
    assert int(lines) <= 12 and float(seconds) < 10 and float(seconds) < time.monotonic() - start
    assert result.stderr.count("cannot be reached") == 1
