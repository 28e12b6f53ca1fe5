"""Plans the training runs of a study: its experiments, their rows and seeds, and the rows that share a run."""

import dataclasses
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from modeling_bdam import BDAMConfig
from modeling_bdam.files import write_json, write_json_lines
from modeling_bdam.training.run_arguments import DataArguments, ModelArguments, parse_arguments, read_preset
from modeling_bdam.training.training_args import BDAMTrainingArguments

from ..synthetic.dataset import SYNTHETIC_SETS
from .definitions import Budget, Experiment, Row
from .runs import Settings, TrainingRun, merged

RESULTS_FILE = "results.jsonl"
ParsedArguments = tuple[ModelArguments, DataArguments, BDAMTrainingArguments, dict[str, Any]]


@dataclass(frozen=True)
class Study:
    """The settings that all runs of an output folder have in common.

    Attributes:
        preset: name or file of the preset.
        budget: name of the budget.
        base: the settings of the preset, overridden by those of the budget and of the command line.
        probe_people: see `Budget`.
        styled_descriptions: folder with one descriptions file per clustering method, for table 4 on other sets.
    """

    preset: str
    budget: str
    base: Settings
    probe_people: int
    styled_descriptions: str | None

    @classmethod
    def of(cls, preset: str, budget: Budget, data: dict[str, Any], styled_descriptions: str | None = None) -> "Study":
        """Combines a preset, a budget and the fields of the section data that the command line sets.

        Raises:
            ValueError: the preset does not exist or has unknown fields.
        """
        base = merged(read_preset(preset), budget.overrides, {"data": data})
        return cls(preset, budget.name, base, budget.probe_people, styled_descriptions)

    @property
    def is_synthetic(self) -> bool:
        """Whether the data set is a drawn one, which has labels for the probes."""
        return self.dataset_name in SYNTHETIC_SETS

    @property
    def dataset_name(self) -> str:
        """The only data set of the study."""
        return str(self.base["data"].get("dataset_name", ["synthetic"])[0])

    def training_run(self, row: Row, seed: int, keep: tuple[str, ...] = ()) -> TrainingRun:
        """The run of a row and seed."""
        settings = merged(self.base, row.overrides)
        method = settings.get("texts", {}).get("style_clustering")
        if method is not None and self.dataset_name != "synthetic":
            assert self.styled_descriptions is not None  # checked by `missing_input`
            settings["data"]["descriptions"] = [str(Path(self.styled_descriptions) / f"{method}.jsonl")]
        equal_time = settings.get("schedule", {}).get("equal_time", False)
        timed_as = TrainingRun(self.base, seed, (), 0).key if equal_time else None
        return TrainingRun(settings, seed, keep, self.probe_people, timed_as)

    def missing_input(self, experiment: Experiment) -> str | None:
        """The input that an experiment lacks on this data set, or None if it can run."""
        needs_styles = any("style_clustering" in row.overrides.get("texts", {}) for row in experiment.rows)
        if needs_styles and self.dataset_name != "synthetic" and self.styled_descriptions is None:
            return "it needs --styled-descriptions: a folder with one descriptions file for each clustering"
        return None


@dataclass(frozen=True)
class Plan:
    """The training runs of some experiments.

    Attributes:
        study: their common settings.
        experiments: those that can run.
        skipped: the reason for each experiment that cannot run.
        seeds: of every row.
        runs: each run once, ordered by seed, then by table; those that are timed as another run come after it.
    """

    study: Study
    experiments: tuple[Experiment, ...]
    skipped: dict[str, str]
    seeds: tuple[int, ...]
    runs: tuple[TrainingRun, ...]

    @classmethod
    def of(cls, study: Study, experiments: list[Experiment], seeds: tuple[int, ...]) -> "Plan":
        """Plans the runs of some experiments."""
        reasons = {experiment.name: study.missing_input(experiment) for experiment in experiments}
        skipped = {name: reason for name, reason in reasons.items() if reason is not None}
        runnable = tuple(experiment for experiment in experiments if experiment.name not in skipped)
        keep: dict[str, set[str]] = {}
        runs: dict[str, TrainingRun] = {}
        for seed in seeds:
            trained = [experiment for experiment in runnable if seed == seeds[0] or not experiment.one_seed]
            rows = [row for experiment in trained for row in experiment.rows]
            for row in sorted(rows, key=lambda row: "equal_time" in row.overrides.get("schedule", {})):
                run = study.training_run(row, seed)
                runs.setdefault(run.key, run)
                # Examples and the model are kept for one seed only.
                kept = set(row.keep) - (set() if seed == seeds[0] else {"model", "examples"})
                keep.setdefault(run.key, set()).update(kept)
        complete = tuple(dataclasses.replace(run, keep=tuple(sorted(keep[key]))) for key, run in runs.items())
        return cls(study, runnable, skipped, seeds, complete)

    def check(self) -> None:
        """Validates the settings of every run before any is trained.

        Raises:
            ValueError: a field is unknown or has an invalid value.
        """
        with tempfile.TemporaryDirectory() as folder:
            for run in self.runs:
                parse_settings(run, Path(folder))

    def rows_of(self, run: TrainingRun) -> list[str]:
        """The rows that show the results of a run, as `experiment: row`."""
        return [
            f"{experiment.name}: {row.name}"
            for experiment in self.experiments
            for row in experiment.rows
            if self.study.training_run(row, run.seed).key == run.key
        ]

    def summary(self, output_dir: Path, jobs: int) -> str:
        """Describes the plan: each run with its state and rows, and the estimated duration of the remaining runs."""
        lines: list[str] = []
        seconds: list[float] = []
        steps = 0
        for run in self.runs:
            state = "to run"
            if run.is_finished(output_dir):
                state = "finished"
                seconds.append(json.loads((run.folder(output_dir) / "result.json").read_text())["seconds"])
            training = run.settings["training"]
            steps += training.get("max_steps", 0)
            steps_given = training.get("max_steps")
            length = f"{steps_given} steps" if steps_given else f"{training['num_train_epochs']} epochs"
            lines.append(f"{run.key}  {state:8}  {length:10}  {' | '.join(self.rows_of(run))}")
        lines.append(f"\n{len(self.runs)} runs, {len(seconds)} of them finished, {steps} steps")
        missing = len(self.runs) - len(seconds)
        if seconds and missing:
            mean = sum(seconds) / len(seconds)
            minutes = missing * mean / jobs / 60
            lines.append(
                f"mean time of a finished run: {mean:.0f} s; the other {missing}, {jobs} at once: {minutes:.0f} min"
            )
        return "\n".join([*lines, *(f"{name} is skipped: {reason}" for name, reason in self.skipped.items())])

    def save(self, output_dir: Path) -> None:
        """Adds the plan to the first line of `results.jsonl`, which may hold earlier plans of the same study.

        Raises:
            ValueError: the folder holds another study.
        """
        study = json.loads(json.dumps(dataclasses.asdict(self.study)))
        header, *lines = read_results(output_dir) or [
            {"study": study, "experiments": {}, "skipped": {}, "measured": {}}
        ]
        if differing := [name for name, value in study.items() if header["study"].get(name) != value]:
            raise ValueError(
                f"{output_dir} holds a study with another {', '.join(differing)}: choose another --output-dir"
            )
        for experiment in self.experiments:
            own = self.seeds[:1] if experiment.one_seed else self.seeds
            seeds = {*own, *header["experiments"].get(experiment.name, [])}
            header["experiments"][experiment.name] = sorted(seeds)
        header["skipped"] |= self.skipped
        output_dir.mkdir(parents=True, exist_ok=True)
        write_json_lines(output_dir / RESULTS_FILE, [header, *lines])


def read_results(output_dir: Path) -> list[dict[str, Any]]:
    """Reads `results.jsonl`: the study in the first line, then one line per run; [] if there is no such file."""
    path = output_dir / RESULTS_FILE
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def parse_settings(run: TrainingRun, folder: Path) -> ParsedArguments:
    """Writes the settings of a run to `settings.json` in a folder and parses them as `run_t2i_reid.py` does.

    Raises:
        ValueError: a field is unknown or has an invalid value.
    """
    write_json(folder / "settings.json", {name: run.settings[name] for name in ("model", "data", "training")})
    flags = [f"--config={folder / 'settings.json'}", f"--output_dir={folder / 'trainer'}", f"--seed={run.seed}"]
    parsed = parse_arguments([*flags, "--do_train", "--do_eval", "--disable_tqdm=true", "--report_to=none"])
    try:
        BDAMConfig(**parsed[3])
    except StrictDataclassError as error:
        raise ValueError(" ".join(str(error).split())) from None
    return parsed
