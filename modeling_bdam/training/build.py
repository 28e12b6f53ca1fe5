"""Builds the model and processor of a run, and chooses which of its weights are trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerFast, ViTImageProcessorPil
from transformers.utils import logging

from ..configuration_bdam import BDAMConfig
from ..modeling_bdam import BDAMModel
from ..processing_bdam import BDAMProcessor, tower_image_processor
from ..towers_bdam import build_tower, check_image_size, longest_text
from .run_arguments import TOWERS, DataArguments, ModelArguments, apply_overrides
from .text_positions import stretch_text_positions
from .tower_training import WHOLE_TOWER, add_lora, freeze_layers

logger = logging.get_logger(__name__)


def build_model(
    model_args: ModelArguments,
    data_args: DataArguments,
    model_fields: dict[str, Any],
    new_tokenizer: Callable[[int, int], PreTrainedTokenizerFast],
) -> tuple[BDAMModel, BDAMProcessor]:
    """Builds the model and its processor: from a checkpoint, from pretrained towers, or with new towers.

    Args:
        model_args, data_args: the arguments of the run.
        model_fields: fields of the config, of a checkpoint only those to change.
        new_tokenizer: called as `new_tokenizer(vocab_size, max_text_length)` if the text tower is new.

    Raises:
        ValueError: unknown or inconsistent fields of the config, or an image size or text length that does not fit the
            towers.
        OSError: a checkpoint or tower cannot be read.
    """
    checkpoint, given = model_args.model_name_or_path, model_args.given
    vision, text = model_args.vision_model_name_or_path, model_args.text_model_name_or_path
    own = set() if (checkpoint or text) is None else {"vocab_size"}
    own |= set() if checkpoint is None else {"vision_model_name_or_path", "text_model_name_or_path"}
    if unused := sorted(own & given):
        raise ValueError(f"--{unused[0]} has no effect on the pretrained model {checkpoint or text}: leave it out")
    if data_args.max_text_length < 3:
        raise ValueError(f"--max_text_length {data_args.max_text_length}: a word and its two marks need 3 tokens")

    # Model, image processor and tokenizer: of a checkpoint, of pretrained towers, or new
    size = {"height": data_args.image_height, "width": data_args.image_width}
    image_processor: Any = ViTImageProcessorPil(
        size=size, image_mean=data_args.image_mean, image_std=data_args.image_std
    )
    if checkpoint is not None:
        model = _load_checkpoint(checkpoint, model_args, model_fields)
        processor = BDAMProcessor.from_pretrained(checkpoint)
        image_processor, tokenizer = processor.image_processor, processor.tokenizer
        size = _give_settings(image_processor, data_args, given)
    elif (vision is None) != (text is None):
        raise ValueError("--vision_model_name_or_path and --text_model_name_or_path go together: give both or neither")
    elif vision is not None and text is not None:
        if towers := TOWERS & model_fields.keys():
            raise ValueError(f"{min(towers)} is of new towers, but {vision} and {text} are pretrained: leave out one")
        model = BDAMModel.from_vision_text_pretrained(vision, text, **model_fields)
        processor = BDAMProcessor.from_towers(vision, text)
        tokenizer = processor.tokenizer
        if tower_image_processor(vision) is not None:
            image_processor = processor.image_processor
            if not model.vision_takes_one_size or model.config.interpolate_pos_encoding:
                image_processor.size = size
            size = _give_settings(image_processor, data_args, given)
    else:
        tokenizer = new_tokenizer(data_args.vocab_size, data_args.max_text_length)
        text_config = model_fields.get("text_config", {}) | {
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.cls_token_id,
            "eos_token_id": tokenizer.sep_token_id,
        }
        config = BDAMConfig(**{**model_fields, "text_config": text_config})
        if "max_text_length" in given and "max_position_embeddings" not in (model_args.config_overrides or ""):
            assert isinstance(config.text_config, PreTrainedConfig)
            _add_positions(config.text_config, data_args.max_text_length)
        model = BDAMModel(config)

    # Limits of the towers
    if checkpoint is None or "max_text_length" in given:
        limit = longest_text(model.text_model) or data_args.max_text_length
        if data_args.max_text_length > limit:
            problem = f"max_text_length {data_args.max_text_length}: the text tower takes at most {limit} tokens"
            if "max_text_length" not in given:
                logger.warning(f"{problem}, longer texts are truncated")
            elif text is None:
                raise ValueError(f"--{problem}; lower it, or use another text tower")
            else:
                stretch_text_positions(model.text_model, data_args.max_text_length)
                model.longest_text = limit = data_args.max_text_length
        tokenizer.model_max_length = min(data_args.max_text_length, limit)
    if checkpoint is None and model_args.attn_implementation is not None:
        model.set_attn_implementation(model_args.attn_implementation)
    if checkpoint is None or {"image_height", "image_width"} & given:
        one_size = model.vision_takes_one_size and not model.config.interpolate_pos_encoding
        check_image_size(torch.empty(0, 3, *size.values()), model.vision_model.config, one_size)
    return model, BDAMProcessor(image_processor, tokenizer)


def _load_checkpoint(name: str, model_args: ModelArguments, model_fields: dict[str, Any]) -> BDAMModel:
    """Loads a checkpoint with changed fields of its config, such as `clothing_weight`; see `build_model`."""
    if not Path(name).is_dir() and (name.count("/") != 1 or name.startswith((".", "/", "~"))):
        raise ValueError(f"--model_name_or_path {name}: no such folder, and not of the form owner/name of the Hub")
    kernels = {"attn_implementation": model_args.attn_implementation} if model_args.attn_implementation else {}
    if not model_fields and not model_args.config_overrides:
        return BDAMModel.from_pretrained(name, **kernels)
    saved = BDAMConfig.from_pretrained(name)
    fields = saved.to_dict()
    fields |= {key: fields[key] | value if key in TOWERS else value for key, value in model_fields.items()}
    apply_overrides(fields, model_args.config_overrides)
    config = BDAMConfig.from_dict(fields)
    with torch.device("meta"):
        shapes = [{key: value.shape for key, value in BDAMModel(c).state_dict().items()} for c in (saved, config)]
    if shapes[0] != shapes[1]:
        changed = model_args.config_overrides or ", ".join(model_fields)
        raise ValueError(f"{changed} changes the weights of {name}: override only fields such as clothing_weight")
    return BDAMModel.from_pretrained(name, config=config, **kernels)


def _give_settings(image_processor: Any, data_args: DataArguments, given: set[str]) -> dict[str, int]:
    """Sets those of size, mean and deviation of an image processor that are flags; returns the size."""
    size = dict(image_processor.size)
    for side in ("height", "width"):
        if f"image_{side}" in given or size.get(side) is None:
            size[side] = getattr(data_args, f"image_{side}")
    if {"image_height", "image_width"} & given:
        image_processor.size = size
    for name in {"image_mean", "image_std"} & given:
        setattr(image_processor, name, getattr(data_args, name))
    return {side: size[side] for side in ("height", "width")}


def _add_positions(config: PreTrainedConfig, length: int) -> None:
    """Sets `max_position_embeddings` of a new text tower so that it takes texts of `length` tokens."""
    with torch.device("meta"):
        limit = longest_text(build_tower(config))
    if limit is not None and limit < length:
        config.max_position_embeddings += length - limit


def choose_trained_weights(model: BDAMModel, model_args: ModelArguments) -> None:
    """Freezes layers of the towers and adds LoRA, by `frozen_vision_layers`, `frozen_text_layers` and `lora_rank`.

    Raises:
        ValueError: a tower has fewer layers, or peft is not installed.
    """
    for tower, frozen_layers in (
        (model.vision_model, model_args.frozen_vision_layers),
        (model.text_model, model_args.frozen_text_layers),
    ):
        if model_args.lora_rank > 0 and frozen_layers != WHOLE_TOWER:
            add_lora(tower, model_args.lora_rank, model_args.lora_alpha)
        freeze_layers(tower, frozen_layers)


__all__ = ["build_model", "choose_trained_weights"]
