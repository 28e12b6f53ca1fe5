"""The pretrained towers BDAM stands on (section 3.1 of the paper): building, loading, and what each kind needs."""

import inspect
from typing import Any, cast

import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from .clip_grid_bdam import GridVisionModel

_NOT_IN_AUTO_MODEL = {"siglip_text_model": "SiglipTextModel", "siglip2_text_model": "Siglip2TextModel"}

# Towers whose last norm is applied to one pooled vector alone: here every token goes through it.
_NORM_OF_POOLED_VECTOR = {"clip_vision_model": "post_layernorm", "convnext": "layernorm", "convnextv2": "layernorm"}


def build_tower(config: PreTrainedConfig) -> PreTrainedModel:
    """A tower of this configuration with new weights."""
    return _tower_class(config)._from_config(config, **_without_pooler(config))


def load_tower(name_or_path: str, half: str) -> PreTrainedModel:
    """A pretrained tower; of a model with both, the half named `vision_config` or `text_config`."""
    config = AutoConfig.from_pretrained(name_or_path)
    config = getattr(config, half, config)
    return _tower_class(config).from_pretrained(name_or_path, config=config, **_without_pooler(config))


def drop_idle_parameters(vision_model: PreTrainedModel, text_model: PreTrainedModel) -> None:
    """Leaves no parameter that no token depends on, in place: DDP waits for the gradient of each."""
    if text_model.config.model_type in _NOT_IN_AUTO_MODEL:
        text_model.head = nn.Identity()
    for name, parameter in list(vision_model.named_parameters()):
        owner, _, attribute = name.rpartition(".")
        if attribute == "mask_token":  # of DINOv2's and its kin's own pretraining; a buffer, so that it is kept
            module = vision_model.get_submodule(owner)
            del module.mask_token
            module.register_buffer("mask_token", parameter.detach())


def tower_width(config: PreTrainedConfig) -> int:
    """Width of a tower's tokens; that of its last stage where each stage has its own."""
    return config.hidden_sizes[-1] if hasattr(config, "hidden_sizes") else config.hidden_size


def takes_one_size(vision_model: PreTrainedModel) -> bool:
    """Whether the tower takes its own image size alone, unless told to interpolate its position embeddings."""
    return "interpolate_pos_encoding" in inspect.signature(vision_model.forward).parameters


def vision_tokens(vision_model: PreTrainedModel, output: BaseModelOutput) -> Tensor:
    """The tokens [B, L, width] of a tower's output, a feature map [B, width, h, w] included, through its last norm."""
    tokens = cast(Tensor, output.last_hidden_state)
    if tokens.ndim == 4:
        tokens = tokens.flatten(2).transpose(1, 2)
    norm = _NORM_OF_POOLED_VECTOR.get(vision_model.config.model_type)
    return tokens if norm is None else vision_model.get_submodule(norm)(tokens)


def check_image_size(pixel_values: Tensor, config: PreTrainedConfig, one_size: bool) -> None:
    """Refuses images [B, 3, H, W] of a size that the tower cannot take.

    Raises:
        ValueError: H or W is no multiple of the patch, or with `one_size` is another one than the tower's.
    """
    height, width = pixel_values.shape[-2:]
    patch = _pair(getattr(config, "patch_size", None))
    if patch is not None and (height % patch[0] or width % patch[1]):
        raise ValueError(
            f"images are {height}x{width}, but the vision tower cuts patches of {patch[0]}x{patch[1]}: "
            "height and width must be multiples of them"
        )
    expected = _pair(getattr(config, "image_size", None))
    # Number by number: compiled for dynamic shapes, a pair of them equals no other pair.
    if one_size and expected is not None and (expected[0] != height or expected[1] != width):
        raise ValueError(
            f"images are {height}x{width}, but the vision tower takes {expected[0]}x{expected[1]}: resize them, or "
            "set interpolate_pos_encoding=True in the config"
        )


def interpolates(pixel_values: Tensor, vision_model: PreTrainedModel) -> bool:
    """Whether images [B, 3, H, W] have another size than the tower has positions for.

    Raises:
        ValueError: they have, and the tower's own grid is no square, which transformers cannot interpolate.
    """
    own, size = _pair(getattr(vision_model.config, "image_size", None)), tuple(pixel_values.shape[-2:])
    if own is None or (own[0] == size[0] and own[1] == size[1]):
        return False
    if own[0] != own[1] and vision_model.config.model_type != "clip_vision_model":
        raise ValueError(
            f"images are {size[0]}x{size[1]}, but the vision tower has positions for {own[0]}x{own[1]}, which can be "
            "interpolated for a square or for a CLIP tower alone: resize the images"
        )
    return True


def longest_text(text_model: PreTrainedModel) -> int | None:
    """How many tokens a text may have; None where the tower sets no limit.

    RoBERTa and its kin number positions from behind the padding's, so that fewer are left for tokens.
    """
    limit = getattr(text_model.config, "max_position_embeddings", None)
    for name, module in text_model.named_modules():
        if limit is not None and name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            limit -= 0 if module.padding_idx is None else module.padding_idx + 1
    return limit


def check_text_length(input_ids: Tensor, limit: int | None) -> None:
    """Refuses texts [B, T] that have more tokens than `longest_text`.

    Raises:
        ValueError: naming both lengths.
    """
    length = input_ids.shape[1]
    if limit is not None and length > limit:
        raise ValueError(
            f"texts are {length} tokens long, but the text tower takes {limit}: truncate them, as the processor does "
            f"once its tokenizer has model_max_length={limit}"
        )


def _tower_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    if config.model_type in _NOT_IN_AUTO_MODEL:
        return getattr(transformers, _NOT_IN_AUTO_MODEL[config.model_type])
    if config.model_type == "clip_vision_model" and not isinstance(config.image_size, int):
        return GridVisionModel
    return cast(type[PreTrainedModel], AutoModel._model_mapping[type(config)])


def _without_pooler(config: PreTrainedConfig) -> dict[str, Any]:
    """Arguments that leave out a tower's pooling head, which nothing here uses."""
    if config.model_type == "siglip_vision_model":
        config.vision_use_head = False
    takes_argument = "add_pooling_layer" in inspect.signature(_tower_class(config).__init__).parameters
    return {"add_pooling_layer": False} if takes_argument else {}


def _pair(size: int | list[int] | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    return (size, size) if isinstance(size, int) else (size[0], size[1])
