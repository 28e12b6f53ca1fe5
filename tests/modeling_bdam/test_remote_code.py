"""A saved folder carries its own code: it loads where this package is not, and gives the same bits."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

import modeling_bdam
from modeling_bdam import BDAMModel, BDAMProcessor
from modeling_bdam.processing_bdam import default_image_processor

PACKAGE = Path(modeling_bdam.__file__).parent
WORDS = ["[PAD]", "[UNK]", "[END]", "a", "man", "woman", "in", "red", "coat"]
TEXTS = ["a man in a red coat", "a woman"]

ENCODE = """
import sys
import numpy as np, torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModel, AutoProcessor

folder, texts, trust, threads, result = sys.argv[1], sys.argv[2].split("|"), sys.argv[3] == "trust", *sys.argv[4:]
torch.set_num_threads(int(threads))  # as many as in the process compared with: sums depend on it
model = AutoModel.from_pretrained(folder, trust_remote_code=trust)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=trust)
image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8))
with torch.no_grad():
    images = model.get_image_features(**processor(images=[image, image.rotate(90)], return_tensors="pt"))
    queries = model.get_text_features(**processor(text=texts, return_tensors="pt"))
save_file({"images": images.pooler_output, "queries": queries.pooler_output}, result)
model.save_pretrained(result + "-again")
print(type(model).__module__, type(processor).__module__)
"""


@pytest.fixture
def saved(tmp_path: Path, tiny_config: Callable[..., Any]) -> Path:
    """A folder with a tiny model and its processor."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    words = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=24, pad_token="[PAD]", unk_token="[UNK]"
    )
    folder = tmp_path / "saved"
    BDAMModel(tiny_config(fusion_sequence="token")).save_pretrained(folder)
    BDAMProcessor(default_image_processor(32, 32), words).save_pretrained(folder)
    return folder


def encode(folder: Path, before: str, trust: str, result: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Embeddings from a process of its own, which first runs `before`; and the modules of model and processor."""
    environment = {**os.environ, "HF_HOME": str(result.parent / "home"), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_MODULES_CACHE", None)
    arguments = [str(folder), "|".join(TEXTS), trust, str(torch.get_num_threads()), str(result)]
    # -I: neither the working directory nor PYTHONPATH is searched for modules.
    run = subprocess.run(
        [sys.executable, "-I", "-c", before + ENCODE, *arguments],
        cwd=result.parent,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return load_file(result), run.stdout.split()


def here(folder: Path) -> dict[str, Tensor]:
    """The same embeddings from this process."""
    model, processor = BDAMModel.from_pretrained(folder), BDAMProcessor.from_pretrained(folder)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8))
    with torch.no_grad():
        images = model.get_image_features(**processor(images=[image, image.rotate(90)], return_tensors="pt"))
        queries = model.get_text_features(**processor(text=TEXTS, return_tensors="pt"))
    return {"images": images.pooler_output, "queries": queries.pooler_output}


def needed_files() -> set[str]:
    """Every file that configuration, model and processor import from their own folder, directly or not."""
    needed, waiting = set(), ["configuration_bdam", "modeling_bdam", "processing_bdam"]
    while waiting:
        name = waiting.pop()
        if f"{name}.py" not in needed:
            needed.add(f"{name}.py")
            waiting += re.findall(r"^\s*from \.(\w+) import", (PACKAGE / f"{name}.py").read_text(), re.MULTILINE)
    return needed


def test_the_folder_holds_the_code_it_needs_and_no_more(saved: Path) -> None:
    files = {path.name for path in saved.glob("*.py")}
    assert files == needed_files()
    assert not files & {"trainer.py", "evaluation.py", "gathering.py", "gradnorm.py", "sampler.py", "__init__.py"}
    for name in files:
        assert (saved / name).read_text() == (PACKAGE / name).read_text()


def test_a_process_without_the_package_computes_the_same_bits(saved: Path, tmp_path: Path) -> None:
    block = 'import sys; sys.modules["modeling_bdam"] = None  # importing it raises ImportError\n'
    embeddings, modules = encode(saved, block, "trust", tmp_path / "remote")
    assert all(name.startswith("transformers_modules.") for name in modules)
    for name, expected in here(saved).items():
        assert embeddings[name].equal(expected)
    # Saved once more from there, it still carries its code.
    assert {path.name for path in (tmp_path / "remote-again").glob("*.py")} == needed_files() - {"processing_bdam.py"}


def test_a_process_with_the_package_needs_no_trust(saved: Path, tmp_path: Path) -> None:
    use_package = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); import modeling_bdam\n"
    embeddings, modules = encode(saved, use_package, "no trust", tmp_path / "local")
    assert modules == ["modeling_bdam.modeling_bdam", "modeling_bdam.processing_bdam"]
    for name, expected in here(saved).items():
        assert embeddings[name].equal(expected)


def test_a_process_without_the_package_needs_trust(saved: Path, tmp_path: Path) -> None:
    block = 'import sys; sys.modules["modeling_bdam"] = None\n'
    with pytest.raises(AssertionError, match="trust_remote_code=True"):
        encode(saved, block, "no trust", tmp_path / "refused")
