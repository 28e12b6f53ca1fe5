"""Builds the model and processor of a run, and chooses which of its weights are trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast, ViTImageProcessorPil

from ..configuration_bdam import BDAMConfig
from ..modeling_bdam import BDAMModel
from ..processing_bdam import BDAMProcessor
from ..towers_bdam import check_image_size
from .run_arguments import DataArguments, ModelArguments
from .tower_training import WHOLE_TOWER, add_lora, freeze_layers


def build_model(
    model_args: ModelArguments,
    data_args: DataArguments,
    model_fields: dict[str, Any],
    new_tokenizer: Callable[[int, int], PreTrainedTokenizerFast],
) -> tuple[BDAMModel, BDAMProcessor]:
    """Builds the model and its processor: from a checkpoint, from pretrained towers, or with new towers.

    Args:
        model_args, data_args: the arguments of the run.
        model_fields: fields of the config.
        new_tokenizer: called as `new_tokenizer(vocab_size, max_text_length)` if the text tower is new.

    Raises:
        ValueError: unknown or inconsistent fields of the config, or an image size that does not fit the vision tower.
        OSError: a checkpoint or tower cannot be read.
    """
    if model_args.model_name_or_path is not None:
        name = model_args.model_name_or_path
        if not Path(name).is_dir() and (name.count("/") != 1 or name.startswith((".", "/", "~"))):
            raise ValueError(f"--model_name_or_path {name}: no such folder, and not of the form owner/name of the Hub")
        kernels = {"attn_implementation": model_args.attn_implementation} if model_args.attn_implementation else {}
        return BDAMModel.from_pretrained(name, **kernels), BDAMProcessor.from_pretrained(name)

    # Image processor
    size = {"height": data_args.image_height, "width": data_args.image_width}
    image_processor = ViTImageProcessorPil(size=size, image_mean=data_args.image_mean, image_std=data_args.image_std)

    # Model and tokenizer, from pretrained towers or new
    vision, text = model_args.vision_model_name_or_path, model_args.text_model_name_or_path
    if (vision is None) != (text is None):
        raise ValueError("--vision_model_name_or_path and --text_model_name_or_path go together: give both or neither")
    if vision is not None and text is not None:
        model = BDAMModel.from_vision_text_pretrained(vision, text, **model_fields)
        tokenizer = AutoTokenizer.from_pretrained(text)
    else:
        tokenizer = new_tokenizer(data_args.vocab_size, data_args.max_text_length)
        text_config = model_fields.get("text_config", {}) | {
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.cls_token_id,
            "eos_token_id": tokenizer.sep_token_id,
        }
        model = BDAMModel(BDAMConfig(**{**model_fields, "text_config": text_config}))

    # Limits of the towers
    limit = getattr(model.config.text_config, "max_position_embeddings", data_args.max_text_length)
    tokenizer.model_max_length = min(data_args.max_text_length, limit)
    if model_args.attn_implementation is not None:
        model.set_attn_implementation(model_args.attn_implementation)
    one_size = model.vision_takes_one_size and not model.config.interpolate_pos_encoding
    check_image_size(torch.empty(0, 3, *size.values()), model.vision_model.config, one_size)
    return model, BDAMProcessor(image_processor, tokenizer)


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
