"""Reads the results of a study: `results.jsonl`, updated from the folders of its runs, as means over seeds."""

import json
import statistics
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from modeling_bdam.files import write_json_lines

from .definitions import NAMES, Experiment, Row, load_experiment
from .plan import RESULTS_FILE, Study, read_results
from .runs import FAILURE_FILE, TrainingRun, difference, merged

# Fields of `result.json` that are copied to the line of the run.
_COPIED = (
    *("commit", "device", "threads", "parameters", "queries", "gallery", "people", "clothing_weight", "matching"),
    *("steps", "best_step", "train_seconds", "seconds", "resumed", "finished", "ranks"),
)

_KEPT = {
    f"{prefix}{name}"
    for prefix in ("", "reranked_", "described_", "clothes_changing_")
    for name in ("rank1", "rank5", "rank10", "mAP", "mINP")
} | {"described_image_weight"}


class MeanStd(NamedTuple):
    """Mean and standard deviation (n - 1) over seeds; `std` is None for one seed."""

    mean: float
    std: float | None
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "MeanStd | None":
        """Computes both over the values that are not None; None if there are none."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        return cls(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))

    def __str__(self) -> str:
        return f"{self.mean:.2f}{self._spread()}"

    def signed(self) -> str:
        """Formats a difference: `+1.20 ± 0.30`."""
        return f"{self.mean:+.2f}{self._spread()}"

    def _spread(self) -> str:
        return "" if self.std is None else f" ± {self.std:.2f}"


@dataclass(frozen=True)
class RowResult:
    """The results of one row.

    Attributes:
        row: its definition.
        runs: one per seed, in order.
        results: the lines of the finished runs.
    """

    row: Row
    runs: tuple[TrainingRun, ...]
    results: tuple[dict[str, Any], ...]

    def metric(self, name: str, split: str = "test", seeds: Container[int] | None = None) -> MeanStd | None:
        """A metric of `test` or `validation`, in percent, over some seeds or all; None if no run has it."""
        chosen = [result for result in self.results if seeds is None or result["seed"] in seeds]
        return MeanStd.of([100 * result[split][name] for result in chosen if name in result[split]])

    @property
    def seeds(self) -> str:
        """The number of finished seeds: `3`, or `1 of 3`."""
        finished, planned = len(self.results), len(self.runs)
        return str(finished) if finished == planned else f"{finished} of {planned}"

    @property
    def run_id(self) -> str:
        """The digest of the settings: the identifier of the runs in `results.jsonl`, without the seed."""
        if not self.results:
            return f"{self.runs[0].key.partition('-')[0]} (missing)"
        return self.results[0]["run"].partition("-")[0]


class Results:
    """All results of a study.

    Lines of `results.jsonl` are replaced by the result or failure in the folder of the same run, if it has one.

    Args:
        output_dir: the folder of the study.

    Raises:
        ValueError: no study was planned there.
    """

    def __init__(self, output_dir: Path) -> None:
        self._saved = read_results(output_dir)
        if not self._saved:
            raise ValueError(f"{output_dir} holds no {RESULTS_FILE}: start a study with `bdam experiment run`")
        self.output_dir = output_dir
        self.header, *lines = self._saved
        self.study = Study(**self.header["study"])
        self.skipped: dict[str, str] = self.header["skipped"]
        self.measured: dict[str, Any] = dict(self.header["measured"])
        self.experiments = [load_experiment(name) for name in NAMES if name in self.header["experiments"]]
        # Keys are recomputed: they depend on the defaults of the configs, which can change.
        known = {
            TrainingRun(merged(self.study.base, line["settings"]), line["seed"], (), 0).key: line for line in lines
        }
        self.runs = {run.key: run for experiment in self.experiments for row in self._runs(experiment) for run in row}
        found = {key: self._read_folder(run) or known.get(key) for key, run in self.runs.items()}
        self.lines: dict[str, dict[str, Any]] = {key: line for key, line in found.items() if line is not None}

    def _runs(self, experiment: Experiment) -> list[tuple[TrainingRun, ...]]:
        seeds = self.header["experiments"][experiment.name]
        return [tuple(self.study.training_run(row, seed) for seed in seeds) for row in experiment.rows]

    def _read_folder(self, run: TrainingRun) -> dict[str, Any] | None:
        folder = run.folder(self.output_dir)
        line = {"run": run.key, "seed": run.seed, "settings": difference(run.settings, self.study.base)}
        if (folder / "result.json").is_file():
            result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
            line |= {name: result[name] for name in _COPIED} | {"torch": result["versions"]["torch"]}
            line |= {"styles": result["styles"]} if "styles" in result else {}
            for split in ("test", "validation"):
                line[split] = {name: value for name, value in result[split].items() if name in _KEPT}
            bounds = result["bounds"].items()
            kept = {bound: {name: value for name, value in found.items() if name in _KEPT} for bound, found in bounds}
            self.measured.setdefault("bounds", kept)
            return line
        if (folder / FAILURE_FILE).is_file():
            return line | {"failure": (folder / FAILURE_FILE).read_text(encoding="utf-8").strip()}
        return None

    def rows(self, experiment: Experiment) -> list[RowResult]:
        """The results of the rows of an experiment that was planned."""
        return [
            RowResult(row, runs, tuple(line for run in runs if (line := self.finished(run.key)) is not None))
            for row, runs in zip(experiment.rows, self._runs(experiment), strict=True)
        ]

    def finished(self, key: str) -> dict[str, Any] | None:
        """The line of a run, or None if it is missing or failed."""
        line = self.lines.get(key, {})
        return line if "test" in line else None

    def label(self, title: str) -> str:
        """A title with `(oracle)` for the described gallery: the synthetic set's descriptions are its true traits."""
        return title.replace("described", "described (oracle)") if self.study.is_synthetic else title

    def figure(self, name: str) -> Path:
        """The path of a figure of the report."""
        return self.output_dir / "figures" / f"{name}.png"

    def save(self) -> None:
        """Writes `results.jsonl` if its content has changed."""
        content = [self.header | {"measured": self.measured}, *self.lines.values()]
        if content != self._saved:
            write_json_lines(self.output_dir / RESULTS_FILE, content)
