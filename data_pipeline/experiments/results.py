"""The finished cells of a run, by experiment and row, and their figures over seeds."""

import json
import math
import statistics
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .cells import FAILURE_FILE, Cell, write_json
from .definitions import Experiment, Row
from .features import MEASURED, Features
from .plan import Run, load_plan

PROTOCOLS = {"standard": "", "described": "described_", "clothes-changing": "clothes_changing_"}


@dataclass(frozen=True)
class Figure:
    """A number over seeds.

    Attributes:
        mean, deviation: the deviation, with n - 1, is NaN for one seed.
        seeds: how many there are.
    """

    mean: float
    deviation: float
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figure | None":
        """The figure of some values, NaN left out; None of none."""
        values = [value for value in values if not math.isnan(value)]
        if not values:
            return None
        deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
        return cls(statistics.fmean(values), deviation, len(values))

    def __str__(self) -> str:
        return f"{self.mean:.2f}{self._spread()}"

    def signed(self) -> str:
        """`+1.20 ± 0.30`, for a difference."""
        return f"{self.mean:+.2f}{self._spread()}"

    def _spread(self) -> str:
        return f" ± {self.deviation:.2f}" if self.seeds > 1 else ""


@dataclass(frozen=True)
class RowResult:
    """What is there of one row.

    Attributes:
        row: as it is written down.
        cells: one a seed, in order.
        results: `result.json` of the finished ones.
        folders: theirs.
        failures: the error that ended a cell, by key; of those that are not finished.
    """

    row: Row
    cells: tuple[Cell, ...]
    results: tuple[dict[str, Any], ...]
    folders: tuple[Path, ...]
    failures: dict[str, str] = field(default_factory=dict)

    def test(self, metric: str) -> Figure | None:
        """A figure of the test split, per cent; None where no seed has it."""
        return self.of_split("test", metric)

    def validation(self, metric: str) -> Figure | None:
        """A figure of the validation split at the checkpoint picked, per cent."""
        return self.of_split("validation", metric)

    def of_split(self, split: str, metric: str, seeds: Container[int] | None = None) -> Figure | None:
        """A figure of `test` or `validation`, per cent, of some seeds or of all; None where none has it."""
        return self.figure(
            lambda result: 100 * result[split][metric],
            lambda result: metric in result[split] and (seeds is None or result["seed"] in seeds),
        )

    def less(self, other: "RowResult", metric: str, split: str = "test") -> Figure | None:
        """The row less another, per cent points, each seed against the same seed; None of no seed that both have."""
        theirs = {result["seed"]: result[split].get(metric) for result in other.results}
        return self.figure(
            lambda result: 100 * (result[split][metric] - theirs[result["seed"]]),
            lambda result: metric in result[split] and theirs.get(result["seed"]) is not None,
        )

    def figure(
        self, value: Callable[[dict[str, Any]], float], has: Callable[[dict[str, Any]], bool] = lambda _: True
    ) -> Figure | None:
        """A figure over the seeds whose result has it."""
        return Figure.of([value(result) for result in self.results if has(result)])

    @property
    def seeds(self) -> str:
        """How many seeds are finished: `3`, or `1 of 3`."""
        finished, wanted = len(self.results), len(self.cells)
        return str(finished) if finished == wanted else f"{finished} of {wanted}"

    def features(self) -> list[Features]:
        """The kept features of the finished seeds."""
        files = [folder / "features.npz" for folder in self.folders]
        return [Features(file) for file in files if file.is_file()]

    def measured(self, name: str, measure: Callable[[Features], Any]) -> list[Any]:
        """What a function finds in the features of each finished seed, as JSON; measured once and kept beside them."""
        found = []
        for folder in self.folders:
            kept = folder / f"{MEASURED}{name}.json"
            if not (folder / "features.npz").is_file():
                continue
            if not kept.is_file():
                write_json(kept, measure(Features(folder / "features.npz")))
            found.append(json.loads(kept.read_text(encoding="utf-8")))
        return found


class RunResults:
    """Everything that is there of a run.

    Args:
        output_dir: its folder.

    Raises:
        ValueError: no run was planned there.
    """

    def __init__(self, output_dir: Path) -> None:
        plan = load_plan(output_dir)
        if plan is None:
            raise ValueError(f"{output_dir} holds no run: `bdam experiment run` makes one")
        self.output_dir = output_dir
        self.run = Run(**plan["run"])
        self.seeds: dict[str, list[int]] = {name: entry["seeds"] for name, entry in plan["experiments"].items()}
        self.skipped: dict[str, str] = plan["skipped"]

    def rows(self, experiment: Experiment) -> list[RowResult]:
        """The rows of an experiment that was planned."""
        found = []
        for row in experiment.rows:
            cells = tuple(self.run.cell(row, seed) for seed in self.seeds[experiment.name])
            finished = [cell for cell in cells if (cell.folder(self.output_dir) / "result.json").is_file()]
            folders = tuple(cell.folder(self.output_dir) for cell in finished)
            results = tuple(json.loads((folder / "result.json").read_text(encoding="utf-8")) for folder in folders)
            files = {cell.key: cell.folder(self.output_dir) / FAILURE_FILE for cell in cells if cell not in finished}
            failures = {key: file.read_text(encoding="utf-8").strip() for key, file in files.items() if file.is_file()}
            found.append(RowResult(row, cells, results, folders, failures))
        return found
