"""What is installed, and what importing it costs."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import modeling_bdam

ROOT = Path(__file__).parents[1]
PACKAGES = ("modeling_bdam", "data_pipeline", "hub_cards")
LEFT_OUT = {
    f"hub_cards/{name}"
    for name in (
        "example_model_card.md",
        "example_dataset_card.md",
        "retrieval.png",
        "index.svg",
        "hits.png",
        "demo.png",
    )
}  # the README's pictures


def modules_after(statement: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after a statement."""
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_importing_the_model_loads_neither_data_nor_plotting_nor_training_code() -> None:
    loaded = modules_after("from modeling_bdam import BDAMModel")
    assert "modeling_bdam.modeling_bdam" in loaded
    unwanted = {"data_pipeline", "datasets", "matplotlib", "transformers.trainer", "modeling_bdam.training.trainer"}
    assert not loaded & unwanted


def test_importing_the_trainer_loads_no_data_code() -> None:
    loaded = modules_after("from modeling_bdam import BDAMTrainer, BDAMTrainingArguments")
    assert "modeling_bdam.training.trainer" in loaded
    assert not loaded & {"data_pipeline", "matplotlib"}


def test_every_exported_name_exists() -> None:
    for name in modeling_bdam.__all__:
        assert getattr(modeling_bdam, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'BDAMTrainr'"):
        _ = modeling_bdam.BDAMTrainr


def test_wheel_holds_every_module_preset_and_the_license(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()  # a copy: building writes beside the sources
    for name in ("pyproject.toml", "README.md", "LICENSE", "run_t2i_reid.py"):
        shutil.copy(ROOT / name, source)
    for package in PACKAGES:
        left_out = shutil.ignore_patterns("__pycache__", "experiments" if package == "hub_cards" else "")  # a report
        shutil.copytree(ROOT / package, source / package, ignore=left_out)
    # Without isolation, so that nothing is downloaded; `setuptools` comes with the extra `test`.
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(source)]
    subprocess.run(command, check=True, capture_output=True)

    wheel = tmp_path / f"bdam_reid-{modeling_bdam.__version__}-py3-none-any.whl"
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = {
        path.relative_to(source).as_posix()
        for package in PACKAGES
        for path in (source / package).rglob("*")
        if path.is_file() and path.name != "README.md"  # the READMEs of the folders are for readers of the repository
    }
    assert held == files - LEFT_OUT | {"run_t2i_reid.py"}
    assert wheel.stat().st_size < 2e6
    assert any(name.endswith("licenses/LICENSE") for name in zipfile.ZipFile(wheel).namelist())
