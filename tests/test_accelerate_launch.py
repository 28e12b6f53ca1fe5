"""Several processes, started by `accelerate launch` or torchrun, train the same weights as one process."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

import run_t2i_reid
from modeling_bdam import BDAMModel

from .command import SCRIPT, Command

CONFIGS = Path(__file__).parent / "accelerate_configs"
ACCELERATE = ("-m", "accelerate.commands.launch", "--config_file")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
TWO_LAYERS = {f"{tower}_config.num_hidden_layers": 2 for tower in ("vision", "text")}
NO_DROPOUT = {"dropout": 0, "vision_config.hidden_dropout_prob": 0, "vision_config.attention_probs_dropout_prob": 0}
FLAGS: dict[str, Any] = {
    "config_overrides": ",".join(f"{name}={value}" for name, value in (TWO_LAYERS | NO_DROPOUT).items()),
    **{f"{name}_probability": 0 for name in ("flip", "crop", "erase", "word_mask")},
    "eval_strategy": "steps",
    "eval_steps": 2,
    "load_best_model_at_end": True,
}


@pytest.fixture(scope="module")
def one_process(command: Command) -> Path:
    """The output folder of one process with the whole batch."""
    folder = command.folder / "one"
    run_t2i_reid.main(command.arguments(folder, per_device_train_batch_size=8, **FLAGS))
    return folder


@pytest.mark.parametrize(
    ("launcher", "script", "tolerance"),
    [
        pytest.param((*ACCELERATE, str(CONFIGS / "cpu_2.yaml")), SCRIPT, 1e-5, id="accelerate"),
        pytest.param(
            (*ACCELERATE, str(CONFIGS / "fsdp_cpu_2.yaml")),
            CONFIGS / "fsdp_on_cpu.py",
            1e-4,
            id="fsdp",
            marks=pytest.mark.slow,
        ),
        pytest.param(TORCHRUN, SCRIPT, 1e-5, id="torchrun", marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_like_one(
    launcher: tuple[str, ...], script: Path, tolerance: float, command: Command, one_process: Path, tmp_path: Path
) -> None:
    process = command.start(command.arguments(tmp_path, per_device_train_batch_size=4, **FLAGS), launcher, script)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-4000:]
    assert json.loads((tmp_path / "training_args.json").read_text())["world_size"] == 2

    # Losses, task weights and validation metrics of each step
    one, two = (
        json.loads((path / "trainer_state.json").read_text())["log_history"] for path in (one_process, tmp_path)
    )
    assert len(one) == len(two)
    for expected, entry in zip(one, two, strict=True):
        assert entry.keys() == expected.keys()
        for name in (name for name in expected if not name.endswith(("runtime", "per_second", "per_step", "flos"))):
            limit = pytest.approx(expected[name], rel=tolerance, abs=tolerance)
            assert entry[name] == limit, f"{name} at step {expected['step']}"
    assert [entry for entry in one if "loss_info" in entry][-1]["weight_info"] != 1  # GradNorm changed the weights

    # Weights and test metrics
    for name in ("checkpoint-2", "."):
        weights, expected = (load_file(path / name / "model.safetensors") for path in (tmp_path, one_process))
        assert weights.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(weights[key], value, atol=tolerance, rtol=0, msg=key)
    metrics, expected = (json.loads((path / "eval_results.json").read_text()) for path in (tmp_path, one_process))
    assert metrics == pytest.approx(expected, abs=1e-3)

    # The model is saved without wrappers; FSDP adds files of its own to a checkpoint, so the model was sharded.
    assert {path.name for path in tmp_path.glob("*.py")} == {path.name for path in one_process.glob("*.py")}
    assert type(AutoModel.from_pretrained(tmp_path)) is BDAMModel
    sharded = {"pytorch_model_fsdp.bin", "optimizer.bin"} <= {path.name for path in tmp_path.glob("checkpoint-2/*")}
    assert sharded == ("fsdp" in script.name)
