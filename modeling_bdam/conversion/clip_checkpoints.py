"""Converts checkpoints of CLIP and its derivatives (IRRA, RDE, HAM, TBPS-CLIP, OpenCLIP) to a BDAM model.

These checkpoints use the weight names of OpenAI below a prefix
(`base_model.visual.transformer.resblocks.0.attn.in_proj_weight`), with position embeddings resized to person crops. The
text tower may be below another prefix (`text.` of OpenCLIP's CustomTextCLIP, `encode_text.` of TBPS-CLIP).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

from ..clip_grid_bdam import GridVisionModel
from ..configuration_bdam import BDAMConfig
from ..modeling_bdam import BDAMModel
from ..towers_bdam import JointSpace

HEAD_WIDTH = 64  # of OpenAI's towers, and of all text towers
HEADS = {1280: 16, 1408: 16, 1664: 16, 1792: 16}  # by the width of OpenCLIP's ViT-H, ViT-g, ViT-bigG and ViT-e
END_OF_TEXT = 49407  # of CLIP's tokenizer

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
class ClipAssumptions:
    """Properties that cannot be read from the shapes of weights.

    Attributes:
        vision_heads, text_heads: attention heads of each tower.
        activation: `quick_gelu` (OpenAI and fine-tuned versions) or `gelu` (OpenCLIP without `-quickgelu`).
        image_size: height and width in pixels of the position embeddings.
    """

    vision_heads: int
    text_heads: int
    activation: str
    image_size: tuple[int, int]

    def __str__(self) -> str:
        heads = f"{self.vision_heads} heads in the vision tower, {self.text_heads} in the text tower"
        return f"{heads}, activation {self.activation}, images of {self.image_size[0]}x{self.image_size[1]}"


@dataclass
class ConvertedClip:
    """A converted checkpoint.

    Attributes:
        model: ranks as the checkpoint does; its fields `use_bdam` and `use_fusion` are False, and β is 0.
        assumed: heads, activation and image size.
        matched: weight names of the checkpoint that the model contains.
        left_out: other weight names: heads and modules without a counterpart.
    """

    model: BDAMModel
    assumed: ClipAssumptions
    matched: list[str]
    left_out: list[str]


def convert_clip(
    weights: Mapping[str, Tensor],
    image_size: tuple[int, int] = (384, 128),
    heads: int | None = None,
    text_heads: int | None = None,
    activation: str | None = None,
) -> ConvertedClip:
    """Builds a model that ranks as a dual encoder does from its weights, in float32.

    Args:
        weights: names of OpenAI below any prefix.
        image_size: height and width in pixels of the position embeddings, unless they form a square.
        heads: attention heads of the vision tower; by default from `HEADS`, or one per 64 dimensions.
        text_heads: the same for the text tower; by default one per 64 dimensions.
        activation: `quick_gelu` or `gelu`; by default `gelu` for widths and layouts that only OpenCLIP has.

    Raises:
        ValueError: there is no CLIP vision transformer, the positions are for another image size, or a weight is
            missing.
    """
    # Weights of each tower by the names of transformers
    vision_prefix = _prefix(weights, "visual.conv1.weight", "visual.class_embedding", "vision transformer")
    text_prefix = _prefix(weights, "token_embedding.weight", "ln_final.weight", "text transformer")
    vision_names, vision_weights = _tower(weights, vision_prefix + "visual.", _VISION, "vision")
    text_names, text_weights = _tower(weights, text_prefix, _TEXT, "text")
    width, _, _, patch = vision_weights["embeddings.patch_embedding.weight"].shape
    vocabulary, text_width = text_weights["embeddings.token_embedding.weight"].shape
    assumed = ClipAssumptions(
        heads or HEADS.get(width, width // HEAD_WIDTH),
        text_heads or text_width // HEAD_WIDTH,
        activation or ("gelu" if width in HEADS or text_prefix.split(".")[-2:-1] == ["text"] else "quick_gelu"),
        _image_size(len(vision_weights["embeddings.position_embedding.weight"]) - 1, patch, image_size),
    )

    # Joint space
    visual = _projection(weights, vision_prefix + "visual.proj")
    textual = _projection(weights, text_prefix + "text_projection")
    scale_name = next((name for name in (f"{vision_prefix}logit_scale", "logit_scale") if name in weights), None)
    scale = BDAMConfig.logit_scale_init_value if scale_name is None else float(weights[scale_name])
    joint = JointSpace(len(visual[1]), scale, visual[1], textual[1])

    # Model with these weights
    common: dict[str, Any] = {"hidden_act": assumed.activation, "projection_dim": joint.width}
    square = assumed.image_size[0] == assumed.image_size[1]
    size = assumed.image_size[0] if square else list(assumed.image_size)
    vision_config = CLIPVisionConfig(
        **_sizes(vision_weights, width),
        **common,
        num_attention_heads=assumed.vision_heads,
        patch_size=patch,
        image_size=size,
    )
    text_config = CLIPTextConfig(
        **_sizes(text_weights, text_width),
        **common,
        num_attention_heads=assumed.text_heads,
        vocab_size=vocabulary,
        max_position_embeddings=len(text_weights["embeddings.position_embedding.weight"]),
        bos_token_id=min(END_OF_TEXT, vocabulary - 1) - 1,
        eos_token_id=min(END_OF_TEXT, vocabulary - 1),  # the text is pooled there
    )
    vision, text = (CLIPVisionModel if square else GridVisionModel)(vision_config), CLIPTextModel(text_config)
    for tower, tower_weights in ((vision, vision_weights), (text, text_weights)):
        if missing := sorted(tower.state_dict().keys() - tower_weights.keys()):
            raise ValueError(f"the checkpoint lacks {len(missing)} weights of the tower, such as {missing[0]}")
        tower.load_state_dict(tower_weights)
    config = BDAMConfig(
        vision_config=vision_config,
        text_config=text_config,
        joint_embeds=True,
        projection_dim=joint.width,
        hidden_size=width,
        logit_scale_init_value=joint.logit_scale,
        use_bdam=False,
        use_fusion=False,
        interpolate_pos_encoding=True,
        clothing_weight=0.0,
    )
    model = BDAMModel(config, vision_model=vision, text_model=text).eval()
    model.load_joint_space(joint)
    matched = sorted([*vision_names, *text_names, visual[0], textual[0], *([] if scale_name is None else [scale_name])])
    return ConvertedClip(model, assumed, matched, sorted(weights.keys() - set(matched)))


def _prefix(weights: Mapping[str, Tensor], name: str, sibling: str, kind: str) -> str:
    """Returns the shortest prefix below which both weights are, such as `base_model.` or `module.base_model.`."""
    found = [key.removesuffix(name) for key in weights if key.endswith(name)]
    if found := [prefix for prefix in found if prefix + sibling in weights]:
        return min(found, key=len)
    raise ValueError(
        f"the checkpoint holds no CLIP {kind} with the names of OpenAI: there is no `…{name}` with a `…{sibling}`"
    )


def _image_size(positions: int, patch: int, tall: tuple[int, int]) -> tuple[int, int]:
    """Returns the image size of this number of patches: a square, or else `tall`."""
    side = math.isqrt(positions)
    if side * side == positions:
        return side * patch, side * patch
    if (tall[0] // patch) * (tall[1] // patch) != positions:
        raise ValueError(
            f"the checkpoint has positions for {positions} patches, and images of {tall[0]}x{tall[1]} have "
            f"{tall[0] // patch}x{tall[1] // patch}: pass the height and width of its training images"
        )
    return tall


def _projection(weights: Mapping[str, Tensor], name: str) -> tuple[str, Tensor]:
    """Returns name and float32 weight [P, width] of a projection: a matrix [width, P], or a linear layer."""
    if f"{name}.bias" in weights:
        raise ValueError(f"the checkpoint has a bias in {name}, for which CLIP has no place: it cannot be converted")
    if f"{name}.weight" in weights:
        return f"{name}.weight", weights[f"{name}.weight"].float()
    if name not in weights:
        raise ValueError(f"the checkpoint lacks {name}, its projection into the joint space")
    return name, weights[name].float().T.contiguous()


def _tower(
    checkpoint: Mapping[str, Tensor], prefix: str, names: dict[str, str], kind: str
) -> tuple[list[str], dict[str, Tensor]]:
    """Returns the names of a tower's weights, and its float32 weights by the names of transformers."""
    taken: list[str] = []
    weights: dict[str, Tensor] = {}
    for name, value in checkpoint.items():
        short = name.removeprefix(prefix)
        layer = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+?)\.?(in_proj_weight|in_proj_bias|weight|bias)", short)
        if not name.startswith(prefix):
            continue
        if re.fullmatch(r"transformer\.resblocks\.\d+\.ls_\d\.gamma|attn_pool\..*|cls_emb", short):
            raise ValueError(f"the checkpoint has {name}, which CLIP has not: it cannot be converted")
        if layer is not None:
            target, parameter = f"encoder.layers.{layer[1]}.", layer[3].removeprefix("in_proj_")
            if layer[3].startswith("in_proj"):
                for part, rows in zip(("q", "k", "v"), value.float().chunk(3), strict=True):
                    weights[f"{target}self_attn.{part}_proj.{parameter}"] = rows.contiguous()
            elif layer[2] in _LAYER:
                weights[f"{target}{_LAYER[layer[2]]}.{parameter}"] = value.float()
            else:
                continue
        elif short in names:
            weights[names[short]] = value.float()
        else:
            continue
        taken.append(name)
    if absent := sorted(set(names.values()) - weights.keys()):
        raise ValueError(f"the checkpoint lacks {absent[0]} of the {kind} tower")
    return taken, weights


def _sizes(weights: dict[str, Tensor], width: int) -> dict[str, Any]:
    layers = {int(name.split(".")[2]) for name in weights if name.startswith("encoder.layers.")}
    return {
        "hidden_size": width,
        "intermediate_size": len(weights["encoder.layers.0.mlp.fc1.weight"]),
        "num_hidden_layers": max(layers) + 1,
    }


__all__ = ["ClipAssumptions", "ConvertedClip", "convert_clip"]
