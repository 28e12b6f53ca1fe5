"""Which cells the experiments need, and which of their rows share one."""

import dataclasses
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from modeling_bdam import BDAMConfig
from modeling_bdam.training.run_arguments import parse_arguments, read_preset

from .cells import Cell, Settings, merged, write_json
from .definitions import Budget, Experiment, Row

PLAN_FILE = "plan.json"


@dataclass(frozen=True)
class Run:
    """What a run's folder is for, whatever experiments are run in it.

    Attributes:
        preset: name or file of the preset.
        budget: its name.
        base: the preset's settings under the budget's and the command line's.
        probe_people: see `Budget`.
        styled_descriptions: folder of descriptions files by clustering method, for table 4 on other sets.
    """

    preset: str
    budget: str
    base: Settings
    probe_people: int
    styled_descriptions: str | None

    @classmethod
    def of(
        cls,
        preset: str,
        budget_name: str,
        budget: Budget,
        data: dict[str, Any],
        styled_descriptions: str | None = None,
    ) -> "Run":
        """The run of a preset with a budget.

        Args:
            data: fields of the section data that the command line gives.

        Raises:
            ValueError: there is no such preset, or it has unknown fields.
        """
        base = merged(read_preset(preset), budget.overrides, {"data": data})
        return cls(preset, budget_name, base, budget.probe_people, styled_descriptions)

    @property
    def is_synthetic(self) -> bool:
        """Whether the truth about every person is known."""
        return self.base["data"].get("dataset_name", ["synthetic"]) == ["synthetic"]

    def cell(self, row: Row, seed: int, keep: tuple[str, ...] = ()) -> Cell:
        """The cell of a row and seed."""
        settings = merged(self.base, row.overrides)
        method = settings.get("texts", {}).get("style_clustering")
        if method is not None and not self.is_synthetic:
            assert self.styled_descriptions is not None  # `runnable` has seen to it
            settings["data"]["descriptions"] = [str(Path(self.styled_descriptions) / f"{method}.jsonl")]
        return Cell(settings, seed, keep, self.probe_people)

    def runnable(self, experiment: Experiment) -> str | None:
        """None, or why the experiment cannot be run on this data set."""
        needs_styles = any("style_clustering" in row.overrides.get("texts", {}) for row in experiment.rows)
        if needs_styles and not self.is_synthetic and self.styled_descriptions is None:
            return "it needs --styled-descriptions: a folder with one descriptions file for each clustering"
        return None


@dataclass(frozen=True)
class Plan:
    """The cells of some experiments.

    Attributes:
        run: what they have in common.
        experiments: those that can be run.
        skipped: those that cannot, and why.
        seeds: of every row.
        cells: each once, the seeds one after the other, in the order of the tables.
    """

    run: Run
    experiments: tuple[Experiment, ...]
    skipped: dict[str, str]
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]

    @classmethod
    def of(cls, run: Run, experiments: list[Experiment], seeds: tuple[int, ...]) -> "Plan":
        """Plans experiments.

        Raises:
            ValueError: a row's overrides are unknown or do not fit one another.
        """
        reasons = {experiment.name: run.runnable(experiment) for experiment in experiments}
        skipped = {name: reason for name, reason in reasons.items() if reason is not None}
        runnable = tuple(experiment for experiment in experiments if experiment.name not in skipped)
        keep: dict[str, set[str]] = {}
        cells: dict[str, Cell] = {}
        for seed in seeds:
            for experiment in runnable:
                for row in experiment.rows:
                    cell = run.cell(row, seed)
                    cells.setdefault(cell.key, cell)
                    # One model is enough to look into.
                    kept = set(row.keep) - (set() if seed == seeds[0] else {"model", "examples"})
                    keep.setdefault(cell.key, set()).update(kept)
        kept_cells = tuple(dataclasses.replace(cell, keep=tuple(sorted(keep[key]))) for key, cell in cells.items())
        return cls(run, runnable, skipped, seeds, kept_cells)

    def check(self) -> None:
        """Reads the settings of every cell as the training will.

        Raises:
            ValueError: a field is unknown, or has a value it cannot have.
        """
        with tempfile.TemporaryDirectory() as folder:
            for cell in self.cells:
                check_settings(cell, Path(folder))

    def rows_of(self, cell: Cell) -> list[str]:
        """The rows, with their tables, whose figures a cell gives."""
        return [
            f"{experiment.name}: {row.name}"
            for experiment in self.experiments
            for row in experiment.rows
            if self.run.cell(row, cell.seed).key == cell.key
        ]

    def summary(self, output_dir: Path) -> str:
        """The plan in words: each cell with its rows, what is finished, and how long the rest may take."""
        lines: list[str] = []
        seconds: list[float] = []
        steps = 0
        for cell in self.cells:
            state = "to run"
            if cell.is_finished(output_dir):
                state = "finished"
                seconds.append(json.loads((cell.folder(output_dir) / "result.json").read_text())["seconds"])
            training = cell.settings["training"]
            steps += training.get("max_steps", 0)
            unit = "steps" if "max_steps" in training else "epochs"
            length = f"{training['max_steps' if unit == 'steps' else 'num_train_epochs']} {unit}"
            lines.append(f"{cell.key}  {state:8}  {length:10}  {' | '.join(self.rows_of(cell))}")
        rows = len(self.seeds) * sum(len(experiment.rows) for experiment in self.experiments)
        missing = len(self.cells) - len(seconds)
        lines.append(
            f"\n{rows} rows and seeds, {len(self.cells)} cells, {len(seconds)} of them finished, {steps} steps"
        )
        if seconds and missing:
            mean = sum(seconds) / len(seconds)
            lines.append(
                f"a finished cell took {mean:.0f} s; the other {missing}: {missing * mean / 60:.0f} min in turn"
            )
        lines += [f"{name} is left out: {reason}" for name, reason in self.skipped.items()]
        return "\n".join(lines)

    def save(self, output_dir: Path) -> None:
        """Notes the plan in the folder of its run, beside earlier ones of the same run.

        Raises:
            ValueError: the folder holds another run.
        """
        known = load_plan(output_dir)
        run = dataclasses.asdict(self.run)
        if known is not None and known["run"] != json.loads(json.dumps(run)):
            differing = [name for name, value in run.items() if known["run"].get(name) != json.loads(json.dumps(value))]
            raise ValueError(
                f"{output_dir} holds a run with another {', '.join(differing)}: choose another --output-dir"
            )
        experiments, skipped = ({}, {}) if known is None else (known["experiments"], known["skipped"])
        seeds = {int(seed) for seed in self.seeds}
        for experiment in self.experiments:
            seeds_there = set(experiments.get(experiment.name, {}).get("seeds", []))
            experiments[experiment.name] = {"seeds": sorted(seeds | seeds_there)}
        output_dir.mkdir(parents=True, exist_ok=True)
        write_json(output_dir / PLAN_FILE, {"run": run, "experiments": experiments, "skipped": skipped | self.skipped})


def load_plan(output_dir: Path) -> dict[str, Any] | None:
    """What `Plan.save` wrote: `run`, `experiments` by name with their `seeds`, `skipped`; None in a new folder."""
    path = output_dir / PLAN_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def check_settings(cell: Cell, folder: Path) -> None:
    """Reads a cell's settings as the training will.

    Raises:
        ValueError: a field is unknown, or has a value it cannot have.
    """
    write_json(folder / "settings.json", {name: cell.settings[name] for name in ("model", "data", "training")})
    model_fields = parse_arguments(training_flags(folder, cell.seed))[3]
    try:
        BDAMConfig(**model_fields)
    except StrictDataclassError as error:
        raise ValueError(" ".join(str(error).split())) from None


def training_flags(folder: Path, seed: int) -> list[str]:
    """The command line of `run_t2i_reid.py` for the cell in a folder."""
    return [
        f"--config={folder / 'settings.json'}",
        f"--output_dir={folder / 'run'}",
        f"--seed={seed}",
        "--do_train",
        "--do_eval",
        "--disable_tqdm=true",
        "--report_to=none",
    ]
