"""Reads the weights of a checkpoint file: safetensors, a state dict, TorchScript, or an untrusted pickle."""

import os
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils import logging

logger = logging.get_logger(__name__)

WRAPPERS = ("model", "state_dict", "net", "model_state_dict")  # keys of training scripts around a state dict

# Replaces classes that cannot be imported, such as those of a training script's config.
_CHILD = """
import pickle, sys, types
from pathlib import Path
import torch
from modeling_bdam.conversion.checkpoint_files import save_state_dict

class Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError):
            return type(name, (dict,), {"__setstate__": lambda self, state: None})

source = types.SimpleNamespace(Unpickler=Unpickler, load=pickle.load, __name__="pickle")
content = torch.load(sys.argv[1], map_location="cpu", weights_only=False, pickle_module=source)
save_state_dict(content, Path(sys.argv[1]), Path(sys.argv[2]))
"""


def read_checkpoint(path: str | os.PathLike[str], allow_pickle: bool = False) -> dict[str, Tensor]:
    """Reads the state dict of a checkpoint, at the top or below the keys of `WRAPPERS`.

    Pickles are read with `weights_only=True`, so a file that would execute code raises an error.

    Args:
        path: a `.safetensors`, a `.pth` or `.pt` of `torch.save`, or a TorchScript file (of OpenAI).
        allow_pickle: reads a pickle with other objects than tensors, such as the arguments of the training, in a child
            process after a warning. The child process has the rights of this one: the file can execute any code.

    Raises:
        OSError: the file does not exist.
        ValueError: the file holds no weights, or objects other than tensors without `allow_pickle`.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return load_file(path)
    if _is_torchscript(path):
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            return dict(torch.jit.load(path, map_location="cpu").state_dict())
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch raises many types for a damaged file
        if allow_pickle:
            return _read_in_child(path)
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{path} is no file of plain tensors: {reason}; save its state dict only, or, if you trust its source, use "
            "--allow-pickle"
        ) from None
    return find_state_dict(content, path)


def find_state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a state dict, at the top or below the keys of `WRAPPERS`; `path` is for the message.

    Raises:
        ValueError: there is no state dict.
    """
    state = content
    while isinstance(state, Mapping):
        inner = next((state[key] for key in WRAPPERS if isinstance(state.get(key), Mapping)), None)
        if inner is None:
            break
        state = inner
    tensors = {str(name): value for name, value in state.items()} if isinstance(state, Mapping) else {}
    tensors = {name: value for name, value in tensors.items() if isinstance(value, Tensor)}
    if not tensors:
        places = ", ".join(f"`{key}`" for key in WRAPPERS)
        raise ValueError(f"{path} holds no state dict, neither at the top nor under {places}")
    return tensors


def save_state_dict(content: Any, path: Path, output: Path) -> None:
    """Saves the state dict of a checkpoint's content as safetensors; `path` is that of the checkpoint."""
    save_file(
        {name: value.detach().clone().contiguous() for name, value in find_state_dict(content, path).items()}, output
    )


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _read_in_child(path: Path) -> dict[str, Tensor]:
    logger.warning(f"{path} is read as a pickle, which can execute any code: use --allow-pickle only for trusted files")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "weights.safetensors"
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-c", _CHILD, str(path.resolve()), str(output)]
        child = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if child.returncode:
            lines = child.stderr.strip().splitlines() or [f"the child process ended with {child.returncode}"]
            raise ValueError(f"{path} cannot be read: {lines[-1]}")
        return load_file(output)


__all__ = ["WRAPPERS", "find_state_dict", "read_checkpoint", "save_state_dict"]
