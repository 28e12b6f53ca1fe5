"""Importing the package, and asking the console script for help, costs next to nothing."""

import subprocess
import sys

import pytest

import data_pipeline


def modules_after(statement: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after a statement."""
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


HEAVY = {"datasets", "torch", "transformers", "matplotlib", "pandas", "numpy", "PIL"}


@pytest.mark.parametrize("statement", ["import data_pipeline", "import data_pipeline.commands.main"])
def test_importing_loads_nothing_heavy(statement: str) -> None:
    loaded = modules_after(statement)
    assert "data_pipeline" in loaded and not loaded & HEAVY


@pytest.mark.parametrize("name", data_pipeline.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(data_pipeline, name) is not None


def test_no_public_name_is_a_modules_too() -> None:
    # Once the module is imported, the package's attribute would be the module.
    modules = {module.rpartition(".")[2] for module in modules_after("import data_pipeline.benchmarks.inspection")}
    assert not modules & set(data_pipeline.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'load_persons'"):
        _ = data_pipeline.load_persons
