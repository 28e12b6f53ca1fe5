"""Trains one run and writes its result: `python -m data_pipeline.experiments.train_run FOLDER --threads N`."""

import argparse
import copy
import datetime
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets import Dataset
from filelock import FileLock
from transformers import EarlyStoppingCallback, set_seed
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from transformers.utils import logging

from modeling_bdam import BDAMProcessor
from modeling_bdam.evaluation.protocols import chance_metrics
from modeling_bdam.files import write_json, write_text
from modeling_bdam.training.build import build_model
from modeling_bdam.training.checkpoints import find_checkpoint
from modeling_bdam.training.trainer import BDAMTrainer
from modeling_bdam.training.training_args import BDAMTrainingArguments

from ..benchmarks.loading import load_person_dataset
from ..sheets.occlusion_map import draw_attention
from ..sheets.retrieval_sheet import draw_retrieval
from ..styles.style_captions import with_styled_captions
from ..synthetic.dataset import SYNTHETIC_SETS
from ..training import TIMED_STEPS, load_splits, new_trainer, synthetic_size, tokenizer_of, train_and_save
from .ceiling import ceiling_metrics
from .corruption import corrupt_texts
from .features import branch_features, save_features
from .plan import parse_settings
from .provenance import provenance
from .ranks import query_ranks
from .runs import FAILURE_FILE, TrainingRun

_RUNTIME = ("runtime", "samples_per_second", "steps_per_second")


def train_run(folder: Path, threads: int | None = None) -> None:
    """Trains the run in a folder, resuming from its last checkpoint; does nothing if the run is finished.

    Writes `result.json` and the outputs in `keep`, or `failure.txt` with the error that is raised. A file lock makes
    other processes that train the same run wait.

    Args:
        folder: OUTPUT_DIR/runs/KEY, with the `run.json` that `TrainingRun.save` wrote.
        threads: number of CPU threads; by default that of torch.
    """
    started = time.time()
    run = TrainingRun.load(folder)
    with FileLock(folder / ".lock"):
        if not run.is_finished(folder.parents[1]):
            (folder / FAILURE_FILE).unlink(missing_ok=True)
            try:
                _train(run, folder, threads, started)
            except Exception as error:
                reason = str(error).replace(str(folder), f"runs/{run.key}")  # the report must not show local paths
                write_text(folder / FAILURE_FILE, f"{type(error).__name__}: {reason}\n")
                raise
        shutil.rmtree(folder / "trainer", ignore_errors=True)


def _train(run: TrainingRun, folder: Path, threads: int | None, started: float) -> None:
    # Settings, data and model.
    model_args, data_args, args, model_fields = parse_settings(run, folder)
    checkpoint = find_checkpoint(args)
    if threads is not None:
        torch.set_num_threads(threads)
    schedule = run.settings.get("schedule", {})
    splits = load_splits(data_args, args)
    splits["train"], styles = prepare_texts(splits["train"], run.settings.get("texts", {}), run.seed)

    def build(arguments: BDAMTrainingArguments) -> BDAMTrainer:
        set_seed(run.seed)
        parts = build_model(model_args, data_args, model_fields, tokenizer_of(splits))
        return new_trainer(parts[0], arguments, parts[1], data_args, splits)

    if run.timed_as is not None:
        # Does nothing if the other run is finished, and waits if it is in progress.
        train_run(folder.parent / run.timed_as, threads)
        _set_equal_time(args, folder, folder.parent / run.timed_as, build)
    trainer = build(args)
    if "patience" in schedule:
        trainer.add_callback(EarlyStoppingCallback(schedule["patience"]))

    # Training, and encoding of the test split by the best checkpoint.
    trained = train_and_save(trainer, checkpoint)
    test = trainer.encode(splits["test"])
    model, processor = trainer.accelerator.unwrap_model(trainer.model), trainer.processing_class
    assert isinstance(processor, BDAMProcessor)
    beta, matching = model.config.clothing_weight, (model.config.matching_weight, model.config.matching_candidates)
    bounds = {"chance": chance_metrics(test)}
    if data_args.dataset_name[0] in SYNTHETIC_SETS:
        bounds["ceiling"] = ceiling_metrics(splits["test"])

    # Outputs to keep.
    if "features" in run.keep:
        encoded = {"test": test, "validation": trainer.encode(splits["validation"])}
        branches = {"test": branch_features(trainer, splits["test"])}
        if data_args.dataset_name[0] in SYNTHETIC_SETS:
            branches["probe"] = branch_features(trainer, probe_rows(data_args, run.probe_people))
        save_features(folder / "features.npz", encoded, branches, beta)
    if "model" in run.keep:
        trainer.save_model(str(folder / "model"))
    if "examples" in run.keep:
        draw_retrieval(test, splits["test"], beta, folder / "examples" / "retrieval.png")
        draw_attention(model, processor, splits["test"], folder / "examples" / "attention.png")
    evaluation = sum(entry.get("eval_runtime", 0.0) for entry in trainer.state.log_history)
    write_json(
        folder / "result.json",
        {
            "run": run.key,
            "seed": run.seed,
            "settings": run.settings,
            **({"styles": styles} if styles else {}),
            "clothing_weight": beta,
            "matching": matching if test.candidates is not None else None,
            "test": without_prefix(trainer.score(test)),
            "ranks": query_ranks(test, beta, matching),
            "bounds": bounds,
            "queries": len(test.queries),
            "gallery": len(test.gallery),
            "people": len(test.gallery_ids.unique()),
            **best_checkpoint(trainer),
            "steps": trainer.state.global_step,
            "seconds_per_step": round(trainer.seconds_per_step(), 4),
            # For a resumed run, only the time of the last part is known.
            "train_seconds": None if checkpoint else round(trained["train_runtime"] - evaluation, 1),
            "seconds": round(time.time() - started, 1),
            "resumed": checkpoint is not None,
            "threads": torch.get_num_threads(),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "finished": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            **provenance(),
        },
    )


def _set_equal_time(
    args: BDAMTrainingArguments, folder: Path, other: Path, build: Callable[[BDAMTrainingArguments], BDAMTrainer]
) -> None:
    """Sets the length of a training to the time of another run, by the seconds per step of both.

    Args:
        args: changed in place: as many evaluations as in the other run.
        folder: of this run; stores the ratio, so that a resumed run has the same length.
        other: folder of the finished run.
        build: a new trainer of this run; trains a few steps that are timed.
    """
    file = folder / "equal_time.json"
    if not file.is_file():
        probe = copy.deepcopy(args)
        probe.max_steps, probe.eval_strategy, probe.save_strategy = TIMED_STEPS, IntervalStrategy.NO, SaveStrategy.NO
        probe.load_best_model_at_end, probe.logging_strategy, probe.logging_steps = False, IntervalStrategy.STEPS, 2
        timed = build(probe)
        timed.train()
        result = json.loads((other / "result.json").read_text(encoding="utf-8"))
        write_json(file, {"ratio": result["seconds_per_step"] / timed.seconds_per_step()})
    ratio = json.loads(file.read_text(encoding="utf-8"))["ratio"]
    if args.max_steps > 0:
        evaluations = max(1, args.max_steps // int(args.eval_steps or args.max_steps))
        every = max(1, round(args.max_steps * ratio / evaluations))
        args.max_steps, args.eval_steps, args.save_steps = every * evaluations, every, every
    else:
        args.num_train_epochs *= ratio


def prepare_texts(rows: Dataset, texts: dict[str, Any], seed: int) -> tuple[Dataset, dict[str, str | int] | None]:
    """Applies the section `texts` of `Row.overrides` to the training rows; also returns the facts of `FoundStyles`."""
    styles = None
    if "style_clustering" in texts and "styled_captions" not in rows.column_names:
        unbalanced = texts.get("annotators") == "unbalanced"
        rows, styles = with_styled_captions(rows, texts["style_clustering"], seed, unbalanced)
    if texts.get("noise"):
        rows = corrupt_texts(rows, texts["noise"], seed, clean_only=texts.get("clean_only", False))
    return rows, styles


def probe_rows(data_args: Any, people: int) -> Dataset:
    """Images of additional synthetic people who are in no split."""
    test_people = data_args.synthetic_test_people
    size = synthetic_size(data_args) | {"num_test_people": test_people + people}
    rows = load_person_dataset(data_args.dataset_name[0], synthetic=size, cache_dir=data_args.cache_dir)["test"]
    images_per_person = len(rows) // (test_people + people)
    return rows.select(range(test_people * images_per_person, len(rows)))


def best_checkpoint(trainer: BDAMTrainer) -> dict[str, Any]:
    """The validation metrics of the selected checkpoint, and its step."""
    evaluations = [entry for entry in trainer.state.log_history if "eval_mAP" in entry]
    best = max(evaluations, key=lambda entry: entry["eval_mAP"])
    return {"best_step": best["step"], "validation": without_prefix(best)}


def without_prefix(metrics: dict[str, float]) -> dict[str, float]:
    """Renames `eval_rank1` to `rank1`, and drops other entries and timings."""
    found = {name.removeprefix("eval_"): value for name, value in metrics.items() if name.startswith("eval_")}
    return {name: value for name, value in found.items() if name not in _RUNTIME}


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    train_run(arguments.folder, arguments.threads)


if __name__ == "__main__":
    main()
