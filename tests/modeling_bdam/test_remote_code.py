"""Tests that a saved folder contains its code: it loads without this package and computes the same bits."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import modeling_bdam
from modeling_bdam import BDAMModel, BDAMProcessor

PACKAGE = Path(modeling_bdam.__file__).parent
TEXTS = ["a man in a red coat", "a woman"]

ENCODE = """
import sys
if "modeling_bdam" not in sys.modules:
    import modeling_bdam
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModel, AutoProcessor

folder, picture, texts, trust, threads, result = sys.argv[1:]
torch.set_num_threads(int(threads))  # sums depend on it
trust = trust == "True"
model = AutoModel.from_pretrained(folder, trust_remote_code=trust)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=trust)
image = Image.open(picture)
with torch.no_grad():
    images = model.get_image_features(**processor(images=[image, image.rotate(90)], return_tensors="pt"))
    queries = model.get_text_features(**processor(text=texts.split("|"), return_tensors="pt"))
save_file({"images": images.pooler_output, "queries": queries.pooler_output}, result)
model.save_pretrained(result + "-again")
print(type(model).__module__, type(processor).__module__)
"""


@pytest.fixture
def encode(checkpoint: Path, run_python: Any, photo: Any, tmp_path: Path) -> Any:
    """`encode(package, trust)`: embeddings by another process, and the modules of its model and processor."""
    photo().save(tmp_path / "photo.png")

    def run(package: bool, trust: bool) -> tuple[dict[str, Tensor], list[str]]:
        arguments = [tmp_path / "photo.png", "|".join(TEXTS), trust, torch.get_num_threads(), tmp_path / "result"]
        printed = run_python(ENCODE, checkpoint, *arguments, package=package)
        return load_file(tmp_path / "result"), printed.split()

    return run


@pytest.fixture
def expected(checkpoint: Path, photo: Any) -> dict[str, Tensor]:
    """The same embeddings by this process."""
    model, processor = BDAMModel.from_pretrained(checkpoint), BDAMProcessor.from_pretrained(checkpoint)
    with torch.no_grad():
        images = model.get_image_features(**processor(images=[photo(), photo().rotate(90)], return_tensors="pt"))
        queries = model.get_text_features(**processor(text=TEXTS, return_tensors="pt"))
    return {"images": images.pooler_output, "queries": queries.pooler_output}


def needed_files() -> set[str]:
    """Files that configuration, model and processor import from their own folder, directly or indirectly."""
    needed, waiting = set(), ["configuration_bdam", "modeling_bdam", "processing_bdam"]
    while waiting:
        name = waiting.pop()
        if f"{name}.py" not in needed:
            needed.add(f"{name}.py")
            waiting += re.findall(r"^\s*from \.(\w+) import", (PACKAGE / f"{name}.py").read_text(), re.MULTILINE)
    return needed


def test_save_pretrained_copies_exactly_the_needed_code(checkpoint: Path) -> None:
    files = {path.name for path in checkpoint.glob("*.py")}
    assert files == needed_files()
    assert "__init__.py" not in files and len(files) == 13
    for name in files:
        assert (checkpoint / name).read_text() == (PACKAGE / name).read_text()


def test_remote_code_computes_the_same_bits(encode: Any, expected: dict[str, Tensor], tmp_path: Path) -> None:
    embeddings, modules = encode(package=False, trust=True)
    assert all(name.startswith("transformers_modules.") for name in modules)
    assert all(embeddings[name].equal(value) for name, value in expected.items())
    # A model that was loaded by remote code is saved with its code.
    assert {path.name for path in (tmp_path / "result-again").glob("*.py")} == needed_files() - {"processing_bdam.py"}


def test_installed_package_needs_no_trust(encode: Any, expected: dict[str, Tensor]) -> None:
    embeddings, modules = encode(package=True, trust=False)
    assert modules == ["modeling_bdam.modeling_bdam", "modeling_bdam.processing_bdam"]
    assert all(embeddings[name].equal(value) for name, value in expected.items())


def test_remote_code_needs_trust(encode: Any) -> None:
    with pytest.raises(AssertionError, match="trust_remote_code=True"):
        encode(package=False, trust=False)


@pytest.mark.slow
def test_remote_code_loads_from_relative_paths_and_dots(checkpoint: Path, run_python: Any) -> None:
    program = """
import os
from transformers import AutoModel, AutoProcessor
for folder, names in ((".", ["v1.0", "./v1.0/"]), ("v1.0", [".", "../v1.0", "../v1.0/../x.y"])):
    os.chdir(folder)
    for name in names:
        for loaded in (AutoModel, AutoProcessor):
            print(type(loaded.from_pretrained(name, trust_remote_code=True)).__name__)
"""
    for name in ("v1.0", "x.y"):
        shutil.copytree(checkpoint, checkpoint.parent / name)
    assert run_python(program, package=False).split() == ["BDAMModel", "BDAMProcessor"] * 5
