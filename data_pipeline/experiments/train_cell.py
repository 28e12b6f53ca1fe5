"""Trains one cell and writes its result: `python -m data_pipeline.experiments.train_cell FOLDER --threads N`."""

import argparse
import datetime
import shutil
import time
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets import Dataset
from filelock import FileLock
from transformers import set_seed
from transformers.utils import logging

from modeling_bdam.training.build import build_model
from modeling_bdam.training.checkpoints import find_checkpoint
from modeling_bdam.training.run_arguments import parse_arguments
from modeling_bdam.training.trainer import BDAMTrainer

from ..benchmarks.loading import load_person_dataset
from ..sheets.occlusion_map import draw_attention
from ..sheets.retrieval_sheet import draw_retrieval
from ..styles.style_captions import with_styled_captions
from ..training import load_splits, new_trainer, synthetic_size, tokenizer_of, train_and_save
from .cells import FAILURE_FILE, Cell, write_json, write_text
from .corruption import corrupt_texts
from .features import branch_features, save_features
from .plan import check_settings, training_flags
from .provenance import provenance

_RUNTIME = ("runtime", "samples_per_second", "steps_per_second")


def train_cell(folder: Path, threads: int | None = None) -> None:
    """Trains the cell in a folder, or goes on from its last checkpoint; nothing, if it is finished.

    The folder then holds `result.json`, and what its `keep` names; or `failure.txt` with the error that is raised.
    Whoever else trains the same cell waits.

    Args:
        folder: OUTPUT_DIR/cells/KEY, with the `cell.json` that `Cell.save` wrote.
        threads: CPU threads; by default torch's own number.
    """
    started = time.time()
    cell = Cell.load(folder)
    with FileLock(folder / ".lock"):
        if not cell.is_finished(folder.parents[1]):
            (folder / FAILURE_FILE).unlink(missing_ok=True)
            try:
                _train(cell, folder, threads, started)
            except Exception as error:
                reason = str(error).replace(str(folder), f"cells/{cell.key}")  # the report is for other machines too
                write_text(folder / FAILURE_FILE, f"{type(error).__name__}: {reason}\n")
                raise
        shutil.rmtree(folder / "run", ignore_errors=True)


def _train(cell: Cell, folder: Path, threads: int | None, started: float) -> None:
    check_settings(cell, folder)
    model_args, data_args, args, model_fields = parse_arguments(training_flags(folder, cell.seed))
    checkpoint = find_checkpoint(args)
    if threads is not None:
        torch.set_num_threads(threads)
    set_seed(cell.seed)
    splits = load_splits(data_args, args)
    splits["train"] = prepare_texts(splits["train"], cell.settings.get("texts", {}), cell.seed)
    model, processor = build_model(model_args, data_args, model_fields, tokenizer_of(splits))
    trainer = new_trainer(model, args, processor, data_args, splits)
    trained = train_and_save(trainer, checkpoint)
    test = trainer.encode(splits["test"])
    beta = model.config.clothing_weight

    if "features" in cell.keep:
        encoded = {"test": test, "validation": trainer.encode(splits["validation"])}
        branches = {"test": branch_features(trainer, splits["test"])}
        if data_args.dataset_name == ["synthetic"]:
            branches["probe"] = branch_features(trainer, probe_rows(data_args, cell.probe_people))
        save_features(folder / "features.npz", encoded, branches, beta)
    if "model" in cell.keep:
        trainer.save_model(str(folder / "model"))
    if "examples" in cell.keep:
        draw_retrieval(test, splits["test"], beta, folder / "examples" / "retrieval.png")
        draw_attention(model, processor, splits["test"], folder / "examples" / "attention.png")
    write_json(
        folder / "result.json",
        {
            "key": cell.key,
            "seed": cell.seed,
            "settings": cell.settings,
            "clothing_weight": beta,
            "test": without_prefix(trainer.score(test)),
            "queries": len(test.queries),
            "gallery": len(test.gallery),
            "people": len(test.gallery_ids.unique()),
            **best_checkpoint(trainer),
            "steps": trainer.state.global_step,
            # Of a run that was stopped, only the last part is known.
            "train_seconds": None if checkpoint else round(trained["train_runtime"] - evaluation_seconds(trainer), 1),
            "seconds": round(time.time() - started, 1),
            "resumed": checkpoint is not None,
            "threads": torch.get_num_threads(),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "finished": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            **provenance(),
        },
    )


def prepare_texts(rows: Dataset, texts: dict[str, Any], seed: int) -> Dataset:
    """The training rows with what an experiment does to their texts (`Row.overrides`)."""
    if "style_clustering" in texts and "styled_captions" not in rows.column_names:
        rows = with_styled_captions(rows, texts["style_clustering"], seed)
    if texts.get("noise"):
        rows = corrupt_texts(rows, texts["noise"], seed, right_alone=texts.get("right_alone", False))
    return rows


def probe_rows(data_args: Any, people: int) -> Dataset:
    """Images of synthetic people whom neither training nor test has seen."""
    test_people = data_args.synthetic_test_people
    size = synthetic_size(data_args) | {"num_test_people": test_people + people}
    rows = load_person_dataset("synthetic", synthetic=size, cache_dir=data_args.cache_dir)["test"]
    images_per_person = len(rows) // (test_people + people)
    return rows.select(range(test_people * images_per_person, len(rows)))


def best_checkpoint(trainer: BDAMTrainer) -> dict[str, Any]:
    """The figures on the validation split that the checkpoint was picked by, and its step."""
    evaluations = [entry for entry in trainer.state.log_history if "eval_mAP" in entry]
    best = max(evaluations, key=lambda entry: entry["eval_mAP"])
    return {"best_step": best["step"], "validation": without_prefix(best)}


def evaluation_seconds(trainer: BDAMTrainer) -> float:
    """How long this process spent on the validation split."""
    return sum(entry.get("eval_runtime", 0.0) for entry in trainer.state.log_history)


def without_prefix(metrics: dict[str, float]) -> dict[str, float]:
    """`eval_rank1` as `rank1`; other entries and timings are dropped."""
    found = {name.removeprefix("eval_"): value for name, value in metrics.items() if name.startswith("eval_")}
    return {name: value for name, value in found.items() if name not in _RUNTIME}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    datasets.disable_progress_bars()  # the log is no place for them
    logging.disable_progress_bar()
    train_cell(arguments.folder, arguments.threads)


if __name__ == "__main__":
    main()
