"""Selects the trained weights of the towers: all, the last layers, none, or LoRA matrices."""

from typing import TYPE_CHECKING

from torch import Tensor, nn
from transformers import PreTrainedModel

from ..files import install_command

if TYPE_CHECKING:
    from ..modeling_bdam import BDAMModel

WHOLE_TOWER = -1
_ADAPTER = "default"
_LORA = ".lora_"
_BASE = ".base_layer."


def freeze_layers(tower: PreTrainedModel, layers: int) -> None:
    """Freezes the embeddings and the first `layers` layers of a tower; -1 freezes all of it, 0 nothing.

    Raises:
        ValueError: the tower has fewer layers.
    """
    if layers == 0:
        return
    if layers == WHOLE_TOWER:
        tower.requires_grad_(False)
        return
    stack = next(module for module in tower.modules() if isinstance(module, nn.ModuleList))
    if not 0 < layers <= len(stack):
        raise ValueError(
            f"cannot freeze {layers} layers of a {tower.config.model_type} tower with {len(stack)}; -1 freezes all"
        )
    for parameter in stack[:layers].parameters():
        parameter.requires_grad = False
    within = {id(parameter) for parameter in stack.parameters()}
    for parameter in tower.parameters():  # in forward order
        if id(parameter) in within:
            break
        parameter.requires_grad = False


def add_lora(tower: PreTrainedModel, rank: int, alpha: int) -> None:
    """Adds low-rank matrices (LoRA) to every linear layer of a tower in place, and freezes its own weights.

    Args:
        rank: rank of the matrices.
        alpha: their product is scaled by alpha / rank.

    Raises:
        ValueError: peft is not installed, or the tower has no linear layers (ResNet).
    """
    if not any(isinstance(module, nn.Linear) for module in tower.modules()):
        raise ValueError(
            f"LoRA needs linear layers, which a {tower.config.model_type} tower has not: freeze it instead"
        )
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ValueError(f"LoRA needs peft: {install_command('lora')}") from None
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear"), tower, _ADAPTER)


def lora_weights(model: "BDAMModel") -> dict[str, Tensor]:
    """Returns the LoRA matrices by name; empty for a model without LoRA."""
    return {name: value for name, value in model.state_dict().items() if _LORA in name}


def merged_weights(model: "BDAMModel", weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Merges LoRA into the weights: W + BA replaces W, B and A.

    Args:
        model: a model with LoRA.
        weights: its state dict.
    """
    merged = {}
    for name, value in weights.items():
        if _LORA in name:
            continue
        if name.endswith(f"{_BASE}weight"):
            value = value + _product(model, weights, name).to(value.dtype)
        merged[name.replace(_BASE, ".")] = value
    return merged


def unmerged_weights(model: "BDAMModel", merged: dict[str, Tensor], lora: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inverts `merged_weights`, up to rounding.

    Args:
        model: a model with LoRA.
        merged: merged weights.
        lora: the LoRA matrices that are merged in them, see `lora_weights`.

    Returns:
        the state dict of a model with LoRA.
    """
    weights = dict(lora)
    for name in model.state_dict():
        if _LORA in name:
            continue
        weights[name] = merged[name.replace(_BASE, ".")]
        if name.endswith(f"{_BASE}weight"):
            weights[name] = weights[name] - _product(model, lora, name).to(weights[name])
    return weights


def _product(model: "BDAMModel", weights: dict[str, Tensor], name: str) -> Tensor:
    """Returns the scaled product BA of the linear layer with the weight `name`."""
    layer = name.removesuffix(f"{_BASE}weight")
    first, second = (weights[f"{layer}.lora_{part}.{_ADAPTER}.weight"] for part in "AB")
    scaling: dict[str, float] = model.get_submodule(layer).scaling  # type: ignore[assignment]  # peft's
    return scaling[_ADAPTER] * second @ first


__all__ = ["WHOLE_TOWER", "add_lora", "freeze_layers", "lora_weights", "merged_weights", "unmerged_weights"]
