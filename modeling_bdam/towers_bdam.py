"""The pretrained vision and text towers (paper, section 3.1): creates and runs each supported type."""

import inspect
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import logging

from .clip_grid_bdam import GridVisionModel
from .configuration_bdam import have_joint_space

logger = logging.get_logger(__name__)

_NOT_IN_AUTO_MODEL = {
    "siglip_text_model": "SiglipTextModel",
    "siglip2_text_model": "Siglip2TextModel",
    "chinese_clip_text_model": "ChineseCLIPTextModel",
    "metaclip_2_text_model": "MetaClip2TextModel",
    "metaclip_2_vision_model": "MetaClip2VisionModel",
}
_HEADS_PROJECT = {"siglip_vision_model", "siglip_text_model"}  # their pooling heads end in the joint space
_POOLED_AT_FIRST_TOKEN = {"chinese_clip_text_model"}

# The final norm of towers that apply it only to their pooled vector; it is applied to each token here.
_NORM_OF_POOLED_VECTOR = {
    **dict.fromkeys(("clip_vision_model", "chinese_clip_vision_model", "metaclip_2_vision_model"), "post_layernorm"),
    **dict.fromkeys(("convnext", "convnextv2"), "layernorm"),
}

# Flags of transformers' classes by the kind of attention implementation
_ATTENTION_FLAGS = {"sdpa": "_supports_sdpa", "flash": "_supports_flash_attn", "flex": "_supports_flex_attn"}


def supported_attention(model_class: type[PreTrainedModel], wanted: str | None) -> str | None:
    """Returns an attention implementation if the class supports it, else None (the default) after one warning."""
    for kind, flag in _ATTENTION_FLAGS.items():
        if wanted is not None and kind in wanted and not getattr(model_class, flag):
            logger.warning_once(f"{model_class.__name__} does not support attention by {wanted} and uses its default")
            return None
    return wanted


def build_tower(config: PreTrainedConfig, joint: bool = False) -> PreTrainedModel:
    """Creates a tower with new weights; with `joint`, it keeps a pooling head that ends in a joint space (SigLIP)."""
    config._attn_implementation = supported_attention(_tower_class(config), config._attn_implementation)
    return _tower_class(config)._from_config(config, **_without_pooler(config, joint))


def load_tower(name_or_path: str, half: str) -> PreTrainedModel:
    """Loads a pretrained tower; from a model of both modalities, the one named `vision_config` or `text_config`.

    Raises:
        OSError: there is no such model.
        ValueError: the model cannot be this tower.
    """
    try:
        config = AutoConfig.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        raise OSError(f"{half}: the tower {name_or_path} cannot be read: {' '.join(str(error).split())}") from None
    if config.model_type == "bdam":
        raise ValueError(f"{half}: {name_or_path} is a whole BDAM model: use BDAMModel.from_pretrained")
    config = getattr(config, half, config)
    check_tower(config, half, name_or_path)
    options = {"config": config, "dtype": torch.float32, "output_loading_info": True, **_without_pooler(config)}
    tower, report = cast(Any, _tower_class(config)).from_pretrained(name_or_path, **options)
    missing = len(report["missing_keys"])
    if 2 * missing > len(tower.state_dict()):
        raise ValueError(f"{half}: {name_or_path} lacks {missing} weights of `{config.model_type}`: use another tower")
    return tower


@dataclass
class JointSpace:
    """The joint space of a pretrained model of images and texts.

    Attributes:
        width: P, of an embedding.
        logit_scale: logarithm of 1/τ.
        visual_projection, textual_projection: weights, [P, width of the tower]; None for towers that end in the joint
            space (SigLIP).
    """

    width: int
    logit_scale: float
    visual_projection: Tensor | None = None
    textual_projection: Tensor | None = None


def load_dual_encoder(vision: str, text: str) -> tuple[PreTrainedModel, PreTrainedModel, JointSpace] | None:
    """Loads vision tower, text tower and joint space if both names are one dual encoder, else returns None.

    Dual encoders are CLIP, MetaCLIP, Chinese-CLIP, SigLIP, fixed-resolution SigLIP2 (of model type `siglip`), and BDAM
    models with `joint_embeds`, such as converted checkpoints.

    Raises:
        ValueError: the model lacks weights.
    """
    config = AutoConfig.from_pretrained(vision) if vision == text else None
    if config is None or not has_joint_space(config):
        return None
    options = {"dtype": torch.float32, "output_loading_info": True}
    model, report = cast(Any, AutoModel).from_pretrained(vision, **options)
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"{vision} lacks {len(missing)} weights of `{config.model_type}`, such as {missing[0]}")
    scale = float(model.logit_scale.detach())
    if config.vision_config.model_type in _HEADS_PROJECT:
        joint = JointSpace(config.text_config.projection_size, scale)
    else:
        textual = model.textual_projection if config.model_type == "bdam" else model.text_projection
        weights = model.visual_projection.weight.detach(), textual.weight.detach()
        joint = JointSpace(len(weights[0]), scale, *weights)
    return model.vision_model, model.text_model, joint


def has_joint_space(config: PreTrainedConfig) -> bool:
    """Returns whether a config is that of a dual encoder with a joint space for BDAM, see `load_dual_encoder`."""
    if config.model_type == "bdam":
        return config.joint_embeds
    towers = [getattr(getattr(config, half, None), "model_type", "") for half in ("vision_config", "text_config")]
    return have_joint_space(*towers) and getattr(config.vision_config, "vision_use_head", True)


def joint_projection(config: PreTrainedConfig, width: int) -> nn.Module:
    """Creates the projection of a tower's pooled vector into the joint space, without weights for SigLIP.

    Raises:
        ValueError: the tower ends in a joint space of another width.
    """
    if config.model_type not in _HEADS_PROJECT:
        return nn.Linear(config.hidden_size, width, bias=False)
    own = getattr(config, "projection_size", config.hidden_size)
    if own != width:
        raise ValueError(
            f"projection_dim={width}, but `{config.model_type}` has a joint space of {own}: leave it out, or set "
            "joint_embeds=False"
        )
    return nn.Identity()


def check_tower(config: PreTrainedConfig, half: str, name: str | None = None) -> None:
    """Checks that a model can be the tower named `vision_config` or `text_config`.

    Raises:
        ValueError: it has other inputs or no tokens; the message says which.
    """
    shown = f"{half}: `{config.model_type}`" + ("" if name is None else f" of {name}")
    part = getattr(type(config), "sub_configs", {}).get(half)
    if part is not None:
        raise ValueError(
            f"{shown} is a model of images and texts: use its tower, `{getattr(part, 'model_type', half)}`"
        )
    try:
        tower = _tower_class(config)
    except KeyError:
        raise ValueError(f"{shown} has no class in AutoModel: use another tower") from None
    inputs = inspect.signature(tower.forward).parameters
    if getattr(config, "is_encoder_decoder", False) or "decoder_input_ids" in inputs:  # the encoder of T5 only, too
        raise ValueError(f"{shown} is an encoder-decoder: a tower is an encoder, such as `vit` or `bert`")
    wanted = {"vision_config": "pixel_values", "text_config": "input_ids"}[half]
    needed = {
        name for name, value in inputs.items() if value.default is value.empty and value.kind < value.VAR_POSITIONAL
    }
    needed -= {"self", wanted}
    others = {"pixel_values", "input_ids"} & inputs.keys() - {wanted}
    if wanted not in inputs or tower.main_input_name != wanted or needed or others:
        takes = ", ".join(sorted(needed | others)) or tower.main_input_name
        raise ValueError(f"{shown} takes {takes}, but this tower gets only {wanted}: use another model type")
    if not hasattr(config, "hidden_size") and not hasattr(config, "hidden_sizes"):
        raise ValueError(f"{shown} has no `hidden_size`, the width of its tokens: use another tower")


def drop_idle_parameters(vision_model: PreTrainedModel, text_model: PreTrainedModel, joint: bool = False) -> None:
    """Removes parameters on which no token, or with `joint` no embedding, depends, in place.

    DDP would wait for their gradients.
    """
    if hasattr(text_model, "head") and not joint:
        text_model.head = nn.Identity()
    for name, parameter in list(vision_model.named_parameters()):
        owner, _, attribute = name.rpartition(".")
        if attribute == "mask_token":  # of DINOv2's pretraining; a buffer is still saved
            module = vision_model.get_submodule(owner)
            del module.mask_token
            module.register_buffer("mask_token", parameter.detach())


def tower_width(config: PreTrainedConfig) -> int:
    """Returns the width of a tower's tokens: that of the last stage, if stages differ."""
    return config.hidden_sizes[-1] if hasattr(config, "hidden_sizes") else config.hidden_size


def takes_one_size(vision_model: PreTrainedModel) -> bool:
    """Returns whether the tower needs interpolated position embeddings for another image size than its own."""
    return "interpolate_pos_encoding" in inspect.signature(vision_model.forward).parameters


def run_vision_tower(
    vision_model: PreTrainedModel, pixel_values: Tensor, one_size: bool, interpolate: bool, **kwargs: Any
) -> tuple[Tensor, BaseModelOutput]:
    """Runs a vision tower on images [B, 3, H, W].

    Args:
        one_size: see `takes_one_size`.
        interpolate: interpolates the position embeddings of such a tower.
        **kwargs: of the tower.

    Returns:
        the tokens after the final norm, [B, L, width], and the tower's whole output.

    Raises:
        ValueError: the tower does not support the image size.
    """
    check_image_size(pixel_values, vision_model.config, one_size and not interpolate)
    if one_size and interpolate and _has_other_size(pixel_values, vision_model.config):
        kwargs["interpolate_pos_encoding"] = True
    pixel_values = pixel_values.to(vision_model.dtype)
    if hasattr(vision_model.config, "hidden_sizes"):  # convolutions are faster with the channels last
        pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
    output = vision_model(pixel_values=pixel_values, **kwargs)
    tokens = output.last_hidden_state  # [B, L, width], or a feature map [B, width, h, w]
    if tokens.ndim == 4:
        tokens = tokens.flatten(2).transpose(1, 2)  # [B, h * w, width]
    norm = _NORM_OF_POOLED_VECTOR.get(vision_model.config.model_type)
    return tokens if norm is None else vision_model.get_submodule(norm)(tokens), output


def check_image_size(pixel_values: Tensor, config: PreTrainedConfig, one_size: bool) -> None:
    """Checks that the tower supports the size of images [B, 3, H, W].

    Raises:
        ValueError: H or W is not a multiple of the patch size, or with `one_size` not the tower's image size.
    """
    height, width = pixel_values.shape[-2:]
    patch = _pair(getattr(config, "patch_size", None))
    if patch is not None and (height % patch[0] or width % patch[1]):
        raise ValueError(
            f"images are {height}x{width}, but the vision tower has patches of {patch[0]}x{patch[1]}: "
            "height and width must be multiples of them"
        )
    expected = _pair(getattr(config, "image_size", None))
    # Compares numbers, since torch.compile with dynamic shapes treats two pairs of sizes as unequal.
    if one_size and expected is not None and (expected[0] != height or expected[1] != width):
        raise ValueError(
            f"images are {height}x{width}, but the vision tower takes {expected[0]}x{expected[1]}: resize them, or "
            "set interpolate_pos_encoding=True in the config"
        )


def _has_other_size(pixel_values: Tensor, config: PreTrainedConfig) -> bool:
    """Returns whether position embeddings must be interpolated; raises ValueError if transformers cannot do it."""
    own, size = _pair(getattr(config, "image_size", None)), tuple(pixel_values.shape[-2:])
    if own is None or (own[0] == size[0] and own[1] == size[1]):
        return False
    if own[0] != own[1] and config.model_type != "clip_vision_model":
        raise ValueError(
            f"images are {size[0]}x{size[1]}, but the vision tower has positions for {own[0]}x{own[1]}, which can be "
            "interpolated only for a square or for a CLIP tower: resize the images"
        )
    return True


def longest_text(text_model: PreTrainedModel) -> int | None:
    """Returns the maximum number of tokens of a text; None if the tower has no limit."""
    limit = getattr(text_model.config, "max_position_embeddings", None)
    for name, module in text_model.named_modules():
        if limit is not None and name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            limit -= 0 if module.padding_idx is None else module.padding_idx + 1  # RoBERTa numbers positions from there
    return limit


def run_text_tower(
    text_model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor | None, limit: int | None, **kwargs: Any
) -> BaseModelOutput:
    """Runs a text tower on texts [B, T]; raises ValueError if T exceeds `limit`, the value of `longest_text`.

    `pooler_output` of the result is the vector that a dual encoder projects into its joint space, [B, width].
    """
    length = input_ids.shape[1]
    if limit is not None and length > limit:
        raise ValueError(
            f"texts are {length} tokens long, but the text tower takes {limit}: truncate them, as the processor does "
            f"if its tokenizer has model_max_length={limit}"
        )
    output = text_model(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
    if text_model.config.model_type in _POOLED_AT_FIRST_TOKEN:
        output.pooler_output = output.last_hidden_state[:, 0]
    return output


def split_by_length(lengths: Tensor) -> list[int]:
    """Divides texts in the order of their lengths [N] into at most four groups, to have few padding tokens.

    A group is padded to its last length. Each of two rounds divides a group where that saves most tokens, if it saves
    at least a sixteenth of them. Returns the sizes of the groups.
    """
    bounds = [0, len(lengths)]
    for _ in range(2 if len(lengths) else 0):
        for start, end in list(pairwise(bounds)):
            own = lengths[start:end]
            saved = torch.arange(1, len(own) + 1, device=own.device) * (own[-1] - own)  # [n], if own[i] ends a group
            last = int(saved.argmax())
            if 16 * int(saved[last]) >= len(own) * int(own[-1]) > 0:
                bounds.append(start + last + 1)
        bounds.sort()
    return [end - start for start, end in pairwise(bounds)]


def _tower_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    if config.model_type in _NOT_IN_AUTO_MODEL:
        return getattr(transformers, _NOT_IN_AUTO_MODEL[config.model_type])
    if config.model_type == "clip_vision_model" and not isinstance(config.image_size, int):
        return GridVisionModel
    found = AutoModel._model_mapping[type(config)]
    return cast(type[PreTrainedModel], found[0] if isinstance(found, tuple) else found)


def _without_pooler(config: PreTrainedConfig, joint: bool = False) -> dict[str, Any]:
    """Returns the constructor arguments that omit a tower's pooling head, unless the joint space needs it."""
    if config.model_type == "siglip_vision_model":
        config.vision_use_head = joint
    takes_argument = "add_pooling_layer" in inspect.signature(_tower_class(config).__init__).parameters
    return {"add_pooling_layer": False} if takes_argument else {}


def _pair(size: int | list[int] | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    return (size, size) if isinstance(size, int) else (size[0], size[1])
