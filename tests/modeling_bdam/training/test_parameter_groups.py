"""Learning rates and weight decay of towers, their layers and new modules."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from modeling_bdam import BDAMConfig, BDAMModel
from modeling_bdam.training.parameter_groups import describe_groups, parameter_groups
from modeling_bdam.training.trainer import BDAMTrainer
from modeling_bdam.training.training_args import BDAMTrainingArguments

from ..tensor_rows import TensorRows, collate

SETTINGS: dict[str, Any] = {"report_to": "none", "use_cpu": True, "learning_rate": 1e-3, "weight_decay": 0.1}


def rates(model: BDAMModel, tmp_path: Path, **arguments: Any) -> dict[str, float]:
    """The learning rate of each parameter by name."""
    args = BDAMTrainingArguments(str(tmp_path), **{**SETTINGS, **arguments})
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, args, set())
    return {names[id(parameter)]: group["lr"] for group in groups for parameter in group["params"]}


def test_groups_have_rates_of_towers_and_new_modules(tiny_config: Callable[..., BDAMConfig], tmp_path: Path) -> None:
    model = BDAMModel(tiny_config("clip", projection_dim=24, joint_embeds=True))
    found = rates(model, tmp_path, tower_lr=2e-4, new_module_lr_factor=5)
    assert found.keys() == {name for name, _ in model.named_parameters()}
    pretrained = ("vision_model.", "text_model.", "visual_projection.", "textual_projection.")
    for name, rate in found.items():
        assert rate == pytest.approx(2e-4 if name.startswith(pretrained) else 5e-3)


@pytest.mark.parametrize("towers", ["clip", "vit", "convnext"])
def test_layer_decay_lowers_rates_from_the_top(
    towers: str, tiny_config: Callable[..., BDAMConfig], tmp_path: Path
) -> None:
    model = BDAMModel(tiny_config(towers))
    found = rates(model, tmp_path, layer_lr_decay=0.5)
    for tower in (model.vision_model, model.text_model):
        layers: Any = next(module for module in tower.modules() if isinstance(module, nn.ModuleList))
        names = {id(value): name for name, value in model.named_parameters()}
        count = len(layers)
        for number, layer in enumerate(layers):
            for value in layer.parameters():
                assert found[names[id(value)]] == pytest.approx(1e-3 * 0.5 ** (count - number))
        first = next(iter(tower.parameters()))
        assert found[names[id(first)]] == pytest.approx(1e-3 * 0.5 ** (count + 1))
        last: Tensor = list(tower.parameters())[-1]
        if towers == "clip":
            assert found[names[id(last)]] == pytest.approx(1e-3)


def test_trainer_prints_groups_once_and_decays_matrices_only(
    tiny_config: Callable[..., BDAMConfig], make_batch: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = BDAMModel(tiny_config("clip"))
    model.vision_model.requires_grad_(False)
    settings = {
        **SETTINGS,
        "max_steps": 2,
        "save_strategy": "no",
        "per_device_train_batch_size": 4,
        "disable_tqdm": False,
    }
    args = BDAMTrainingArguments(str(tmp_path), new_module_lr_factor=5, **settings)
    trainer = BDAMTrainer(model, args, collate, TensorRows(make_batch(8)), retrieval_collator=collate)
    trainer.train()
    assert trainer.optimizer is not None
    groups = trainer.optimizer.param_groups
    shown = capsys.readouterr().out
    assert shown.count(describe_groups(groups).splitlines()[0]) == 1
    assert [group["name"] for group in groups] == ["towers", "towers", "new modules", "new modules"]
    names = {id(value): name for name, value in model.named_parameters()}
    for group in groups:
        for value in group["params"]:
            is_decayed = value.ndim > 1 and not names[id(value)].endswith("A_log")
            assert group["weight_decay"] == (0.1 if is_decayed else 0)
    assert f"{sum(value.numel() for value in groups[0]['params']):,}" in shown


def test_layer_decay_above_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="layer_lr_decay must be above 0 and at most 1"):
        BDAMTrainingArguments(str(tmp_path), layer_lr_decay=1.5)
