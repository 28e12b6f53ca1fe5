"""Errors that stop a training; checkpoints that were saved before are unchanged."""

from .training_args import BDAMTrainingArguments


class TrainingStoppedError(RuntimeError):
    """A training cannot continue."""


class NoBatchSizeError(TrainingStoppedError):
    """`auto_find_batch_size` found no batch size that fits into memory."""


class NonFiniteLossError(TrainingStoppedError):
    """The loss or gradient of a task is NaN or infinite."""


def non_finite(problem: str, step: int, args: BDAMTrainingArguments) -> NonFiniteLossError:
    """Returns the error for a loss or gradient that is not finite in a step, counted from 1."""
    return NonFiniteLossError(
        f"{problem} at step {step}; training stops, checkpoints saved before it are kept in {args.output_dir}. Lower "
        "--learning_rate or set --max_grad_norm"
    )


__all__ = ["NoBatchSizeError", "NonFiniteLossError", "TrainingStoppedError", "non_finite"]
