"""Tiny BDAM configurations and batches, shared by the tests of the model."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from modeling_bdam import BDAMConfig

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
BERT = {**TEXT, "model_type": "bert"}
TOWERS: dict[str, dict[str, dict[str, Any]]] = {
    "vit": {"vision_config": {**IMAGE, "model_type": "vit"}, "text_config": BERT},
    "clip": {
        "vision_config": {**IMAGE, "model_type": "clip_vision_model"},
        "text_config": {**TEXT, "model_type": "clip_text_model"},
    },
    "siglip": {
        "vision_config": {**IMAGE, "model_type": "siglip_vision_model"},
        "text_config": {**TEXT, "model_type": "siglip_text_model"},
    },
    "dinov2": {"vision_config": {**IMAGE, "model_type": "dinov2"}, "text_config": BERT},
    "convnext": {
        "vision_config": {
            "model_type": "convnext",
            "hidden_sizes": [16, 32],
            "depths": [1, 1],
            "num_stages": 2,
            "image_size": 32,
            "layer_scale_init_value": 0.1,
        },
        "text_config": BERT,
    },
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
    return BDAMConfig(**{**tiny, **TOWERS[towers], **fields})


def _texts(size: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`input_ids` and `attention_mask` [size, length]: an end token, then padding; the first text fills its row."""
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
    """Register the markers of transformers' common tests (test_common.py)."""
    for subject in ("accelerate_tests", "flash_attn_test", "flash_attn_3_test", "flash_attn_4_test"):
        config.addinivalue_line("markers", f"{subject}: of transformers' own tests")
    config.addinivalue_line("markers", "torch_compile_test: of transformers' own tests")


@pytest.fixture
def tiny_config() -> Callable[..., BDAMConfig]:
    """`tiny_config(towers, **fields)`: a configuration over tiny towers of the kind `towers`, a key of `TOWERS`."""
    return _config


@pytest.fixture
def make_batch() -> Callable[..., dict[str, Tensor]]:
    """`make_batch(size, image_size)`: every input of `BDAMModel.forward`, two images a person."""
    return _batch
