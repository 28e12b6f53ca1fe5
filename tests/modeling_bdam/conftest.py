"""Tiny BDAM configurations, batches and checkpoints, and a Python without this package."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from modeling_bdam import BDAMConfig, BDAMModel, BDAMProcessor
from modeling_bdam.processing_bdam import default_image_processor

WORDS = ["[PAD]", "[UNK]", "[END]", "a", "photo", "of", "man", "woman", "in", "red", "coat"]
VOCABULARY, PAD, END = 99, 0, 2
LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
IMAGE = {**LAYERS, "image_size": 32, "patch_size": 8}
TEXT = {
    **LAYERS,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 24,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": END,
}
CONVNEXT = {
    "image_size": 32,
    "hidden_sizes": [16, 32],
    "depths": [1, 1],
    "num_stages": 2,
    "layer_scale_init_value": 0.1,
}
RESNET = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"}
TOWERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "vit": ({"model_type": "vit"}, {"model_type": "bert"}),
    "clip": ({"model_type": "clip_vision_model"}, {"model_type": "clip_text_model"}),
    "siglip": ({"model_type": "siglip_vision_model"}, {"model_type": "siglip_text_model"}),
    "dinov2": ({"model_type": "dinov2"}, {"model_type": "bert"}),
    "resnet": ({"model_type": "resnet", **RESNET}, {"model_type": "clip_text_model"}),
    "convnext": ({"model_type": "convnext", **CONVNEXT}, {"model_type": "bert"}),
}


def _config(towers: str = "vit", **fields: Any) -> BDAMConfig:
    tiny: dict[str, Any] = {
        "hidden_size": 32,
        "num_bdam_heads": 4,
        "num_bdam_layers": 1,
        "projection_dim": 16,
        "fusion_hidden_size": 16,
        "num_fusion_layers": 1,
        "mamba_state_size": 4,
    }
    for name, size, kind in zip(("vision_config", "text_config"), (IMAGE, TEXT), TOWERS[towers], strict=True):
        tower = fields.get(name, kind)
        fields[name] = tower if "hidden_sizes" in tower else size | tower
    return BDAMConfig(**tiny | fields)


def _texts(size: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`input_ids` and `attention_mask` [size, length]: an end token, then padding; the first text has no padding."""
    ids = torch.randint(END + 1, VOCABULARY, (size, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(size):
        end = length - 1 - row % (length // 2)
        ids[row, end], ids[row, end + 1 :], mask[row, end + 1 :] = END, PAD, 0
    return ids, mask


def _batch(size: int = 4, image_size: tuple[int, int] = (32, 32)) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    batch = {"pixel_values": torch.randn(size, 3, *image_size, generator=generator)}
    for prefix, length in (("", 7), ("identity_", 6), ("clothing_", 8)):
        batch[f"{prefix}input_ids"], batch[f"{prefix}attention_mask"] = _texts(size, length, generator)
    batch["person_ids"] = torch.arange(size) // 2
    return batch


def pytest_configure(config: pytest.Config) -> None:
    """Registers the markers of transformers' common tests (test_common.py)."""
    for subject in ("accelerate_tests", "flash_attn_test", "flash_attn_3_test", "flash_attn_4_test"):
        config.addinivalue_line("markers", f"{subject}: of transformers' own tests")
    config.addinivalue_line("markers", "torch_compile_test: of transformers' own tests")


@pytest.fixture
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def tiny_config() -> Callable[..., BDAMConfig]:
    """`tiny_config(towers, **fields)`: a configuration with the tiny towers of `TOWERS[towers]`."""
    return _config


@pytest.fixture
def make_batch() -> Callable[..., dict[str, Tensor]]:
    """`make_batch(size, image_size)`: all inputs of `BDAMModel.forward`, two images per person."""
    return _batch


@pytest.fixture
def word_tokenizer() -> Callable[[int], PreTrainedTokenizerFast]:
    """`word_tokenizer(max_length)`: a tokenizer of `WORDS`."""

    def create(max_length: int) -> PreTrainedTokenizerFast:
        tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        special: dict[str, Any] = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **special)

    return create


@pytest.fixture
def checkpoint(tmp_path: Path, word_tokenizer: Any) -> Path:
    """Folder of a saved tiny model and its processor."""
    torch.manual_seed(0)
    BDAMModel(_config(fusion_sequence="token", initializer_range=0.2)).save_pretrained(tmp_path / "model")
    BDAMProcessor(default_image_processor(32, 32), word_tokenizer(24)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def photo() -> Callable[..., Image.Image]:
    """`photo(height, width, seed)`: a random RGB image."""
    return lambda height=48, width=30, seed=0: Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., str]:
    """`run_python(program, *arguments, package)`: output of a new interpreter, with or without this package."""

    def run(program: str, *arguments: object, package: bool) -> str:
        root = str(Path(__file__).parents[2])
        block = 'sys.modules["modeling_bdam"] = None'  # importing it raises ImportError
        program = f"import sys\n{f'sys.path.insert(0, {root!r})' if package else block}\n{program}"
        environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
        environment.pop("HF_MODULES_CACHE", None)
        # -I: neither the working directory nor PYTHONPATH is searched for modules.
        command = [sys.executable, "-I", "-c", program, *map(str, arguments)]
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        finished = subprocess.run(
            command, cwd=tmp_path, env=environment, stdin=null, stdout=pipe, stderr=pipe, text=True
        )
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    return run
