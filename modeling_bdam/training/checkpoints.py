"""Finds the checkpoint that an interrupted run resumes from."""

from pathlib import Path

from transformers.utils import logging

from .training_args import BDAMTrainingArguments

logger = logging.get_logger(__name__)


def find_checkpoint(args: BDAMTrainingArguments) -> str | None:
    """Returns the checkpoint that an interrupted run resumes from, or None for a new run.

    Raises:
        ValueError: the output folder holds a finished run, or `resume_from_checkpoint` names no checkpoint.
    """
    folder = Path(args.output_dir)
    if (folder / "all_results.json").exists():
        raise ValueError(f"{folder} already holds a finished run: choose another --output_dir, or delete that folder")
    if args.resume_from_checkpoint is not None:
        if not Path(args.resume_from_checkpoint, "trainer_state.json").is_file():
            raise ValueError(
                f"--resume_from_checkpoint {args.resume_from_checkpoint}: no checkpoint; name a folder checkpoint-STEP"
            )
        return args.resume_from_checkpoint
    # The trainer state is written last, so a checkpoint without it is incomplete.
    complete = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json") if path.stat().st_size]
    if not complete:
        return None
    newest = max(complete, key=lambda path: int(path.name.rpartition("-")[2]))
    logger.warning(f"{folder} holds an unfinished run: resuming from {newest.name}")
    return str(newest)


__all__ = ["find_checkpoint"]
