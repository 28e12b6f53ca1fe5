"""A preset, compared with a plain dual encoder: `python tests/benchmarks/plain_dual_encoder.py --output_dir DIR`.

The baseline has the same towers, texts (a caption, or both descriptions joined), optimizer and schedule, but is trained
only with InfoNCE on shuffled batches. Its settings are the `--sweep` entry with the best validation mAP on the first
seed at `--sweep_steps`. Then each seed trains the preset, and the baseline for the same time: clock time of the steps
without evaluation, so the machine should have no other load.

Targets for the mean over seeds, with the β that validation chose: rank-1 at least 3 points higher, and clothes-changing
mAP with β = 0 at least 3 times as high. DIR keeps finished runs as JSON. Unknown flags are passed to
run_t2i_reid.py for both models.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
from pathlib import Path

from transformers import set_seed

from data_pipeline.training import (
    chooses_beta,
    load_splits,
    new_trainer,
    tokenizer_of,
    train_and_save,
    train_plain,
    use_every_core,
)
from modeling_bdam.files import write_json
from modeling_bdam.training.build import build_model
from modeling_bdam.training.run_arguments import parse_arguments
from modeling_bdam.training.trainer import BDAMTrainer

METRICS = ("rank1", "mAP", "clothes_changing_mAP")
SWEEP = (
    *("learning_rate=1e-3", "learning_rate=2e-3", "learning_rate=4e-3"),
    "learning_rate=2e-3 config_overrides=logit_scale_init_value=3.4",
)


@dataclasses.dataclass
class Result:
    """Steps, seconds per step, β, best validation mAP, and test metrics (0 to 1) of that checkpoint."""

    steps: int
    seconds_per_step: float
    beta: float
    validation_mAP: float
    rank1: float
    mAP: float
    clothes_changing_mAP: float


def result_of(trainer: BDAMTrainer, test: object) -> Result:
    """Evaluates a trained model on the test split."""
    tested = trainer.score(trainer.encode(test))
    return Result(
        steps=trainer.state.global_step,
        seconds_per_step=trainer.seconds_per_step(),
        beta=trainer.accelerator.unwrap_model(trainer.model).config.clothing_weight,
        validation_mAP=max(entry["eval_mAP"] for entry in trainer.state.log_history if "eval_mAP" in entry),
        **{name: tested[f"eval_{name}"] for name in METRICS},
    )


def run(path: Path, flags: list[str], plain_flags: str, with_model: bool) -> dict[str, Result]:
    """Trains the preset if `with_model`, and the baseline; reads the results from a file that has the same flags.

    Raises:
        SystemExit: the file is from a run with other flags.
    """
    key = [*flags, plain_flags]
    if path.exists():
        kept = json.loads(path.read_text())
        if kept["flags"] != key:
            raise SystemExit(f"{path} has the flags {kept['flags']}: choose another --output_dir")
        return {name: Result(**result) for name, result in kept["results"].items()}
    print(f"running {path.stem}", flush=True)
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        model_args, data_args, args, model_fields = parse_arguments([*flags, f"--output_dir={folder}"])
        use_every_core(args)
        set_seed(args.seed)
        splits = load_splits(data_args, args)
        model, processor = build_model(model_args, data_args, model_fields, tokenizer_of(splits))
        trainer = new_trainer(model, args, processor, data_args, splits)
        if with_model:
            train_and_save(trainer, None, chooses_beta(model_args, args))
            results["preset"] = result_of(trainer, splits["test"])
        # The settings of the sweep apply to the baseline only
        model_args, data_args, args, model_fields = parse_arguments(
            [*flags, *(f"--{flag}" for flag in plain_flags.split()), f"--output_dir={folder}"]
        )
        model_args.compare_by = "time" if with_model else "steps"
        trainer.args.learning_rate = args.learning_rate
        trainer.accelerator.unwrap_model(trainer.model).config.logit_scale_init_value = model_fields.get(
            "logit_scale_init_value", model.config.logit_scale_init_value
        )
        results["plain"] = result_of(train_plain(trainer, model_args, data_args, splits), splits["test"])
    write_json(path, {"flags": key, "results": {name: dataclasses.asdict(each) for name, each in results.items()}})
    return results


def print_rows(name: str, seeds: list[int], results: list[Result]) -> dict[str, float]:
    """Prints the metrics of each seed and their mean, in per cent; returns the mean metrics (0 to 1)."""
    means = {metric: statistics.mean(getattr(result, metric) for result in results) for metric in METRICS}
    for seed, result in zip(seeds, results, strict=True):
        values = "  ".join(f"{100 * getattr(result, metric):7.2f}" for metric in METRICS)
        time = f"{result.seconds_per_step:.3f}  {result.steps * result.seconds_per_step:6.0f}"
        print(f"{name:8} {seed:>4} {result.steps:6d} {result.beta:5g}  {values}  {time}")
    print(f"{name:8} mean {'':12}  {'  '.join(f'{100 * value:7.2f}' for value in means.values())}")
    return means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sweep", nargs="*", default=list(SWEEP), help="flags of the baseline to try, without --")
    parser.add_argument("--sweep_steps", type=int, default=600)
    parser.add_argument("--output_dir", type=Path, required=True)
    arguments, flags = parser.parse_known_args()
    folder: Path = arguments.output_dir
    folder.mkdir(parents=True, exist_ok=True)

    best, mean_precision = "", -1.0
    for number, setting in enumerate(arguments.sweep):
        steps = [f"--{kind}_steps={arguments.sweep_steps}" for kind in ("max", "eval", "save")]
        seed = f"--seed={arguments.seeds[0]}"
        found = run(folder / f"sweep-{number}.json", [*flags, *steps, seed], setting, with_model=False)["plain"]
        print(f"plain, {setting}: validation mAP {100 * found.validation_mAP:.2f} at {found.steps} steps", flush=True)
        if found.validation_mAP > mean_precision:
            best, mean_precision = setting, found.validation_mAP

    results = [run(folder / f"seed-{seed}.json", [*flags, f"--seed={seed}"], best, True) for seed in arguments.seeds]
    print(f"\n{'':8} seed  steps     β   rank-1      mAP  clothes-changing mAP  s/step  seconds")
    ours, plain = (print_rows(name, arguments.seeds, [each[name] for each in results]) for name in ("preset", "plain"))
    print(f"\nrank-1 {100 * (ours['rank1'] - plain['rank1']):+.2f} points (target: +3 or more)")
    times = ours["clothes_changing_mAP"] / plain["clothes_changing_mAP"]
    print(f"clothes-changing mAP x {times:.2f} (target: 3 or more)")


if __name__ == "__main__":
    main()
