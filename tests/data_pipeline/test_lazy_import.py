"""Lazy import: the package and the console script load no heavy library."""

import subprocess
import sys

import pytest

import data_pipeline


def modules_after(statement: str) -> set[str]:
    """The modules that a new interpreter has loaded after a statement."""
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


HEAVY = {"datasets", "torch", "transformers", "matplotlib", "pandas", "numpy", "PIL"}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("data_pipeline", HEAVY),
        ("data_pipeline.commands.main", HEAVY),
        ("data_pipeline.images", {"torch", "transformers", "datasets"}),
    ],
)
def test_import_loads_no_heavy_library(module: str, heavy: set[str]) -> None:
    loaded = modules_after(f"import {module}")
    assert module in loaded and not loaded & heavy


@pytest.mark.parametrize("name", data_pipeline.__all__)
def test_getattr_imports_every_public_name(name: str) -> None:
    assert getattr(data_pipeline, name) is not None


def test_public_names_differ_from_module_names() -> None:
    # An imported module would replace the public name
    modules = {module.rpartition(".")[2] for module in modules_after("import data_pipeline.benchmarks.inspection")}
    assert not modules & set(data_pipeline.__all__)


def test_getattr_refuses_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'load_persons'"):
        _ = data_pipeline.load_persons
