"""Reads the definitions of experiments and budgets: one YAML file each, with overrides of a preset's settings."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
SECTIONS = ("model", "data", "training", "texts")
KINDS = ("table", "choices", "beta", "disentanglement", "noise", "gates", "tsne", "efficiency", "examples")
KEPT = ("features", "model", "examples")
_TABLES = ("table1_bdam", "table2_fusion", "table3_losses", "table4_styles", "table5_baselines")
_FIGURES = ("figure3_gates", "figure4_tsne", "figure5_efficiency")
NAMES = (*_TABLES, "choices", "beta", "disentanglement", "noise", *_FIGURES, "examples")  # in the order of the report


@dataclass(frozen=True)
class Row:
    """One line of a table: one training run per seed.

    Attributes:
        name: as printed in the table.
        overrides: fields that differ from the preset, by section (model, data, training), and changes of the training
            texts in the section `texts`: `noise`, the share of images with wrong texts; `clean_only`, drop those
            images; `style_clustering`, the clustering method.
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
    """

    name: str
    title: str
    kind: str
    rows: tuple[Row, ...]
    reference: str | None = None
    note: str = ""
    published: bool = False


@dataclass(frozen=True)
class Budget:
    """The amount of training.

    Attributes:
        name: as in `budget_NAME.yaml`.
        seeds: default seeds.
        overrides: fields that differ from the preset, by section.
        probe_people: number of additional synthetic people to fit the linear probes on.
    """

    name: str
    seeds: tuple[int, ...]
    overrides: dict[str, dict[str, Any]]
    probe_people: int


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
    _check(f"{name}.yaml", content, {"title", "kind", "reference", "note", "published"})
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
    _check(f"budget_{name}.yaml", content, {"seeds", "probe_people"})
    return Budget(name, tuple(content["seeds"]), overrides, content["probe_people"])


def _read(name: str, folder: Path) -> dict[str, Any]:
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"there is no experiment or budget {name}; see `bdam experiment list`")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _check(where: str, given: dict[str, Any], known: set[str]) -> None:
    if unknown := sorted(set(given) - known):
        raise ValueError(f"{where}: unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}")
