"""Runs `run_t2i_reid.py` with a tiny model on few synthetic people, in this process or in subprocesses."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "run_t2i_reid.py"


def tiny_settings(layers: int = 1, **changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the sections of a settings file for a tiny model, with changed fields of some sections."""
    width = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 32}
    settings: dict[str, dict[str, Any]] = {
        "model": {
            "vision_config": {
                "model_type": "vit",
                "image_size": 32,
                "patch_size": 16,
                "initializer_range": 0.2,
                **width,
            },
            "text_config": {"model_type": "clip_text_model", "max_position_embeddings": 64, **width},
            "hidden_size": 32,
            "projection_dim": 16,
            "num_bdam_layers": 1,
            "num_bdam_heads": 2,
            "fusion_hidden_size": 16,
            "num_fusion_layers": 1,
            "mamba_state_size": 4,
        },
        "data": {
            "image_height": 32,
            "image_width": 32,
            "max_text_length": 64,
            "vocab_size": 300,
            "synthetic_people": 12,
            "synthetic_val_people": 3,
            "synthetic_test_people": 5,
        },
        "training": {
            "max_steps": 4,
            "per_device_train_batch_size": 8,
            "save_strategy": "steps",
            "save_steps": 2,
            "disable_tqdm": True,
            "report_to": "none",
            "use_cpu": True,
        },
    }
    return {section: {**fields, **changes.get(section, {})} for section, fields in settings.items()}


SETTINGS = tiny_settings(
    model={"initializer_range": 0.2, "dropout": 0.1},
    data={"crop_probability": 0.5, "erase_probability": 0.5, "word_mask_probability": 0.2},
    # The gradient of key biases is zero up to rounding; with a smaller epsilon Adam would turn it into full steps.
    training={"learning_rate": 1e-3, "adam_epsilon": 1e-4, "logging_steps": 1},
)


class Command:
    """The command with the settings above.

    Attributes:
        folder: working directory of subprocesses, with the settings file and the cached data.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = self.write_settings("settings.json", {})

    def write_settings(self, name: str, changes: dict[str, dict[str, Any]]) -> Path:
        """Writes the settings with changed fields of some sections; returns the file."""
        path = self.folder / name
        settings = {section: {**fields, **changes.get(section, {})} for section, fields in SETTINGS.items()}
        path.write_text(json.dumps(settings))
        return path

    def arguments(self, output: Path, *switches: str, config: Path | str | None = None, **flags: Any) -> list[str]:
        """Returns the command line: the switches, then `--name=value` or `--name value value` for each flag."""
        arguments = list(switches)
        values = {"config": config or self.settings, "cache_dir": self.folder / "data", "output_dir": output, **flags}
        for name, value in values.items():
            arguments += [f"--{name}", *map(str, value)] if isinstance(value, list) else [f"--{name}={value}"]
        return arguments

    def start(
        self, arguments: list[str], launcher: tuple[str, ...] = (), script: Path = SCRIPT
    ) -> subprocess.Popen[str]:
        """Starts a subprocess; `launcher` are arguments of Python before the script, such as `-m MODULE`."""
        return subprocess.Popen(
            [sys.executable, *launcher, str(script), *arguments],
            cwd=self.folder,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def fails(self, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
        """Runs in this process; returns the one-line error, which `sys.exit` prints before it exits with 1."""
        import run_t2i_reid

        with pytest.raises(SystemExit) as stopped:
            run_t2i_reid.main(arguments)
        line = stopped.value.code
        assert isinstance(line, str)
        assert line.startswith("run_t2i_reid.py: ")
        assert "\n" not in line
        assert "Traceback" not in capsys.readouterr().err
        return line
