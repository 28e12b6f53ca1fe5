"""Finds the checkpoint that an interrupted run resumes from."""

import json
from pathlib import Path

from transformers.utils import logging

from .saving import ARGUMENTS_FILE
from .training_args import BDAMTrainingArguments

# Settings in the state of an optimizer, which a checkpoint restores
_RESTORED = (
    "learning_rate",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "gradnorm_learning_rate",
)

logger = logging.get_logger(__name__)


def find_checkpoint(args: BDAMTrainingArguments) -> str | None:
    """Returns the checkpoint that an interrupted run resumes from, or None for a new run.

    Raises:
        ValueError: the output folder holds a finished run, `resume_from_checkpoint` names no checkpoint, or the
            checkpoint would replace another value of an argument, such as `learning_rate`.
    """
    folder = Path(args.output_dir)
    if (folder / "all_results.json").exists():
        raise ValueError(f"{folder} already holds a finished run: choose another --output_dir, or delete that folder")
    if args.resume_from_checkpoint is not None:
        if not Path(args.resume_from_checkpoint, "trainer_state.json").is_file():
            raise ValueError(
                f"--resume_from_checkpoint {args.resume_from_checkpoint}: no checkpoint; name a folder checkpoint-STEP"
            )
        _check_restored(Path(args.resume_from_checkpoint), args)
        return args.resume_from_checkpoint
    # The trainer state is written last, so a checkpoint without it is incomplete.
    complete = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json") if path.stat().st_size]
    if not complete:
        return None
    newest = max(complete, key=lambda path: int(path.name.rpartition("-")[2]))
    _check_restored(newest, args)
    logger.warning(f"{folder} holds an unfinished run: resuming from {newest.name}")
    return str(newest)


def _check_restored(checkpoint: Path, args: BDAMTrainingArguments) -> None:
    """Raises ValueError if a checkpoint has another value of an argument that it restores."""
    file = checkpoint / ARGUMENTS_FILE
    saved = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for name in _RESTORED:
        if saved.get(name, getattr(args, name)) != getattr(args, name):
            raise ValueError(
                f"--{name} is {getattr(args, name)}, but {checkpoint} was trained with {saved[name]} and a resumed run "
                "keeps it: give the same value, or another --output_dir"
            )


__all__ = ["find_checkpoint"]
