"""The task weights of a run: fixed, or updated by GradNorm or learned uncertainty once per optimizer step."""

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DynamoBackend
from torch import Tensor

from ..outputs_bdam import BDAMOutput
from .errors import TrainingStoppedError, non_finite
from .gathering import whole_batch_norms
from .task_weighting import GradNorm, TaskWeighting, UncertaintyWeighting, shared_gradient_norms
from .training_args import BDAMTrainingArguments


class TaskBalance:
    """Weighs the losses of the batches of a run.

    In a run on rows with and without descriptions, only batches with all tasks update the weights.

    Args:
        args, accelerator: of the trainer.
        note: adds values to the next log entry.

    Attributes:
        weighting: the weights and their state; None before the first batch.
        tasks: names of all tasks of the run; by default those of the first batch.
    """

    def __init__(
        self, args: BDAMTrainingArguments, accelerator: Accelerator, note: Callable[[dict[str, Tensor]], None]
    ) -> None:
        self.args, self.accelerator, self.note = args, accelerator, note
        self.weighting: TaskWeighting | None = None
        self.tasks: list[str] = []
        self._micro_batches: list[tuple[Tensor, Tensor]] = []  # losses and gradient norms, since the last step

    def weights(self, losses: dict[str, Tensor], output: BDAMOutput, step: int) -> Tensor:
        """Returns the weights of a step, [K], and updates them after its last micro-batch.

        Args:
            losses: unweighted scalars by task.
            output: of the local batch; GradNorm reads its pooled branches.
            step: number of the step, from 1, for errors.
        """
        values = torch.stack([loss.detach() for loss in losses.values()])  # [K]
        if self.weighting is None:
            self.weighting = self._new_weighting(self.tasks or list(losses))
        tasks = self.weighting.tasks
        weights = self.weighting.weights[[tasks.index(task) for task in losses]]
        if len(losses) == len(tasks):
            norms = self._norms(losses, output, step) if self.args.gradnorm else torch.zeros_like(values)
            if bool(norms.isfinite().all()):  # otherwise the scaler of fp16 skips this step
                self._micro_batches.append((self.accelerator.reduce(values, "mean"), norms))
        if self.accelerator.sync_gradients and self._micro_batches:
            means = (torch.stack(part).mean(dim=0) for part in zip(*self._micro_batches, strict=True))  # [K] each
            self.weighting.update(*means)
            self._micro_batches.clear()
        return weights

    def load(self, state: dict[str, Any]) -> None:
        """Continues from the state of `weighting` in a checkpoint."""
        self.weighting = self._new_weighting(state["tasks"])
        self.weighting.load_state_dict(state)

    def _new_weighting(self, tasks: list[str]) -> TaskWeighting:
        args, rate = self.args, self.args.gradnorm_learning_rate
        if args.uncertainty_weighting:
            return UncertaintyWeighting(tasks, rate, device=args.device)
        settings: Any = {"device": args.device, "alpha_on": args.gradnorm_alpha_on}
        return GradNorm(tasks, args.gradnorm_alpha, rate, args.gradnorm_penalty, **settings)

    def _norms(self, losses: dict[str, Tensor], output: BDAMOutput, step: int) -> Tensor:
        """Computes the gradient norms of the losses by the pooled branches of the whole batch, [K]."""
        shared = [output.pooled_identity, output.pooled_clothing]  # [N, D] each
        scaler = self.accelerator.scaler
        norms = shared_gradient_norms(list(losses.values()), shared, 1.0 if scaler is None else scaler.get_scale())
        norms = whole_batch_norms(norms, self.accelerator)
        by_task = dict(zip(losses, norms, strict=True))
        if not bool(norms.any()) and any(bool(loss) for loss in losses.values()):
            raise TrainingStoppedError(
                f"GradNorm: the gradient norms of {', '.join(losses)} are all 0 at step {step}, so the tasks cannot be "
                "balanced: set --gradnorm false"
            )
        if bool(norms.isfinite().all()):
            self.note({f"gradient_norm_{task}": norm for task, norm in by_task.items()})
        elif scaler is None:
            problem = ", ".join(f"{task} {norm.item():.3g}" for task, norm in by_task.items())
            problem = f"the losses are finite, but the norms of their gradients are {problem}"
            raise non_finite(problem, step, self.args)
        return norms


def check_gradnorm(args: BDAMTrainingArguments, accelerator: Accelerator) -> None:
    """Refuses GradNorm where the outputs of the model do not depend on each other: all its norms would be 0."""
    options = {
        "--ddp_find_unused_parameters": args.ddp_find_unused_parameters,
        "--ddp_static_graph": args.ddp_static_graph,
        "--torch_compile (or a dynamo backend of accelerate)": (
            accelerator.state.dynamo_plugin.backend != DynamoBackend.NO
        ),
    }
    if refused := [option for option, is_set in options.items() if is_set]:
        raise ValueError(
            f"GradNorm cannot be combined with {' and '.join(refused)}: set --gradnorm false, or leave it out"
        )


__all__ = ["TaskBalance", "check_gradnorm"]
