"""Which weights of the towers are trained: all, those of the last layers, none, or LoRA's beside them."""

from typing import TYPE_CHECKING

from torch import Tensor, nn
from transformers import PreTrainedModel

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
            f"cannot freeze {layers} layers of a {tower.config.model_type} tower, which has {len(stack)}; -1 freezes it"
        )
    for parameter in stack[:layers].parameters():
        parameter.requires_grad = False
    within = {id(parameter) for parameter in stack.parameters()}
    for parameter in tower.parameters():  # in the order that data meet them
        if id(parameter) in within:
            break
        parameter.requires_grad = False


def add_lora(tower: PreTrainedModel, rank: int, alpha: int) -> None:
    """Adds low-rank matrices (LoRA) to every linear map of a tower, in place, and freezes its own weights.

    Args:
        rank: of the matrices.
        alpha: they are scaled by alpha / rank.

    Raises:
        ValueError: peft, the extra `lora` of this package, is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ValueError('LoRA needs peft: pip install "bdam-reid[lora]"') from None
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear"), tower, _ADAPTER)


def lora_weights(model: "BDAMModel") -> dict[str, Tensor]:
    """The low-rank matrices by name; none where `add_lora` has added none."""
    return {name: value for name, value in model.state_dict().items() if _LORA in name}


def merged_weights(model: "BDAMModel", weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the plain model that computes the same: W + BA in the place of W, B and A.

    Args:
        model: with LoRA.
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
    """The inverse of `merged_weights`, up to rounding: the state dict of a model with LoRA.

    Args:
        model: with LoRA.
        merged: the weights of the plain model.
        lora: the low-rank matrices that are merged in them, see `lora_weights`.
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
    """BA of the linear map whose own weight is called `name`, scaled."""
    layer = name.removesuffix(f"{_BASE}weight")
    first, second = (weights[f"{layer}.lora_{part}.{_ADAPTER}.weight"] for part in "AB")
    scaling: dict[str, float] = model.get_submodule(layer).scaling  # type: ignore[assignment]  # peft's
    return scaling[_ADAPTER] * second @ first


__all__ = ["WHOLE_TOWER", "add_lora", "freeze_layers", "lora_weights", "merged_weights", "unmerged_weights"]
