"""The default preset, compared with a plain dual encoder: `python tests/benchmarks/plain_dual_encoder.py --help`.

The baseline has the same towers, data, optimizer and schedule, but is trained only with InfoNCE between images and
captions, on shuffled batches. Its learning rate is the one of `--plain_learning_rates` with the best validation mAP on
the first seed. Each seed trains it twice: for equal steps, and for equal training time. Time is clock time without
evaluation, so the machine should have no other load.

Targets for the mean over seeds: Rank-1 at least 5 points higher with equal steps and not lower with equal time, with
the β of the preset; clothes-changing mAP with β = 0 at least twice as high. DIR keeps finished runs as JSON, which are
not repeated. Unknown flags are passed to run_t2i_reid.py for both models.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
from pathlib import Path

from datasets import DatasetDict
from transformers import set_seed

from data_pipeline.training import load_splits, new_trainer, tokenizer_of, train_and_save, train_plain
from modeling_bdam.files import write_json
from modeling_bdam.training.build import build_model
from modeling_bdam.training.run_arguments import parse_arguments

METRICS = ("rank1", "mAP", "clothes_changing_mAP")


@dataclasses.dataclass(frozen=True)
class Run:
    """Settings of a training run.

    Attributes:
        seed: of weights, batches and augmentation.
        plain_learning_rate: learning rate of the plain dual encoder; None trains the preset.
        steps: optimizer steps; None for those of the preset.
        flags: flags of run_t2i_reid.py.
    """

    seed: int
    plain_learning_rate: float | None
    steps: int | None
    flags: tuple[str, ...]

    @property
    def file_name(self) -> str:
        """Name of the file with the result."""
        model = "preset" if self.plain_learning_rate is None else f"plain-{self.plain_learning_rate:g}"
        return f"{model}-seed{self.seed}-steps{self.steps or 'default'}.json"


@dataclasses.dataclass
class Result:
    """Steps, training seconds without evaluation, best validation mAP, and test metrics (0 to 1) of that checkpoint."""

    steps: int
    seconds: float
    validation_mAP: float
    rank1: float
    mAP: float
    clothes_changing_mAP: float


def result_of(run: Run, output_dir: Path) -> Result:
    """Reads the result of a run from its file, or trains and writes the file.

    Raises:
        SystemExit: the file is from a run with other flags.
    """
    path = output_dir / run.file_name
    if path.exists():
        kept = json.loads(path.read_text())
        if kept["flags"] != list(run.flags):
            raise SystemExit(f"{path} has the flags {kept['flags']}: choose another --output_dir")
        return Result(**kept["result"])
    print(f"running {path.stem}", flush=True)
    result = train(run, output_dir)
    write_json(path, {"flags": run.flags, "result": dataclasses.asdict(result)})
    return result


def train(run: Run, output_dir: Path) -> Result:
    """Trains and tests like run_t2i_reid.py, in a temporary folder."""
    with tempfile.TemporaryDirectory(dir=output_dir) as folder:
        flags = [*run.flags, f"--seed={run.seed}", f"--output_dir={folder}"]
        model_args, data_args, args, model_fields = parse_arguments(flags)
        if run.steps is not None:
            # As many evaluations as in the preset
            evaluations = max(1, round(args.max_steps / (args.eval_steps or args.max_steps)))
            args.eval_steps = args.save_steps = max(1, run.steps // evaluations)
            args.max_steps = run.steps
        set_seed(args.seed)
        splits = load_splits(data_args, args)
        model, processor = build_model(model_args, data_args, model_fields, tokenizer_of(splits))
        if run.plain_learning_rate is None:
            trainer = new_trainer(model, args, processor, data_args, splits)
            train_and_save(trainer, checkpoint=None)
            run_folder = Path(folder)
        else:
            args.learning_rate = run.plain_learning_rate
            # Without descriptions, which it would read and not use.
            only_captions = splits["train"].remove_columns(["identity_description", "clothing_description"])
            splits = DatasetDict({**splits, "train": only_captions})
            decoupled = new_trainer(model, args, processor, data_args, splits)
            trainer = train_plain(decoupled, model_args, data_args, splits)
            run_folder = Path(folder) / "plain"
        tested = trainer.score(trainer.encode(splits["test"]))
        state = json.loads((run_folder / "trainer_state.json").read_text())
        seconds = json.loads((run_folder / "train_results.json").read_text())["train_runtime"]
    evaluated = [entry for entry in state["log_history"] if "eval_runtime" in entry]
    return Result(
        steps=state["global_step"],
        seconds=seconds - sum(entry["eval_runtime"] for entry in evaluated),
        validation_mAP=max(entry["eval_mAP"] for entry in evaluated),
        **{name: tested[f"eval_{name}"] for name in METRICS},
    )


def print_rows(name: str, seeds: list[int], results: list[Result]) -> dict[str, float]:
    """Prints the metrics of each seed and their mean, in per cent; returns the mean metrics (0 to 1)."""
    means = {metric: statistics.mean(getattr(result, metric) for result in results) for metric in METRICS}
    for seed, result in zip(seeds, results, strict=True):
        values = "  ".join(f"{100 * getattr(result, metric):7.2f}" for metric in METRICS)
        print(f"{name:26} {seed:>4} {result.steps:6d}  {values}  {result.seconds:8.1f}")
    seconds = statistics.mean(result.seconds for result in results)
    print(f"{name:26} mean {'':6}  {'  '.join(f'{100 * value:7.2f}' for value in means.values())}  {seconds:8.1f}")
    return means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--max_steps", type=int, help="steps of the preset, by default its own")
    parser.add_argument("--plain_learning_rates", type=float, nargs="+", default=[1e-3, 2e-3, 3e-3, 5e-3])
    parser.add_argument("--output_dir", type=Path, required=True)
    arguments, other_flags = parser.parse_known_args()
    seeds, rates, output_dir = arguments.seeds, arguments.plain_learning_rates, arguments.output_dir
    output_dir.mkdir(parents=True, exist_ok=True)
    flags = tuple(other_flags)

    ours = [result_of(Run(seed, None, arguments.max_steps, flags), output_dir) for seed in seeds]

    def plain(seed: int, rate: float, steps: int) -> Result:
        return result_of(Run(seed, rate, steps, flags), output_dir)

    tried = {rate: plain(seeds[0], rate, ours[0].steps).validation_mAP for rate in rates}
    rate = max(tried, key=lambda rate: tried[rate])
    equal_steps = [plain(seed, rate, result.steps) for seed, result in zip(seeds, ours, strict=True)]
    equal_time = [
        plain(seed, rate, int(result.seconds / (same_steps.seconds / same_steps.steps)))
        for seed, result, same_steps in zip(seeds, ours, equal_steps, strict=True)
    ]

    print("\nplain, validation mAP by learning rate: " + ", ".join(f"{r:g}: {100 * v:.2f}" for r, v in tried.items()))
    if len(rates) > 1 and rate in (min(rates), max(rates)):
        print(f"{rate:g} is the best learning rate and the smallest or largest one: try more of them")
    print(f"\n{'test, per cent':26} seed  steps  rank-1      mAP  clothes-changing mAP  seconds")
    means = print_rows("preset", seeds, ours)
    means_steps = print_rows("plain, equal steps", seeds, equal_steps)
    means_time = print_rows("plain, equal time", seeds, equal_time)
    for name, other, points in (("steps", means_steps, 5), ("time", means_time, 0)):
        gain = 100 * (means["rank1"] - other["rank1"])
        times = means["clothes_changing_mAP"] / other["clothes_changing_mAP"]
        print(f"\nequal {name}: rank-1 {gain:+.2f} points (target: {points:+d} or more)")
        print(f"equal {name}: clothes-changing mAP x {times:.2f} (target: 2 or more)")


if __name__ == "__main__":
    main()
