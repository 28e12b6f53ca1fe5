"""Content of the wheel, and modules that an import of the library loads."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import modeling_bdam

ROOT = Path(__file__).parents[1]
PACKAGES = ("modeling_bdam", "data_pipeline", "hub_cards")
FOR_READERS_OF_THE_REPOSITORY = {"README.md", "example_model_card.md", "example_dataset_card.md"}


@pytest.mark.parametrize(
    ("names", "module", "unwanted"),
    [
        ("BDAMModel", "modeling_bdam", {"datasets", "transformers.trainer", "modeling_bdam.training.trainer"}),
        ("BDAMTrainer, BDAMTrainingArguments", "training.trainer", set()),
    ],
)
def test_import_loads_no_data_or_plotting_code(names: str, module: str, unwanted: set[str]) -> None:
    program = f"from modeling_bdam import {names}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert f"modeling_bdam.{module}" in loaded
    assert not loaded & {"data_pipeline", "matplotlib", *unwanted}


def test_every_exported_name_exists() -> None:
    for name in modeling_bdam.__all__:
        assert getattr(modeling_bdam, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'BDAMTrainr'"):
        _ = modeling_bdam.BDAMTrainr


def test_wheel_contains_every_module_preset_and_the_license(tmp_path: Path) -> None:
    # Build from a copy, because the build writes beside the sources
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "run_t2i_reid.py"):
        shutil.copy(ROOT / name, source)
    for package in PACKAGES:
        report = "experiments" if package == "hub_cards" else ""
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__", ".*", report))
    # Without isolation, so that pip downloads nothing; `setuptools` is a dependency of the extra `test`.
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True, capture_output=True)

    wheel = tmp_path / f"bdam_reid-{modeling_bdam.__version__}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    paths = [path for package in PACKAGES for path in (source / package).rglob("*") if path.is_file()]
    expected = {
        path.relative_to(source).as_posix()
        for path in paths
        if path.name not in FOR_READERS_OF_THE_REPOSITORY and path.suffix != ".png"
    }
    assert {name for name in names if ".dist-info/" not in name} == expected | {"run_t2i_reid.py"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert wheel.stat().st_size < 2e6
