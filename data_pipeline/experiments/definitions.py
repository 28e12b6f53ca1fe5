"""Reads the definitions of experiments and budgets: one YAML file each, with overrides of a preset's settings."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
SECTIONS = ("model", "data", "training", "texts", "schedule")
KINDS = (
    "table",
    "choices",
    "beta",
    "disentanglement",
    "noise",
    "gates",
    "tsne",
    "calibration",
    "efficiency",
    "examples",
)
KEPT = ("features", "model", "examples")
PAPER_TABLES = ("table1_bdam", "table2_fusion", "table3_losses", "table4_styles", "table5_baselines")
_FIGURES = ("figure3_gates", "figure4_tsne", "figure5_efficiency")
_BEYOND = ("convergence", "choices", "beta", "disentanglement", "noise")
_ORDER = (*PAPER_TABLES, *_BEYOND, *_FIGURES, "calibration", "examples")
_FILES = {path.stem for path in FOLDER.glob("*.yaml") if not path.stem.startswith("budget_")} - {"published"}
NAMES = (*_ORDER, *sorted(_FILES - {*_ORDER}))  # in the order of the report
ALL = tuple(name for name in NAMES if name != "convergence")  # which trains for much longer


@dataclass(frozen=True)
class Row:
    """One line of a table: one training run per seed.

    Attributes:
        name: as printed in the table.
        overrides: fields that differ from the preset, by section (model, data, training), and changes of the training
            texts in the section `texts`: `noise`, the share of images with wrong texts; `clean_only`, drop those
            images; `style_clustering`, the clustering method, and `annotators`, "unbalanced" for annotators of unequal
            activity. The section `schedule` changes the length of the
            training: `equal_time`, as long as a run with the settings of the preset; `patience`, until so many
            evaluations on the validation split bring no better mAP.
        paper: the results that the paper reports for this row on CUHK-PEDES, in percent.
        keep: outputs to keep in addition to the metrics: `features` of the test split, the `model`, `examples` of
            searches as images.
    """

    name: str
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    paper: dict[str, float] = field(default_factory=dict)
    keep: tuple[str, ...] = ()

    @property
    def noise(self) -> float:
        """The share of training images with wrong texts."""
        return self.overrides.get("texts", {}).get("noise", 0.0)


@dataclass(frozen=True)
class Experiment:
    """One table or figure.

    Attributes:
        name: of its file.
        title: as printed in the report.
        kind: one of `KINDS`; selects the section of the report.
        rows: its lines.
        reference: name of the row that the others are compared with.
        note: introduction in the report.
        published: whether the table is followed by published results.
        one_seed: whether only the first seed is trained.
    """

    name: str
    title: str
    kind: str
    rows: tuple[Row, ...]
    reference: str | None = None
    note: str = ""
    published: bool = False
    one_seed: bool = False


@dataclass(frozen=True)
class Budget:
    """The amount of training.

    Attributes:
        name: as in `budget_NAME.yaml`.
        seeds: default seeds.
        overrides: fields that differ from the preset, by section.
        probe_people: number of additional synthetic people to fit the linear probes on.
        experiments: those that `all` means.
    """

    name: str
    seeds: tuple[int, ...]
    overrides: dict[str, dict[str, Any]]
    probe_people: int
    experiments: tuple[str, ...] = ALL


def load_experiment(name: str, folder: Path = FOLDER) -> Experiment:
    """Reads the experiment `NAME.yaml` of a folder.

    Raises:
        ValueError: the file does not exist, or has an unknown key or value.
    """
    content = _read(name, folder)
    rows = []
    for number, row in enumerate(content.pop("rows", []), start=1):
        where = f"{name}.yaml, row {number}"
        overrides = {section: row.pop(section) for section in SECTIONS if section in row}
        _check(where, row, {"name", "paper", "keep"})
        row["keep"] = tuple(row.get("keep", ()))
        _check(f"{where}, keep", dict.fromkeys(row["keep"]), set(KEPT))
        rows.append(Row(overrides=overrides, **row))
    _check(f"{name}.yaml", content, {"title", "kind", "reference", "note", "published", "one_seed"})
    _check(f"{name}.yaml, kind", {content["kind"]: None}, set(KINDS))
    if content.get("reference", rows[0].name) not in {row.name for row in rows}:
        raise ValueError(f"{name}.yaml: reference '{content['reference']}' is not the name of a row")
    return Experiment(name=name, rows=tuple(rows), **content)


def load_budget(name: str, folder: Path = FOLDER) -> Budget:
    """Reads the budget `budget_NAME.yaml` of a folder.

    Raises:
        ValueError: as `load_experiment`.
    """
    content = _read(f"budget_{name}", folder)
    overrides = {section: content.pop(section) for section in SECTIONS if section in content}
    _check(f"budget_{name}.yaml", content, {"seeds", "probe_people", "experiments"})
    experiments = tuple(content.get("experiments", ALL))
    _check(f"budget_{name}.yaml, experiments", dict.fromkeys(experiments), set(NAMES))
    return Budget(name, tuple(content["seeds"]), overrides, content["probe_people"], experiments)


def _read(name: str, folder: Path) -> dict[str, Any]:
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"there is no experiment or budget {name}; see `bdam experiment list`")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _check(where: str, given: dict[str, Any], known: set[str]) -> None:
    if unknown := sorted(set(given) - known):
        raise ValueError(f"{where}: unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}")
