"""The default preset beside a plain dual encoder: `python tests/benchmarks/plain_dual_encoder.py --output_dir DIR`.

The plain one has the same towers, data, optimizer and schedule; it is trained by InfoNCE between images and captions
alone, on plainly shuffled batches. Its learning rate is the best of `--plain_learning_rates` by validation mAP, tried
on the first seed. It is trained twice a seed: for as many steps, and for as many as fit in the other's training time.
That time is the clock's, without evaluation, so the machine should have nothing else to do.

Wanted, on the mean over seeds: rank-1 at least 5 points higher at equal steps and not lower at equal time, at the
preset's β; clothes-changing mAP at β=0 at least twice as high. What has finished is kept in DIR as JSON and not run
again. Flags that are not listed below go to run_t2i_reid.py, for both models.
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
from modeling_bdam.training.build import build_model
from modeling_bdam.training.run_arguments import parse_arguments

FIGURES = ("rank1", "mAP", "clothes_changing_mAP")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training run.

    Attributes:
        seed: of weights, batches and augmentation.
        plain_learning_rate: that of the plain dual encoder; None for the preset, with its own.
        steps: optimizer steps; by default the preset's.
        flags: of run_t2i_reid.py.
    """

    seed: int
    plain_learning_rate: float | None
    steps: int | None
    flags: tuple[str, ...]

    @property
    def file_name(self) -> str:
        """Where its result is kept."""
        model = "preset" if self.plain_learning_rate is None else f"plain-{self.plain_learning_rate:g}"
        return f"{model}-seed{self.seed}-steps{self.steps or 'default'}.json"


@dataclasses.dataclass
class Result:
    """What a run gave: optimizer steps, training seconds without evaluation, the best validation mAP of its
    checkpoints, and that checkpoint's test figures as fractions, clothes-changing ones at β=0."""

    steps: int
    seconds: float
    validation_mAP: float
    rank1: float
    mAP: float
    clothes_changing_mAP: float


def result_of(cell: Cell, output_dir: Path) -> Result:
    """The kept result of a cell, or that of a run made now.

    Raises:
        SystemExit: the kept one is of other flags.
    """
    path = output_dir / cell.file_name
    if path.exists():
        kept = json.loads(path.read_text())
        if kept["flags"] != list(cell.flags):
            raise SystemExit(f"{path} was run with the flags {kept['flags']}: choose another --output_dir")
        return Result(**kept["result"])
    print(f"running {path.stem}", flush=True)
    result = run(cell, output_dir)
    path.write_text(json.dumps({"flags": cell.flags, "result": dataclasses.asdict(result)}, indent=1))
    return result


def run(cell: Cell, output_dir: Path) -> Result:
    """Trains and tests as the command does; its folder is thrown away."""
    with tempfile.TemporaryDirectory(dir=output_dir) as folder:
        flags = [*cell.flags, f"--seed={cell.seed}", f"--output_dir={folder}"]
        model_args, data_args, args, model_fields = parse_arguments(flags)
        if cell.steps is not None:
            evaluations = max(1, round(args.max_steps / (args.eval_steps or args.max_steps)))  # as many as the preset
            args.eval_steps = args.save_steps = max(1, cell.steps // evaluations)
            args.max_steps = cell.steps
        set_seed(args.seed)
        splits = load_splits(data_args, args)
        model, processor = build_model(model_args, data_args, model_fields, tokenizer_of(splits))
        if cell.plain_learning_rate is None:
            trainer = new_trainer(model, args, processor, data_args, splits)
            train_and_save(trainer, checkpoint=None)
            run_folder = Path(folder)
        else:
            args.learning_rate = cell.plain_learning_rate
            # Nor does it spend time on reading texts that it has no use for.
            captions_alone = splits["train"].remove_columns(["identity_description", "clothing_description"])
            splits = DatasetDict({**splits, "train": captions_alone})
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
        **{name: tested[f"eval_{name}"] for name in FIGURES},
    )


def print_rows(name: str, seeds: list[int], results: list[Result]) -> dict[str, float]:
    """One line a seed and one of the mean, in per cent; returns the mean figures as fractions."""
    means = {figure: statistics.mean(getattr(result, figure) for result in results) for figure in FIGURES}
    for seed, result in zip(seeds, results, strict=True):
        figures = "  ".join(f"{100 * getattr(result, figure):7.2f}" for figure in FIGURES)
        print(f"{name:26} {seed:>4} {result.steps:6d}  {figures}  {result.seconds:8.1f}")
    seconds = statistics.mean(result.seconds for result in results)
    print(f"{name:26} mean {'':6}  {'  '.join(f'{100 * value:7.2f}' for value in means.values())}  {seconds:8.1f}")
    return means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--max_steps", type=int, help="steps of the preset, instead of its own number")
    parser.add_argument("--plain_learning_rates", type=float, nargs="+", default=[1e-3, 2e-3, 3e-3, 5e-3])
    parser.add_argument("--output_dir", type=Path, required=True)
    arguments, other_flags = parser.parse_known_args()
    seeds, rates, output_dir = arguments.seeds, arguments.plain_learning_rates, arguments.output_dir
    output_dir.mkdir(parents=True, exist_ok=True)
    flags = tuple(other_flags)

    ours = [result_of(Cell(seed, None, arguments.max_steps, flags), output_dir) for seed in seeds]

    def plain(seed: int, rate: float, steps: int) -> Result:
        return result_of(Cell(seed, rate, steps, flags), output_dir)

    tried = {rate: plain(seeds[0], rate, ours[0].steps).validation_mAP for rate in rates}
    rate = max(tried, key=lambda rate: tried[rate])
    equal_steps = [plain(seed, rate, result.steps) for seed, result in zip(seeds, ours, strict=True)]
    equal_time = [
        plain(seed, rate, int(result.seconds / (same_steps.seconds / same_steps.steps)))
        for seed, result, same_steps in zip(seeds, ours, equal_steps, strict=True)
    ]

    print("\nplain, validation mAP by learning rate: " + ", ".join(f"{r:g}: {100 * v:.2f}" for r, v in tried.items()))
    if len(rates) > 1 and rate in (min(rates), max(rates)):
        print(f"{rate:g} is the best and at the edge of what was tried: try further learning rates")
    print(f"\n{'test, per cent':26} seed  steps  rank-1      mAP  clothes-changing mAP  seconds")
    means = print_rows("preset", seeds, ours)
    means_steps = print_rows("plain, equal steps", seeds, equal_steps)
    means_time = print_rows("plain, equal time", seeds, equal_time)
    for what, other, points in (("steps", means_steps, 5), ("time", means_time, 0)):
        gain = 100 * (means["rank1"] - other["rank1"])
        times = means["clothes_changing_mAP"] / other["clothes_changing_mAP"]
        print(f"\nequal {what}: rank-1 {gain:+.2f} points (wanted: {points:+d} or more)")
        print(f"equal {what}: clothes-changing mAP x {times:.2f} (wanted: 2 or more)")


if __name__ == "__main__":
    main()
