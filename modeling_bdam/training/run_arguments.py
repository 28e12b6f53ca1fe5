# ruff: noqa: RUF009  # `flag` returns dataclasses.field
"""Arguments of `run_t2i_reid.py`: flags, preset files, and overrides of config fields."""

import json
import sys
from argparse import SUPPRESS, ArgumentError, ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import CONFIG_MAPPING, HfArgumentParser, PreTrainedConfig

from ..configuration_bdam import BDAMConfig
from ..evaluation.table import METRICS, PROTOCOLS
from ..files import cpu_has_bfloat16, did_you_mean
from .precedence import yield_to_flags
from .training_args import DUAL_ENCODER_FIELDS, DUAL_ENCODER_OBJECTIVES, BDAMTrainingArguments, flag

SECTIONS = ("model", "data", "training")
TOWERS = {"vision_config", "text_config"}
_OF_TOKENIZER = {f"text_config.{name}" for name in ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")}


@dataclass
class ModelArguments:
    """The model that is trained or evaluated."""

    config: str = flag("tiny", "A preset (tiny, paper, clip) or a JSON file with the sections model, data, training.")
    model_name_or_path: str | None = flag(
        None, "BDAM checkpoint (folder or Hub id) to start from, instead of a new model."
    )
    vision_model_name_or_path: str | None = flag(None, "Pretrained vision tower of a new model (folder or Hub id).")
    text_model_name_or_path: str | None = flag(None, "Pretrained text tower of a new model, and its tokenizer.")
    config_overrides: str | None = flag(
        None, "Fields of the model's config, with JSON values: 'num_bdam_layers=3,vision_config.depths=[1,1,2]'."
    )
    attn_implementation: str | None = flag(
        None, "Attention kernels: sdpa (by default), eager (quicker for short texts on a CPU), flash_attention_2."
    )
    frozen_vision_layers: int = flag(
        0, "Freeze the embeddings and this many layers of the vision tower in training; -1: all of it."
    )
    frozen_text_layers: int = flag(0, "Same for the text tower.")
    lora_rank: int = flag(0, "Train the towers by LoRA of this rank with their own weights frozen; 0: no LoRA.")
    lora_alpha: int = flag(16, "LoRA is scaled by lora_alpha / lora_rank.")
    compare_plain: bool = flag(False, "Also train a plain dual encoder with the same towers, and show its results.")
    compare_by: Literal["time", "steps"] = flag(
        "time", "Train the plain dual encoder as long as the model, by measured time, or for as many steps."
    )
    choose_clothing_weight: bool = flag(
        True, "Choose β after training by mAP on the validation split, and store it in the config."
    )
    given: set[str] = field(default_factory=set, init=False)  # flags of the command line, of all sections


@dataclass
class DataArguments:
    """The data sets, and the conversion of their rows to tensors."""

    dataset_name: list[str] = flag(
        ["synthetic"],
        "Data sets to train on, and to evaluate on: synthetic, synthetic-station, one that `bdam data list` names, "
        "folder (your own), parquet, hub:REPO. Several are trained on together, with disjoint identities.",
    )
    data_dir: list[str] = flag([], "Folder of each data set of --dataset_name, in the same order; `-` for none.")
    descriptions: list[str] = flag(
        [], "Descriptions file (JSON Lines) of each data set, in the same order; `-` for none."
    )
    outfits: list[str] = flag(
        [], "Outfits file ({file_path: outfit}) of each data set, in the same order; `-` for none."
    )
    split_file: list[str] = flag(
        [],
        "A JSON file {train: [ids], val: [ids], test: [ids]} of each data set, in the same order, for an annotation "
        "file without splits; `-` for none.",
    )
    eval_dataset_name: list[str] = flag(
        [], "Data sets to evaluate on their test splits, instead of those of --dataset_name."
    )
    eval_data_dir: list[str] = flag([], "--data_dir for --eval_dataset_name.")
    eval_descriptions: list[str] = flag([], "--descriptions for --eval_dataset_name.")
    eval_outfits: list[str] = flag([], "--outfits for --eval_dataset_name.")
    eval_split_file: list[str] = flag([], "--split_file for --eval_dataset_name.")
    exclude: list[str] = flag([], "Patterns of image paths to leave out, such as 'night/*'.")
    follow_links: bool = flag(False, "Read symbolic links that lead out of a data folder, such as a Hub snapshot.")
    skip_unreadable: bool = flag(False, "Skip images that are missing or unreadable, instead of raising an error.")
    val_people: int | None = flag(
        None, "Identities of train to hold out for validation where a data set has no validation split."
    )
    synthetic_people: int = flag(2500, "Training people of the synthetic data set.")
    synthetic_val_people: int = flag(60, "People of its validation split.")
    synthetic_test_people: int = flag(120, "People of its test split.")
    cache_dir: str | None = flag(None, "Cache folder of `datasets`.")
    image_height: int = flag(128, "Height that images are resized to, in pixels.")
    image_width: int = flag(64, "Width that images are resized to, in pixels.")
    image_mean: list[float] = flag([0.5, 0.5, 0.5], "Mean of red, green, blue in [0, 1].")
    image_std: list[float] = flag([0.5, 0.5, 0.5], "Standard deviation of red, green, blue in [0, 1].")
    max_text_length: int = flag(77, "Maximum number of tokens; longer texts are truncated.")
    vocab_size: int = flag(4096, "Size of a tokenizer that is trained on the captions.")
    flip_probability: float = flag(0.5, "Probability of a horizontal flip.")
    crop_probability: float = flag(0.5, "Probability of padding and a random crop.")
    erase_probability: float = flag(0.3, "Probability of erasing a random rectangle.")
    plain_texts: Literal["captions", "all"] = flag(
        "all",
        "Texts of a baseline (--objective): 'all' draws one of an image's captions and its two descriptions joined.",
    )
    train_unit: Literal["image", "caption"] = flag(
        "image",
        "What an epoch counts: each image once with one of its captions, or each pair of an image and a caption once.",
    )
    word_mask_probability: float = flag(0.1, "Share of a caption's words masked.")


def parse_arguments(
    argv: Sequence[str] | None = None,
) -> tuple[ModelArguments, DataArguments, BDAMTrainingArguments, dict[str, Any]]:
    """Parses the command line with defaults from the preset or file of `--config`.

    Flags win over contradicting settings of the preset, see `yield_to_flags`.

    Returns:
        the arguments, and the config fields: of a new model, or the changed ones of a checkpoint.

    Raises:
        ValueError: an unknown preset, section, field or flag, with the nearest name, an invalid value, or flags that
            contradict each other.
        SystemExit: `--help`.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    sections: Any = [ModelArguments, DataArguments, BDAMTrainingArguments]
    parser = HfArgumentParser(sections, description=__doc__, exit_on_error=False)
    preset = read_preset(_config_name(argv))
    typed = _typed_flags(sections, argv)
    yield_to_flags(preset["training"], typed)
    model_fields = dict(preset["model"])
    of_checkpoint = "model_name_or_path" in model_fields  # then the fields of the file are changes of its config
    towers = {name: model_fields.pop(name) for name in _names(ModelArguments) if name in model_fields}
    parser.set_defaults(**towers, **preset["data"], **preset["training"])
    if not torch.accelerator.is_available():
        parser.set_defaults(use_cpu=True, bf16=preset["training"].get("bf16", False) and cpu_has_bfloat16())
    try:
        model, data, training, unread = parser.parse_args_into_dataclasses(
            argv, look_for_args_file=False, return_remaining_strings=True
        )
    except ArgumentError as error:
        raise ValueError(str(error)) from None
    if unread:
        known_flags = {name for action in parser._actions for name in action.option_strings}
        _check_names("command line", {unread[0].partition("=")[0]: None}, known_flags, "argument")
        raise ValueError(f"command line: `{unread[0]}` belongs to no flag; see --help")
    in_training = PROTOCOLS.keys() - {"reranked_"}  # candidates are scored only after the training
    metrics = {prefix + name for prefix in in_training for name in METRICS}
    best = (training.metric_for_best_model or "mAP").removeprefix("eval_")
    _check_names("--metric_for_best_model", {best: None}, metrics, "metric")
    # transformers sets do_eval if there is an evaluation strategy, so the flags and the file decide
    chosen = preset["training"] | typed
    if not chosen.keys() & {"do_train", "do_eval"}:
        training.do_train, training.do_eval = model.model_name_or_path is None, True
    else:
        training.do_eval = chosen.get("do_eval", False)
    model.given = typed.keys() | ((preset["data"].keys() | towers.keys()) if of_checkpoint else set())
    if model.model_name_or_path is not None:
        return model, data, training, model_fields if of_checkpoint else {}
    if typed.keys() & {"vision_model_name_or_path", "text_model_name_or_path"}:  # replace the towers of the preset
        model_fields = {name: value for name, value in model_fields.items() if name not in TOWERS}
    if training.objective in DUAL_ENCODER_OBJECTIVES:
        model_fields |= DUAL_ENCODER_FIELDS
    apply_overrides(model_fields, model.config_overrides)
    return model, data, training, model_fields


def read_preset(name_or_path: str) -> dict[str, dict[str, Any]]:
    """Reads a preset by name or a JSON file, adds missing sections, and checks every field name.

    Raises:
        ValueError: see `parse_arguments`.
    """
    presets = {path.stem.removeprefix("preset_"): path for path in Path(__file__).parents[1].glob("preset_*.json")}
    path = presets.get(name_or_path, Path(name_or_path))
    if not path.is_file():
        raise ValueError(f"--config {name_or_path}: no such file; presets are {', '.join(sorted(presets))}")
    try:
        preset = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no valid JSON: {error}; correct the file") from None
    known = {
        "model": _names(BDAMConfig) | (_names(ModelArguments) - {"config", "config_overrides", "compare_plain"}),
        "data": _names(DataArguments),
        "training": _names(BDAMTrainingArguments),
    }
    if not isinstance(preset, dict) or not all(isinstance(section, dict) for section in preset.values()):
        raise ValueError(f"{path} is no object with the sections {', '.join(SECTIONS)}, each an object")
    _check_names(path.name, preset, set(SECTIONS))
    for section in SECTIONS:
        _check_names(f"{path.name}, section {section}", preset.setdefault(section, {}), known[section])
    for tower in TOWERS & preset["model"].keys():
        fields_given = preset["model"][tower]
        _check_names(f"{path.name}, {tower}", fields_given, _tower_names(tower, fields_given))
    return preset


def apply_overrides(model_fields: dict[str, Any], overrides: str | None) -> None:
    """Writes `key=value,…` into config fields, in place; a dotted key names a field of a tower.

    Values are JSON, or strings without quotes, brackets and commas.

    Raises:
        ValueError: an entry without `=`, a broken JSON value, or an unknown field, with the nearest name.
    """
    rest = (overrides or "").strip(", ")
    while rest:
        key, separator, rest = (part.strip() for part in rest.partition("="))
        if not separator or "," in key:
            raise ValueError(f"--config_overrides: '{key.partition(',')[0]}' is not key=value, such as dropout=0.1")
        value, rest = _first_value(key, rest)
        section, _, name = key.rpartition(".")
        if section:
            _check_names("--config_overrides", {section: None}, TOWERS)
            target = model_fields.setdefault(section, {})
            _check_names("--config_overrides", {name: None}, _tower_names(section, target))
        else:
            target = model_fields
            _check_names("--config_overrides", {name: None}, _names(BDAMConfig))
        changed = [key]
        if name in TOWERS:
            if not isinstance(value, dict):
                raise ValueError(f"--config_overrides: {key} is no JSON object; set one field as {key}.hidden_size=64")
            _check_names("--config_overrides", value, _tower_names(name, value))
            changed = [f"{key}.{field}" for field in value]
        if of_tokenizer := _OF_TOKENIZER.intersection(changed):
            raise ValueError(f"--config_overrides: {min(of_tokenizer)} follows from the tokenizer; see --vocab_size")
        target[name] = value


def _first_value(key: str, text: str) -> tuple[Any, str]:
    """Splits `value,key=value,…` into the first value and the rest."""
    try:
        value, end = json.JSONDecoder().raw_decode(text)
        if text[end:].lstrip()[:1] in ("", ","):
            return value, text[end:].strip(", ")
    except ValueError:
        pass
    if text[:1] in ("[", "{", '"'):
        raise ValueError(f"--config_overrides: {key}={text} is no valid JSON: check its quotes and brackets")
    string, _, rest = text.partition(",")
    return string.strip(), rest.strip(", ")


def _typed_flags(sections: Any, argv: Sequence[str]) -> dict[str, Any]:
    """Returns the values of the flags that the command line contains, also in an abbreviated form."""
    parser = HfArgumentParser(sections, add_help=False, exit_on_error=False)
    for action in parser._actions:
        action.default = SUPPRESS
    try:
        return vars(parser.parse_known_args(argv)[0])
    except ArgumentError as error:
        raise ValueError(str(error)) from None


def _config_name(argv: Sequence[str]) -> str:
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", nargs="?", default="tiny")
    return parser.parse_known_args(argv)[0].config or "tiny"


def _names(cls: type) -> set[str]:
    return {entry.name for entry in fields(cls) if entry.init} - (
        {"dtype"} if issubclass(cls, PreTrainedConfig) else set()
    )


def _tower_names(tower: str, given: dict[str, Any]) -> set[str]:
    """Returns the field names of a tower's config, including `model_type`.

    Raises:
        ValueError: transformers has no such `model_type`.
    """
    model_type = given.get("model_type", BDAMConfig.sub_configs_defaults[tower].model_type)
    _check_names(tower, {model_type: None}, set(CONFIG_MAPPING.keys()), "model_type")
    return _names(CONFIG_MAPPING[model_type]) | {"model_type"}


def _check_names(where: str, given: dict[str, Any], known: set[str], kind: str = "field") -> None:
    for name in given:
        if name not in known:
            raise ValueError(f"{where}: unknown {kind} `{name}`{did_you_mean(name, known)}")
