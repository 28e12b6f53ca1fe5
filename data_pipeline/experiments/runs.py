"""Training runs: the settings of one table row and seed, and the folder in which the run saves its results.

Rows with equal settings share a run, also across tables: the key of a run is a digest of its settings.
"""

import copy
import dataclasses
import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeling_bdam import BDAMConfig
from modeling_bdam.files import write_json
from modeling_bdam.training.run_arguments import DataArguments
from modeling_bdam.training.training_args import BDAMTrainingArguments

Settings = dict[str, dict[str, Any]]
SECTIONS: dict[str, type] = {"model": BDAMConfig, "data": DataArguments, "training": BDAMTrainingArguments}
# For each kind of output that a row can keep, the file that is written last.
KEPT_FILES = {"features": "features.npz", "model": "model/model.safetensors", "examples": "examples/attention.png"}
FAILURE_FILE = "failure.txt"  # the error message of a failed run
# Paths and logging options do not affect the results.
_NOT_IN_KEY = {"output_dir", "cache_dir", "seed", "disable_tqdm", "report_to", "logging_steps", "save_total_limit"}


@dataclass(frozen=True)
class TrainingRun:
    """One training run.

    Attributes:
        settings: the sections model, data and training of a preset with all overrides, `texts` and `schedule`.
        seed: of weights, batches, augmentation and text noise.
        keep: see `Row.keep`.
        probe_people: see `Budget.probe_people`.
        timed_as: key of the run whose training time this one gets, for the schedule `equal_time`.
    """

    settings: Settings
    seed: int
    keep: tuple[str, ...]
    probe_people: int
    timed_as: str | None = None

    @functools.cached_property
    def key(self) -> str:
        """Identifier of the run and name of its folder: a digest of the settings, and the seed."""
        text = json.dumps(essential(self.settings), sort_keys=True)
        return f"{hashlib.sha256(text.encode()).hexdigest()[:10]}-seed{self.seed}"

    def folder(self, output_dir: Path) -> Path:
        """The folder of this run within the output folder of a study."""
        return output_dir / "runs" / self.key

    def is_finished(self, output_dir: Path) -> bool:
        """Whether the results and all outputs to keep have been written."""
        folder = self.folder(output_dir)
        return (folder / "result.json").is_file() and all((folder / KEPT_FILES[name]).is_file() for name in self.keep)

    def save(self, output_dir: Path) -> Path:
        """Writes `run.json`, the input of `train_run`; returns the folder."""
        folder = self.folder(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "run.json", dataclasses.asdict(self))
        return folder

    @classmethod
    def load(cls, folder: Path) -> "TrainingRun":
        """Reads the `run.json` that `save` wrote."""
        fields = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        return cls(**fields | {"keep": tuple(fields["keep"])})


def merged(*layers: dict[str, Any]) -> dict[str, Any]:
    """Merges nested settings; later layers override earlier ones, and no layer is modified."""
    result: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            nested = isinstance(value, dict) and isinstance(result.get(name), dict)
            result[name] = merged(result[name], value) if nested else copy.deepcopy(value)
    return result


def difference(settings: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """The entries of nested settings that differ from `base`, so that `merged(base, difference)` gives the settings."""
    changed: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and isinstance(base.get(name, {}), dict):
            if nested := difference(value, base.get(name, {})):
                changed[name] = nested
        elif name not in base or value != base[name]:
            changed[name] = value
    return changed


def essential(settings: Settings) -> Settings:
    """The settings that affect the results and differ from their defaults, so that naming a default changes no key."""
    result: Settings = {name: settings.get(name, {}) for name in ("texts", "schedule")}
    for section, cls in SECTIONS.items():
        defaults = _defaults(cls)
        given = settings.get(section, {})
        changed = {name: value for name, value in given.items() if name not in defaults or value != defaults[name]}
        result[section] = {name: value for name, value in changed.items() if name not in _NOT_IN_KEY}
    return result


def _defaults(cls: type) -> dict[str, Any]:
    without = dataclasses.MISSING
    return {f.name: f.default if f.default_factory is without else f.default_factory() for f in dataclasses.fields(cls)}
