"""The experiments as they are written down: one YAML file each, whose rows are overrides of a preset."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
SECTIONS = ("model", "data", "training", "texts")
KINDS = ("table", "choices", "beta", "disentanglement", "noise", "gates", "tsne", "efficiency", "examples")
KEPT = ("features", "model", "examples")
# The order of the report.
NAMES = (
    "table1_bdam",
    "table2_fusion",
    "table3_losses",
    "table4_styles",
    "table5_baselines",
    "choices",
    "beta",
    "disentanglement",
    "noise",
    "figure3_gates",
    "figure4_tsne",
    "figure5_efficiency",
    "examples",
)


@dataclass(frozen=True)
class Row:
    """One line of a table: a training run a seed.

    Attributes:
        name: as the table prints it.
        overrides: fields of the preset's sections model, data and training that differ, and `texts`: what is done to
            the training texts (`noise`: share of images with wrong ones; `right_alone`: those images are left out;
            `style_clustering`: its method).
        paper: the paper's figures of this row, per cent, on CUHK-PEDES.
        keep: what is kept beside its figures: the model's `features` on the test split, the `model`, `examples` of
            searches as pictures.
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
        title: as the report prints it.
        kind: one of `KINDS`: how the report shows it.
        rows: its runs.
        reference: the row that the others are compared with.
        note: what a reader has to know.
        published: whether published figures stand below the table.
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
    """How much a run may cost.

    Attributes:
        seeds: by default.
        overrides: fields of the preset that it changes.
        probe_people: further synthetic people whose features the linear probes learn from.
    """

    seeds: tuple[int, ...]
    overrides: dict[str, dict[str, Any]]
    probe_people: int


def load_experiment(name: str, folder: Path = FOLDER) -> Experiment:
    """The experiment of a file in `folder`.

    Raises:
        ValueError: there is none of that name, or the file says something unknown.
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
        raise ValueError(f"{name}.yaml: reference '{content['reference']}' is no row of it")
    return Experiment(name=name, rows=tuple(rows), **content)


def load_budget(name: str, folder: Path = FOLDER) -> Budget:
    """The budget of `budget_NAME.yaml`.

    Raises:
        ValueError: as `load_experiment`.
    """
    content = _read(f"budget_{name}", folder)
    overrides = {section: content.pop(section) for section in SECTIONS if section in content}
    _check(f"budget_{name}.yaml", content, {"seeds", "probe_people"})
    return Budget(tuple(content["seeds"]), overrides, content["probe_people"])


def _read(name: str, folder: Path) -> dict[str, Any]:
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"there is no experiment or budget {name}; `bdam experiment list` names them")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _check(where: str, given: dict[str, Any], known: set[str]) -> None:
    if unknown := sorted(set(given) - known):
        raise ValueError(f"{where}: unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}")
