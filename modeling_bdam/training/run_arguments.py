"""Arguments of `run_t2i_reid.py`: flags, presets and files that hold them, and overrides of config fields."""

import difflib
import json
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, HfArgumentParser, PreTrainedConfig

from ..configuration_bdam import BDAMConfig
from .training_args import BDAMTrainingArguments

SECTIONS = ("model", "data", "training")
TOWERS = {"vision_config", "text_config"}


@dataclass
class ModelArguments:
    """What is trained or evaluated."""

    config: str = field(
        default="tiny",
        metadata={"help": "A preset (tiny, paper, clip) or a JSON file with the sections model, data, training."},
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Start from this BDAM checkpoint (folder or Hub id) instead of a new model."}
    )
    vision_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Pretrained vision tower of a new model (folder or Hub id)."}
    )
    text_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Pretrained text tower of a new model, and its tokenizer."}
    )
    config_overrides: str | None = field(
        default=None,
        metadata={"help": "Fields of a new model's config: 'num_bdam_layers=3,vision_config.hidden_size=96'."},
    )
    attn_implementation: str | None = field(
        default=None,
        metadata={
            "help": "Attention kernels: sdpa (by default), eager (quicker for short texts on a CPU), flash_attention_2."
        },
    )
    frozen_vision_layers: int = field(
        default=0,
        metadata={"help": "Freeze the embeddings and this many layers of the vision tower in training; -1: all of it."},
    )
    frozen_text_layers: int = field(default=0, metadata={"help": "The same of the text tower."})
    lora_rank: int = field(
        default=0, metadata={"help": "Train the towers by LoRA of this rank, their own weights frozen; 0: no LoRA."}
    )
    lora_alpha: int = field(default=16, metadata={"help": "LoRA is scaled by this over the rank."})
    compare_plain: bool = field(
        default=False, metadata={"help": "Train a plain dual encoder beside it, in as many steps, and show its row."}
    )


@dataclass
class DataArguments:
    """What it is trained and evaluated on, and how its rows become tensors."""

    dataset_name: list[str] = field(
        default_factory=lambda: ["synthetic"],
        metadata={
            "help": "Data sets to train on, and to evaluate on: synthetic, one that `bdam data list` names, folder "
            "(your own), parquet, hub:REPO. Several are trained on together, with disjoint identities."
        },
    )
    data_dir: list[str] = field(
        default_factory=list,
        metadata={
            "help": "The folder of each data set of --dataset_name, in their order; `-` for one that needs none."
        },
    )
    descriptions: list[str] = field(
        default_factory=list,
        metadata={"help": "The descriptions file (JSON lines) of each data set, in their order; `-` for none."},
    )
    outfits: list[str] = field(
        default_factory=list,
        metadata={"help": "The outfits file ({file_path: outfit}) of each data set, in their order; `-` for none."},
    )
    split_file: list[str] = field(
        default_factory=list,
        metadata={
            "help": "A JSON file {train: [ids], val: [ids], test: [ids]} of each data set, in their order, for an "
            "annotation file without splits; `-` for none."
        },
    )
    eval_dataset_name: list[str] = field(
        default_factory=list,
        metadata={"help": "Data sets to evaluate on instead: their test splits, none of them trained on."},
    )
    eval_data_dir: list[str] = field(default_factory=list, metadata={"help": "As --data_dir, of --eval_dataset_name."})
    eval_descriptions: list[str] = field(
        default_factory=list, metadata={"help": "As --descriptions, of --eval_dataset_name."}
    )
    eval_outfits: list[str] = field(default_factory=list, metadata={"help": "As --outfits, of --eval_dataset_name."})
    eval_split_file: list[str] = field(
        default_factory=list, metadata={"help": "As --split_file, of --eval_dataset_name."}
    )
    skip_unreadable: bool = field(
        default=False, metadata={"help": "Leave out images that are missing or unreadable, instead of stopping."}
    )
    val_people: int | None = field(
        default=None,
        metadata={"help": "Identities of train to hold out for validation where a data set has no validation split."},
    )
    synthetic_people: int = field(default=1000, metadata={"help": "People to train on in the synthetic data set."})
    synthetic_val_people: int = field(default=60, metadata={"help": "People of its validation split."})
    synthetic_test_people: int = field(default=120, metadata={"help": "People of its test split."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where `datasets` keeps what it prepared."})
    image_height: int = field(default=128, metadata={"help": "Height that images are resized to, in pixels."})
    image_width: int = field(default=64, metadata={"help": "Width that images are resized to, in pixels."})
    image_mean: list[float] = field(
        default_factory=lambda: [0.5, 0.5, 0.5], metadata={"help": "Mean of red, green, blue in [0, 1]."}
    )
    image_std: list[float] = field(
        default_factory=lambda: [0.5, 0.5, 0.5], metadata={"help": "Deviation of red, green, blue in [0, 1]."}
    )
    max_text_length: int = field(default=77, metadata={"help": "Tokens of a text; longer ones are truncated."})
    vocab_size: int = field(default=4096, metadata={"help": "Size of a tokenizer that is trained on the captions."})
    flip_probability: float = field(default=0.5, metadata={"help": "How often a training image is mirrored."})
    crop_probability: float = field(default=0.5, metadata={"help": "How often it is padded and cropped at random."})
    erase_probability: float = field(default=0.3, metadata={"help": "How often a rectangle of it is erased."})
    word_mask_probability: float = field(default=0.1, metadata={"help": "Share of a caption's words masked."})


def parse_arguments(
    argv: Sequence[str] | None = None,
) -> tuple[ModelArguments, DataArguments, BDAMTrainingArguments, dict[str, Any]]:
    """Reads the command line over the preset or file that `--config` names.

    Returns:
        the arguments, and the fields of a new model's config.

    Raises:
        ValueError: an unknown preset, section or field, with the nearest name; an unknown flag or unreadable value.
        SystemExit: `--help`.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    sections: Any = [ModelArguments, DataArguments, BDAMTrainingArguments]
    parser = HfArgumentParser(sections, description=__doc__, exit_on_error=False)
    preset = read_preset(_value_of("--config", argv) or "tiny")
    model_fields = dict(preset["model"])
    towers = {name: model_fields.pop(name) for name in _names(ModelArguments) if name in model_fields}
    parser.set_defaults(**towers, **preset["data"], **preset["training"])
    if not torch.accelerator.is_available():
        # Where the CPU has no bf16 instructions, bf16 is emulated and slower than fp32.
        capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.13
        has_bf16 = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))
        parser.set_defaults(use_cpu=True, bf16=preset["training"].get("bf16", False) and has_bf16)
    try:
        model, data, training, unread = parser.parse_args_into_dataclasses(
            argv, look_for_args_file=False, return_remaining_strings=True
        )
    except ArgumentError as error:
        raise ValueError(str(error)) from None
    if unread:
        known_flags = {flag for action in parser._actions for flag in action.option_strings}
        _check_names("command line", {unread[0].partition("=")[0]: None}, known_flags, "argument")
        raise ValueError(f"command line: `{unread[0]}` belongs to no flag")
    # An evaluation strategy switches do_eval on by itself, so what was asked for is read off the flags.
    flags = {argument.partition("=")[0] for argument in argv}
    if not flags & {"--do_train", "--do_eval"}:
        training.do_train, training.do_eval = model.model_name_or_path is None, True
    elif "--do_eval" not in flags:
        training.do_eval = False
    apply_overrides(model_fields, model.config_overrides)
    return model, data, training, model_fields


def read_preset(name_or_path: str) -> dict[str, dict[str, Any]]:
    """A preset by name, or a JSON file; every section is there, and every field is known.

    Raises:
        ValueError: see `parse_arguments`.
    """
    path = Path(__file__).parents[1] / f"preset_{name_or_path}.json"
    if not path.is_file():
        path = Path(name_or_path)
    if not path.is_file():
        presets = sorted(file.stem.removeprefix("preset_") for file in Path(__file__).parents[1].glob("preset_*.json"))
        raise ValueError(f"--config {name_or_path}: no such file, and no preset of that name ({', '.join(presets)})")
    try:
        preset = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no valid JSON: {error}") from None
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
    """Writes `key=value,…` into the fields of a model's config, in place; a dotted key reaches into a tower's.

    Values are JSON where they can be read as such, else plain strings.

    Raises:
        ValueError: an entry without `=`, or an unknown field, with the nearest name.
    """
    for entry in filter(None, (overrides or "").split(",")):
        key, separator, text = (part.strip() for part in entry.partition("="))
        if not separator:
            raise ValueError(f"--config_overrides: '{entry}' is not key=value")
        section, _, name = key.rpartition(".")
        target = model_fields.setdefault(section, {}) if section else model_fields
        known = _names(BDAMConfig)
        if section:
            _check_names("--config_overrides", {section: None}, TOWERS)
            known = _tower_names(section, target)
        _check_names("--config_overrides", {name: None}, known)
        try:
            target[name] = json.loads(text)
        except ValueError:
            target[name] = text


def _value_of(flag: str, argv: Sequence[str]) -> str | None:
    value = None  # the last one, as argparse takes it
    for position, argument in enumerate(argv):
        if argument == flag and position + 1 < len(argv):
            value = argv[position + 1]
        elif argument.startswith(f"{flag}="):
            value = argument.partition("=")[2]
    return value


def _names(cls: type) -> set[str]:
    return {entry.name for entry in fields(cls)} - (set() if not issubclass(cls, PreTrainedConfig) else {"dtype"})


def _tower_names(tower: str, given: dict[str, Any]) -> set[str]:
    """The fields of a tower's config, `model_type` included.

    Raises:
        ValueError: a `model_type` that transformers does not have.
    """
    model_type = given.get("model_type", BDAMConfig.sub_configs_defaults[tower].model_type)
    _check_names(tower, {model_type: None}, set(CONFIG_MAPPING.keys()), "model_type")
    return _names(CONFIG_MAPPING[model_type]) | {"model_type"}


def _check_names(where: str, given: dict[str, Any], known: set[str], what: str = "field") -> None:
    for name in given:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            raise ValueError(
                f"{where}: unknown {what} `{name}`" + (f"; did you mean `{nearest[0]}`?" if nearest else "")
            )
