"""Records the code version, library versions and device of a training run."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from modeling_bdam import __version__

_LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "scikit-learn", "numpy")


def provenance() -> dict[str, Any]:
    """Returns `commit` (with `+` if tracked files are modified; outside a repository the package's version),
    `versions` and `device`."""
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "CPU"
    return {"commit": _commit(), "versions": {"python": platform.python_version(), **versions}, "device": device}


def _commit() -> str:
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():
        return f"version {__version__}"

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        modified = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=10", "HEAD") + ("+" if modified else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
