"""Runs the GPU benchmark with tiny towers on the available device, so that it also works on a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).with_name("gpu.py")


def test_gpu_benchmark_runs_and_writes_its_report(tmp_path: Path) -> None:
    output = tmp_path / "results" / "gpu.json"
    environment = os.environ | {"PYTHONPATH": str(BENCHMARK.parents[2]), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(BENCHMARK), "--tiny", f"--output={output}"]
    printed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    report = json.loads(output.read_text())
    assert {"device", "torch", "transformers", "mamba_ssm"} <= report["machine"].keys()
    assert report["parity"] and all(parity["holds"] for parity in report["parity"])
    assert all(parity["what"] in printed for parity in report["parity"])
    timed = {speed["what"]: speed for speed in report["speed"]}
    for what in ("image embed", "text embed", "image + description, fused", "train step, beside the towers"):
        assert timed[what]["ours_ms"] > timed[what]["bare_ms"] / 2 > 0
    assert [path.name for path in output.parent.iterdir()] == ["gpu.json"]
