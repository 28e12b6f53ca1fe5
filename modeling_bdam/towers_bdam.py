"""The pretrained vision and text towers (paper, section 3.1): creates and runs each supported type."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, CLIPModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import logging

from .clip_grid_bdam import GridVisionModel

logger = logging.get_logger(__name__)

JOINT_SPACE_FILE = "joint_space.safetensors"
_NOT_IN_AUTO_MODEL = {"siglip_text_model": "SiglipTextModel", "siglip2_text_model": "Siglip2TextModel"}

# The final norm of towers that apply it only to their pooled vector; it is applied to each token here.
_NORM_OF_POOLED_VECTOR = {"clip_vision_model": "post_layernorm", "convnext": "layernorm", "convnextv2": "layernorm"}

# Flags of transformers' classes by the kind of attention implementation
_ATTENTION_FLAGS = {"sdpa": "_supports_sdpa", "flash": "_supports_flash_attn", "flex": "_supports_flex_attn"}


def supported_attention(model_class: type[PreTrainedModel], wanted: str | None) -> str | None:
    """Returns an attention implementation if the class supports it, else None (the default) after one warning."""
    for kind, flag in _ATTENTION_FLAGS.items():
        if wanted is not None and kind in wanted and not getattr(model_class, flag):
            logger.warning_once(f"{model_class.__name__} does not support attention by {wanted} and uses its default")
            return None
    return wanted


def build_tower(config: PreTrainedConfig) -> PreTrainedModel:
    """Creates a tower with new weights."""
    config._attn_implementation = supported_attention(_tower_class(config), config._attn_implementation)
    return _tower_class(config)._from_config(config, **_without_pooler(config))


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
    options = {"config": config, "output_loading_info": True, **_without_pooler(config)}
    tower, report = cast(Any, _tower_class(config)).from_pretrained(name_or_path, **options)
    missing = len(report["missing_keys"])
    if 2 * missing > len(tower.state_dict()):
        raise ValueError(f"{half}: {name_or_path} lacks {missing} weights of `{config.model_type}`: use another tower")
    return tower


@dataclass
class JointSpace:
    """The joint space of a pretrained model of images and texts.

    Attributes:
        visual_projection, textual_projection: weights, [P, width of the tower].
        logit_scale: logarithm of 1/τ.
    """

    visual_projection: Tensor
    textual_projection: Tensor
    logit_scale: float


def save_joint_space(joint: JointSpace, folder: Path) -> None:
    """Writes a joint space beside the folders of two towers, for `load_joint_space`."""
    tensors = vars(joint) | {"logit_scale": torch.tensor(joint.logit_scale)}
    save_file(tensors, folder / JOINT_SPACE_FILE)


def load_joint_space(vision: str, text: str) -> JointSpace | None:
    """Loads the joint space of a CLIP model if both names are that model, or the one saved beside both, else None."""
    file = Path(vision).parent / JOINT_SPACE_FILE
    if Path(text).parent == Path(vision).parent and vision != text and file.is_file():
        tensors = load_file(file)
        scale = float(tensors.pop("logit_scale"))
        return JointSpace(**tensors, logit_scale=scale)
    if vision != text or AutoConfig.from_pretrained(vision).model_type != "clip":
        return None
    model = CLIPModel.from_pretrained(vision)
    weights = model.visual_projection.weight.detach(), model.text_projection.weight.detach()
    return JointSpace(*weights, float(model.logit_scale.detach()))


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
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"{shown} is an encoder-decoder: a tower is an encoder, such as `vit` or `bert`")
    try:
        tower = _tower_class(config)
    except KeyError:
        raise ValueError(f"{shown} has no class in AutoModel: use another tower") from None
    inputs = inspect.signature(tower.forward).parameters
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


def drop_idle_parameters(vision_model: PreTrainedModel, text_model: PreTrainedModel) -> None:
    """Removes parameters on which no token depends, in place: DDP would wait for their gradients."""
    if text_model.config.model_type in _NOT_IN_AUTO_MODEL:
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
    output = vision_model(pixel_values=pixel_values.to(vision_model.dtype), **kwargs)
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
    """Runs a text tower on texts [B, T]; raises ValueError if T exceeds `limit`, the value of `longest_text`."""
    length = input_ids.shape[1]
    if limit is not None and length > limit:
        raise ValueError(
            f"texts are {length} tokens long, but the text tower takes {limit}: truncate them, as the processor does "
            f"if its tokenizer has model_max_length={limit}"
        )
    return text_model(input_ids=input_ids, attention_mask=attention_mask, **kwargs)


def _tower_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    if config.model_type in _NOT_IN_AUTO_MODEL:
        return getattr(transformers, _NOT_IN_AUTO_MODEL[config.model_type])
    if config.model_type == "clip_vision_model" and not isinstance(config.image_size, int):
        return GridVisionModel
    found = AutoModel._model_mapping[type(config)]
    return cast(type[PreTrainedModel], found[0] if isinstance(found, tuple) else found)


def _without_pooler(config: PreTrainedConfig) -> dict[str, Any]:
    """Returns the constructor arguments that omit a tower's unused pooling head."""
    if config.model_type == "siglip_vision_model":
        config.vision_use_head = False
    takes_argument = "add_pooling_layer" in inspect.signature(_tower_class(config).__init__).parameters
    return {"add_pooling_layer": False} if takes_argument else {}


def _pair(size: int | list[int] | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    return (size, size) if isinstance(size, int) else (size[0], size[1])
