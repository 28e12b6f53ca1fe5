"""A cell: one training run of one row and seed, its settings, and what it leaves on disk.

Rows with the same settings share a cell, in whatever table they stand: its key is a digest of the settings alone.
"""

import copy
import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeling_bdam import BDAMConfig
from modeling_bdam.training.run_arguments import DataArguments
from modeling_bdam.training.training_args import BDAMTrainingArguments

Settings = dict[str, dict[str, Any]]
SECTIONS: dict[str, type] = {"model": BDAMConfig, "data": DataArguments, "training": BDAMTrainingArguments}
# What is written last of each thing that a row keeps.
KEPT_FILES = {"features": "features.npz", "model": "model/model.safetensors", "examples": "examples/attention.png"}
FAILURE_FILE = "failure.txt"  # the error that ended it, if one did
# Where things lie and what is printed changes no figure.
_NOT_IN_KEY = {"output_dir", "cache_dir", "seed", "disable_tqdm", "report_to", "logging_steps", "save_total_limit"}


@dataclass(frozen=True)
class Cell:
    """One training run.

    Attributes:
        settings: the sections model, data and training of a preset with all overrides, and `texts`.
        seed: of weights, batches, augmentation and noise.
        keep: see `Row.keep`.
        probe_people: see `Budget.probe_people`.
    """

    settings: Settings
    seed: int
    keep: tuple[str, ...]
    probe_people: int

    @property
    def key(self) -> str:
        """Name of its folder."""
        text = json.dumps(essential(self.settings), sort_keys=True)
        return f"{hashlib.sha256(text.encode()).hexdigest()[:10]}-seed{self.seed}"

    def folder(self, output_dir: Path) -> Path:
        """Where it lies in a run's folder."""
        return output_dir / "cells" / self.key

    def is_finished(self, output_dir: Path) -> bool:
        """Whether its figures are there, and all that is to be kept of it."""
        folder = self.folder(output_dir)
        return (folder / "result.json").is_file() and all((folder / KEPT_FILES[name]).is_file() for name in self.keep)

    def save(self, output_dir: Path) -> Path:
        """Writes what `train_cell` needs; returns the folder."""
        folder = self.folder(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "cell.json", dataclasses.asdict(self))
        return folder

    @classmethod
    def load(cls, folder: Path) -> "Cell":
        """The cell that `save` wrote."""
        fields = json.loads((folder / "cell.json").read_text(encoding="utf-8"))
        return cls(**fields | {"keep": tuple(fields["keep"])})


def merged(*layers: Settings) -> Settings:
    """Sections of settings, later layers over earlier ones; dictionaries within are merged as well."""
    result: Settings = {}
    for layer in layers:
        for section, values in layer.items():
            result[section] = _merged(result.get(section, {}), values)
    return result


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    result = copy.deepcopy(below)
    for name, value in above.items():
        nested = isinstance(value, dict) and isinstance(result.get(name), dict)
        result[name] = _merged(result[name], value) if nested else copy.deepcopy(value)
    return result


def essential(settings: Settings) -> Settings:
    """The settings that decide the figures: those that are not a default, so that naming one changes nothing."""
    result: Settings = {"texts": settings.get("texts", {})}
    for section, cls in SECTIONS.items():
        defaults = _defaults(cls)
        given = settings.get(section, {})
        changed = {name: value for name, value in given.items() if name not in defaults or value != defaults[name]}
        result[section] = {name: value for name, value in changed.items() if name not in _NOT_IN_KEY}
    return result


def _defaults(cls: type) -> dict[str, Any]:
    """Default values of a dataclass, as JSON holds them."""
    defaults: dict[str, Any] = {}
    for entry in dataclasses.fields(cls):
        if entry.default is not dataclasses.MISSING:
            defaults[entry.name] = entry.default
        elif entry.default_factory is not dataclasses.MISSING:
            defaults[entry.name] = entry.default_factory()
    return defaults


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file that appears complete or not at all."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text file that appears complete or not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
