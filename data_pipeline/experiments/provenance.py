"""Where a figure comes from: the code, the libraries, the machine."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

_LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "scikit-learn", "numpy")


def provenance() -> dict[str, Any]:
    """`commit` (with `+` where files differ from it, or the package's version outside a repository), `versions`,
    `device`."""
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "CPU"
    return {
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **versions},
        "device": accelerator,
    }


def _commit() -> str:
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():
        from modeling_bdam import __version__

        return f"version {__version__}"

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=10", "HEAD") + (
            "+" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
