"""Tests of the helpers that every sub-package shares: device and install hints."""

from pathlib import Path

import pytest
import torch

from modeling_bdam import files

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", ["mps", "cuda", "xpu"])
def test_default_device_is_the_accelerator(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
    assert files.default_device() == kind


def test_default_device_without_accelerator_is_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert files.default_device() == "cpu"


def test_install_command_fits_the_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CHECKOUT)
    assert files.install_command("search") == 'pip install -e ".[search]"'
    monkeypatch.chdir(tmp_path)
    assert files.install_command("search") == f'pip install -e "{CHECKOUT}[search]"'
    monkeypatch.setattr(files, "__file__", str(tmp_path / "site-packages" / "modeling_bdam" / "files" / "__init__.py"))
    assert files.install_command("search") == 'pip install "bdam-reid[search]"'


def test_each_install_hint_uses_the_helper() -> None:
    sources = [path for folder in ("modeling_bdam", "data_pipeline") for path in (CHECKOUT / folder).rglob("*.py")]
    named = {path.relative_to(CHECKOUT) for path in sources if "bdam-reid[" in path.read_text(encoding="utf-8")}
    assert named == {Path("modeling_bdam/files/__init__.py")}
