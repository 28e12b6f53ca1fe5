"""State dicts in files of several forms; a pickle executes code only when it is allowed."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers.utils import logging

from modeling_bdam.conversion.checkpoint_files import read_checkpoint

WEIGHTS = {"a": torch.ones(2)}


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"model": WEIGHTS, "epoch": 3},
        {"state_dict": WEIGHTS},
        {"net": {"model": WEIGHTS | {"steps": 7}}, "optimizer": {"lr": 1.0}},
    ],
    ids=lambda content: next(iter(content)),
)
def test_read_checkpoint_finds_the_state_dict(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "best.pth")
    found = read_checkpoint(tmp_path / "best.pth")
    assert found.keys() == WEIGHTS.keys() and found["a"].equal(WEIGHTS["a"])


def test_read_checkpoint_reads_safetensors(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    assert read_checkpoint(tmp_path / "a.safetensors")["a"].equal(WEIGHTS["a"])


def test_read_checkpoint_executes_no_pickled_code(tmp_path: Path) -> None:
    torch.save({"model": WEIGHTS, "args": Evil(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth is no file of plain tensors: .* use --allow-pickle$"):
        read_checkpoint(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_allowed_pickle_is_read_after_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.get_logger("modeling_bdam.conversion.checkpoint_files")
    logger.addHandler(caplog.handler)
    torch.save({"model": WEIGHTS, "args": argparse.Namespace(lr=1.0), "config": Unknown()}, tmp_path / "irra.pth")
    found = read_checkpoint(tmp_path / "irra.pth", allow_pickle=True)
    logger.removeHandler(caplog.handler)
    assert found["a"].equal(WEIGHTS["a"])
    assert "irra.pth is read as a pickle, which can execute any code" in caplog.text


class Unknown:
    """A class that the child process cannot import."""


@pytest.mark.parametrize("allow_pickle", [False, True])
def test_read_checkpoint_refuses_other_files(allow_pickle: bool, tmp_path: Path) -> None:
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list\.pth holds no state dict"):
        read_checkpoint(tmp_path / "list.pth", allow_pickle)
    (tmp_path / "damaged.pth").write_bytes(b"PK0123456789")
    with pytest.raises(ValueError, match=r"^\S*damaged\.pth .*$"):
        read_checkpoint(tmp_path / "damaged.pth", allow_pickle)
    with pytest.raises(OSError):
        read_checkpoint(tmp_path / "none.pth", allow_pickle)
