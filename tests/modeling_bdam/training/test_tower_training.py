"""Frozen layers and LoRA: trained weights, merged weights, and runs by the command."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import run_t2i_reid
from modeling_bdam import BDAMModel
from modeling_bdam.training import tower_training
from modeling_bdam.training.tower_training import add_lora, freeze_layers, lora_weights, merged_weights

from ...command import tiny_settings

SETTINGS = tiny_settings(
    layers=2,
    model={"dropout": 0.0},
    training={
        "learning_rate": 1e-2,
        "adam_epsilon": 1e-4,
    },  # a smaller epsilon would turn rounding errors into full steps
)
MakeConfig = Callable[..., Any]
MakeBatch = Callable[..., dict[str, Tensor]]


every_kind = pytest.mark.parametrize("towers", ["vit", "clip", "siglip", "dinov2", "convnext"])


def trained(tower: torch.nn.Module) -> set[str]:
    return {name for name, value in tower.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("towers", ["vit", "clip", "siglip", "dinov2", "convnext", "resnet"])
def test_freeze_layers_freezes_given_layers_only(towers: str, tiny_config: MakeConfig, make_batch: MakeBatch) -> None:
    model = BDAMModel(tiny_config(towers))
    tower = model.vision_model
    every, heads = trained(tower), trained(model.fusion)
    layer = "stages" if towers in ("convnext", "resnet") else r"layers?"
    freeze_layers(tower, 1)
    kept = trained(tower)
    assert {name for name in every if re.search(rf"^([a-z]+\.)*{layer}\.1\.", name)} <= kept
    assert not any(re.search(rf"embeddings|^(encoder\.)?{layer}\.0\.", name) for name in kept)
    model(**make_batch(), return_loss=True).loss.backward()
    assert {name for name, value in tower.named_parameters() if value.grad is not None} == kept

    freeze_layers(tower, 2)
    assert all("norm" in name for name in trained(tower))  # the norm after the layers
    freeze_layers(tower, -1)
    assert not trained(tower)
    assert trained(model.fusion) == heads


@pytest.mark.parametrize("layers", [3, -2])
def test_freeze_layers_refuses_too_many_layers(layers: int, tiny_config: MakeConfig) -> None:
    model = BDAMModel(tiny_config())
    with pytest.raises(ValueError, match=f"^cannot freeze {layers} layers of a bert tower with 2; -1 freezes all$"):
        freeze_layers(model.text_model, layers)


@every_kind
def test_lora_merges_into_plain_model_of_same_outputs(
    towers: str, tiny_config: MakeConfig, make_batch: MakeBatch
) -> None:
    torch.manual_seed(0)
    model, batch = BDAMModel(tiny_config(towers, initializer_range=0.2)), make_batch()
    plain = {name: value.clone() for name, value in model.state_dict().items()}
    heads = {name for name in trained(model) if not name.startswith(("vision_model.", "text_model."))}
    for tower in (model.vision_model, model.text_model):
        add_lora(tower, 2, 4)
    assert trained(model) == heads | set(lora_weights(model))
    model.eval()
    with torch.no_grad():
        for value in lora_weights(model).values():
            value.add_(0.1 * torch.randn_like(value))
        expected = model(**batch).logits_per_text
    merged = merged_weights(model, model.state_dict())
    assert merged.keys() == plain.keys()
    again = BDAMModel(tiny_config(towers)).eval()
    again.load_state_dict(merged)
    with torch.no_grad():
        torch.testing.assert_close(again(**batch).logits_per_text, expected, atol=1e-3, rtol=1e-4)
    assert any(not merged[name].equal(value) for name, value in plain.items())
    for name, value in tower_training.unmerged_weights(model, merged, lora_weights(model)).items():
        torch.testing.assert_close(value, model.state_dict()[name])


def test_lora_refuses_tower_without_linear_layers(tiny_config: MakeConfig) -> None:
    with pytest.raises(ValueError, match="LoRA needs linear layers, which a resnet tower has not: freeze it instead"):
        add_lora(BDAMModel(tiny_config("resnet")).vision_model, 2, 4)


def run(folder: Path, *flags: str) -> Path:
    settings = folder.parent / "settings.json"
    settings.write_text(json.dumps(SETTINGS))
    still = [f"--{name}_probability=0" for name in ("flip", "crop", "erase", "word_mask")]
    cache = f"--cache_dir={folder.parent / 'data'}"
    run_t2i_reid.main([f"--config={settings}", f"--output_dir={folder}", cache, "--do_train", *still, *flags])
    return folder / "model.safetensors"


def test_lora_run_saves_plain_model_and_resumes(tmp_path: Path) -> None:
    lora = ("--lora_rank=4", "--frozen_text_layers=-1")
    whole = load_file(run(tmp_path / "whole", *lora))
    assert not any("lora" in name or "base_layer" in name for name in whole)
    start = load_file(tmp_path / "whole" / "checkpoint-2" / "model.safetensors")
    moved = {name for name in whole if not torch.allclose(whole[name], start[name], rtol=0, atol=1e-7)}
    vision = {name for name in moved if name.startswith("vision_model.")}
    assert vision and all(
        name.endswith(".weight") and "norm" not in name and "embeddings" not in name for name in vision
    )
    assert not any(name.startswith("text_model.") for name in moved)

    stopped = tmp_path / "stopped"
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", stopped / "checkpoint-2")
    resumed = load_file(run(stopped, *lora))
    assert resumed.keys() == whole.keys()
    for name, value in resumed.items():
        torch.testing.assert_close(value, whole[name], atol=1e-5, rtol=1e-4, msg=name)


def test_run_with_frozen_layers_keeps_their_weights(tmp_path: Path) -> None:
    whole = load_file(run(tmp_path / "whole", "--frozen_vision_layers=1", "--frozen_text_layers=2"))
    start = load_file(tmp_path / "whole" / "checkpoint-2" / "model.safetensors")
    moved = [name for name in whole if name.startswith(("vision_", "text_")) and not whole[name].equal(start[name])]
    assert any(".layers.1." in name or ".layer.1." in name for name in moved)
    assert not any(re.search(r"embeddings|\.layers?\.0\.|^text_model.*layers", name) for name in moved)
