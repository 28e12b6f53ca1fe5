"""Learning rates and weight decay by group of parameters: towers, their layers, and all other modules."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from ..modeling_bdam import BDAMModel
    from .training_args import BDAMTrainingArguments


def parameter_groups(model: "BDAMModel", args: "BDAMTrainingArguments", decayed: set[str]) -> list[dict[str, Any]]:
    """Divides the trained parameters into groups for the optimizer, each with a `name` for `describe_groups`.

    The modules outside the towers get `new_module_lr_factor` times the learning rate, pretrained projections into a
    joint space that of the towers. With `layer_lr_decay` f, layer i of n (from 0) of a tower gets f ** (n - i) of the
    tower's rate, and its embeddings f ** (n + 1).

    Args:
        decayed: names of the parameters with weight decay.
    """
    tower_lr = args.learning_rate if args.tower_lr is None else args.tower_lr
    depths = {
        id(parameter): depth for tower in (model.vision_model, model.text_model) for parameter, depth in _depths(tower)
    }
    for projection in (model.visual_projection, model.textual_projection):
        depths |= {} if projection is None else {id(parameter): 0 for parameter in projection.parameters()}
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in depths:
            depth = depths[id(parameter)] if args.layer_lr_decay < 1 else 0
            label, rate = "towers", tower_lr * args.layer_lr_decay**depth
            label += f", {depth} from the top" if depth else ""
        else:
            label, rate = "new modules", args.new_module_lr_factor * args.learning_rate
        weight_decay = args.weight_decay if name in decayed else 0.0
        group = {"name": label, "params": [], "lr": rate, "weight_decay": weight_decay}
        groups.setdefault((label, weight_decay > 0), group)["params"].append(parameter)
    return sorted(groups.values(), key=lambda group: group["name"] == "new modules")


def describe_groups(groups: list[dict[str, Any]]) -> str:
    """Returns a table of the groups with their sizes, one line each."""
    lines = [f"{'parameter group':32} {'parameters':>12} {'learning rate':>14} {'weight decay':>13}"]
    for group in groups:
        size = sum(parameter.numel() for parameter in group["params"])
        lines.append(f"{group['name']:32} {size:12,} {group['lr']:14.3g} {group['weight_decay']:13.3g}")
    return "\n".join(lines)


def _depths(tower: nn.Module) -> Iterator[tuple[nn.Parameter, int]]:
    """Yields each parameter with its number of layers from the top: 0 after the layers, n + 1 before them."""
    stack = next((module for module in tower.modules() if isinstance(module, nn.ModuleList)), nn.ModuleList())
    layer_of = {id(value): number for number, layer in enumerate(stack) for value in layer.parameters()}
    below = True
    for parameter in tower.parameters():  # in forward order
        below = below and id(parameter) not in layer_of
        yield parameter, len(stack) - layer_of.get(id(parameter), -1 if below else len(stack))


__all__ = ["describe_groups", "parameter_groups"]
