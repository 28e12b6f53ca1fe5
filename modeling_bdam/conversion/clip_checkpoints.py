"""Converts checkpoints of CLIP baselines (IRRA and derived code) to towers for `--config clip`.

These checkpoints use the weight names of OpenAI below a prefix
(`base_model.visual.transformer.resblocks.0.attn.in_proj_weight`), with position embeddings resized to person crops.
"""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

from ..clip_grid_bdam import GridVisionModel
from ..configuration_bdam import BDAMConfig
from ..towers_bdam import JointSpace

HEAD_WIDTH = 64  # of every CLIP

_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_VISION = {
    "class_embedding": "embeddings.class_embedding",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    **{f"ln_pre.{part}": f"pre_layrnorm.{part}" for part in ("weight", "bias")},  # the spelling of transformers
    **{f"ln_post.{part}": f"post_layernorm.{part}" for part in ("weight", "bias")},
}
_TEXT = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    **{f"ln_final.{part}": f"final_layer_norm.{part}" for part in ("weight", "bias")},
}


@dataclass
class ClipTowers:
    """The two towers of a checkpoint.

    Attributes:
        joint: projections into the joint space, and the temperature; None if the checkpoint lacks a projection.
        matched: weight names of the checkpoint that these contain.
        left_out: other weight names: heads and modules without a counterpart.
    """

    vision: CLIPVisionModel
    text: CLIPTextModel
    joint: JointSpace | None
    matched: list[str]
    left_out: list[str]


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Reads a `.safetensors`, or a `.pth` with a state dict at the top or under `model` or `state_dict`.

    Pickles are read with `weights_only=True`, so a file that would execute code raises an error.

    Raises:
        OSError: the file does not exist.
        ValueError: the file holds no weights, or objects other than tensors.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return load_file(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch raises many types for a damaged file
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{path} is no file of plain tensors: {reason}; save its state dict only") from None
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} holds no state dict, neither at the top nor under `model` or `state_dict`")
    return dict(content)


def convert_clip_baseline(weights: Mapping[str, Tensor], image_size: tuple[int, int] = (384, 128)) -> ClipTowers:
    """Builds both towers from the weights of a checkpoint, in float32.

    Args:
        weights: names of OpenAI below any prefix.
        image_size: height and width in pixels of the position embeddings, unless they form a square.

    Raises:
        ValueError: there is no CLIP vision transformer, the positions are for another image size, or a weight is
            missing.
    """
    # Weights of each tower by the names of transformers
    prefix = _prefix(weights)
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    vision_names, vision_weights = _tower(own, "visual.", _VISION)
    text_names, text_weights = _tower(own, "", _TEXT)

    # Sizes of the towers, from the shapes of the weights
    width, _, _, patch = vision_weights["embeddings.patch_embedding.weight"].shape
    positions = len(vision_weights["embeddings.position_embedding.weight"]) - 1
    side = math.isqrt(positions)
    size: int | list[int] = side * patch if side * side == positions else list(image_size)
    if isinstance(size, list) and (size[0] // patch) * (size[1] // patch) != positions:
        raise ValueError(
            f"the checkpoint has positions for {positions} patches, and images of {size[0]}x{size[1]} have "
            f"{size[0] // patch}x{size[1] // patch}: pass the height and width of its training images"
        )
    vision_config = CLIPVisionConfig(**_sizes(vision_weights, width), image_size=size, patch_size=patch)
    vision_class = CLIPVisionModel if isinstance(size, int) else GridVisionModel
    vocabulary, width = text_weights["embeddings.token_embedding.weight"].shape
    longest = len(text_weights["embeddings.position_embedding.weight"])
    text_config = CLIPTextConfig(
        **_sizes(text_weights, width),
        vocab_size=vocabulary,
        max_position_embeddings=longest,
        projection_dim=width,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,  # the text is pooled there
    )

    # Towers with these weights
    vision, text = vision_class(vision_config), CLIPTextModel(text_config)
    for tower, tower_weights in ((vision, vision_weights), (text, text_weights)):
        if missing := sorted(tower.state_dict().keys() - tower_weights.keys()):
            raise ValueError(f"the checkpoint lacks {len(missing)} weights of the tower, such as {missing[0]}")
        tower.load_state_dict(tower_weights)
    joint, joint_names = None, []
    if {"visual.proj", "text_projection"} <= own.keys():
        joint_names = [name for name in ("visual.proj", "text_projection", "logit_scale") if name in own]
        visual, textual = (own[name].float().T.contiguous() for name in joint_names[:2])  # [P, width] each
        joint = JointSpace(visual, textual, float(own.get("logit_scale", BDAMConfig.logit_scale_init_value)))
    matched = sorted(prefix + name for name in vision_names + text_names + joint_names)
    return ClipTowers(vision.eval(), text.eval(), joint, matched, sorted(weights.keys() - set(matched)))


def _prefix(weights: Mapping[str, Tensor]) -> str:
    """Returns the prefix of OpenAI's names, such as `base_model.` or `module.base_model.`."""
    for name in weights:
        if name.endswith("visual.conv1.weight") and name.replace("conv1.weight", "class_embedding") in weights:
            return name.removesuffix("visual.conv1.weight")
    raise ValueError(
        "the checkpoint holds no CLIP vision transformer with the names of OpenAI: there is no "
        "`…visual.conv1.weight` with a `…visual.class_embedding`"
    )


def _tower(own: dict[str, Tensor], start: str, names: dict[str, str]) -> tuple[list[str], dict[str, Tensor]]:
    """Returns the names of a tower's weights, and its float32 weights by the names of transformers."""
    taken: list[str] = []
    weights: dict[str, Tensor] = {}
    for name, value in own.items():
        short = name.removeprefix(start)
        layer = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+?)\.?(in_proj_weight|in_proj_bias|weight|bias)", short)
        if start and not name.startswith(start):
            continue
        if layer is not None:
            target, kind = f"encoder.layers.{layer[1]}.", layer[3].removeprefix("in_proj_")
            if layer[3].startswith("in_proj"):
                for part, rows in zip(("q", "k", "v"), value.float().chunk(3), strict=True):
                    weights[f"{target}self_attn.{part}_proj.{kind}"] = rows.contiguous()
            elif layer[2] in _LAYER:
                weights[f"{target}{_LAYER[layer[2]]}.{kind}"] = value.float()
            else:
                continue
        elif short in names:
            weights[names[short]] = value.float()
        else:
            continue
        taken.append(name)
    if absent := sorted(set(names.values()) - weights.keys()):
        raise ValueError(f"the checkpoint lacks {absent[0]} of the {'vision' if start else 'text'} tower")
    return taken, weights


def _sizes(weights: dict[str, Tensor], width: int) -> dict[str, Any]:
    layers = {int(name.split(".")[2]) for name in weights if name.startswith("encoder.layers.")}
    return {
        "hidden_size": width,
        "intermediate_size": len(weights["encoder.layers.0.mlp.fc1.weight"]),
        "num_hidden_layers": max(layers) + 1,
        "num_attention_heads": width // HEAD_WIDTH,
    }


__all__ = ["ClipTowers", "convert_clip_baseline", "read_checkpoint"]
