"""`accelerate launch` with the configurations beside these tests: several processes train what one would."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from modeling_bdam import BDAMModel

TESTS = Path(__file__).parent
CONFIGS = TESTS / "accelerate_configs"
WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "model": {
        "vision_config": {
            "model_type": "vit",
            "image_size": 32,
            "patch_size": 16,
            "initializer_range": 0.2,
            **WIDTH,
            **STILL,
        },
        "text_config": {"model_type": "clip_text_model", "max_position_embeddings": 64, **WIDTH},
        "hidden_size": 32,
        "projection_dim": 16,
        "num_bdam_layers": 1,
        "num_bdam_heads": 2,
        "dropout": 0.0,
        "fusion_hidden_size": 16,
        "num_fusion_layers": 1,
        "mamba_state_size": 4,
        "initializer_range": 0.2,
    },
    "data": {
        "image_height": 32,
        "image_width": 32,
        "max_text_length": 64,
        "vocab_size": 300,
        "synthetic_people": 12,
        "synthetic_val_people": 3,
        "synthetic_test_people": 5,
        **{f"{kind}_probability": 0.0 for kind in ("flip", "crop", "erase", "word_mask")},
    },
    "training": {
        "max_steps": 4,
        "learning_rate": 1e-3,
        "adam_epsilon": 1e-4,  # or rounding errors would be blown up to full steps
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "load_best_model_at_end": True,
        "disable_tqdm": True,
        "report_to": "none",
        "use_cpu": True,
    },
}
LAUNCH = ["-m", "accelerate.commands.launch", "--config_file"]


def run(folder: Path, launcher: list[str], batch_size: int) -> Path:
    """Trains and evaluates; returns the output folder."""
    settings = folder.parent / "settings.json"
    settings.write_text(json.dumps(SETTINGS))
    flags = [f"--config={settings}", f"--output_dir={folder}", f"--cache_dir={folder.parent / 'data'}"]
    command = [sys.executable, *launcher, *flags, f"--per_device_train_batch_size={batch_size}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(command, cwd=folder.parent, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process with the whole batch."""
    return run(tmp_path_factory.mktemp("launch") / "alone", [str(TESTS.parent / "run_t2i_reid.py")], 8)


def assert_like_one_process(folder: Path, alone: Path) -> None:
    assert torch.load(folder / "training_args.bin", weights_only=False).world_size == 2
    one, two = (json.loads((path / "trainer_state.json").read_text())["log_history"] for path in (alone, folder))
    assert len(one) == len(two)
    for first, second in zip(one, two, strict=True):
        for name in first.keys() - {key for key in first if key.endswith(("runtime", "per_second", "flos"))}:
            assert second[name] == pytest.approx(first[name], rel=1e-4, abs=1e-4), f"{name} at step {first['step']}"
    for name in ("checkpoint-2", "."):
        weights, expected = (load_file(path / name / "model.safetensors") for path in (folder, alone))
        assert weights.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(weights[key], value, atol=1e-4, rtol=1e-3, msg=key)
    figures, expected_figures = (json.loads((path / "eval_results.json").read_text()) for path in (folder, alone))
    assert figures == pytest.approx(expected_figures, abs=1e-3)


def test_two_processes_train_like_one(alone: Path) -> None:
    launcher = [*LAUNCH, str(CONFIGS / "cpu_2.yaml"), str(TESTS.parent / "run_t2i_reid.py")]
    assert_like_one_process(run(alone.parent / "two", launcher, 4), alone)


def test_two_processes_under_fsdp_train_like_one_and_save_the_plain_model(alone: Path) -> None:
    launcher = [*LAUNCH, str(CONFIGS / "fsdp_cpu_2.yaml"), str(CONFIGS / "fsdp_on_cpu.py")]
    folder = run(alone.parent / "sharded", launcher, 4)
    assert_like_one_process(folder, alone)
    # It was sharded: FSDP saves its weights and optimizer states under names of its own.
    assert {"pytorch_model_fsdp.bin", "optimizer.bin"} <= {path.name for path in (folder / "checkpoint-2").iterdir()}
    assert {path.name for path in folder.glob("*.py")} == {path.name for path in alone.glob("*.py")}
    assert type(AutoModel.from_pretrained(folder)) is BDAMModel
