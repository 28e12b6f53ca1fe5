"""Rows of all processes, with gradient: what makes a split batch train like the whole one.

Each process keeps its own rows and sets them against the columns of all. Its loss is the mean over its rows; the mean
of these losses over processes, which is what DDP's averaged gradients follow, is then exactly the whole batch's loss.
"""

from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor

from ..objective_bdam import COLUMN_FIELDS, PairLabels
from ..outputs_bdam import BDAMOutput


class _AllGather(torch.autograd.Function):
    """Concatenation over processes; each row's gradient is the sum of what every process's loss asks of it."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]


def gather_with_gradient(rows: Tensor) -> Tensor:
    """[N, ...] of this process to [W * N, ...] of all W, in rank order; N is the same on every process."""
    return _AllGather.apply(rows)


def gather_outputs(output: BDAMOutput, accelerator: Accelerator) -> BDAMOutput:
    """The outputs of all processes' rows, as far as losses compare rows with one another."""
    if accelerator.num_processes == 1:
        return output
    columns: dict[str, Any] = {}
    for name in COLUMN_FIELDS:
        if output.get(name) is not None:
            columns[name] = gather_with_gradient(output[name])
    return BDAMOutput(**columns)


def gather_labels(person_ids: Tensor, inputs: dict[str, Tensor], accelerator: Accelerator) -> PairLabels:
    """Which of this process's rows belong with which rows of all processes.

    Args:
        person_ids: [N].
        inputs: the batch; its descriptions, where there are any, are compared as texts.
        accelerator: gathers.
    """

    def gather(ids: Tensor) -> Tensor:
        return accelerator.gather(accelerator.pad_across_processes(ids, dim=1) if ids.ndim > 1 else ids)

    def both(kind: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
        if f"{kind}_input_ids" not in inputs:
            return None
        ids, mask = inputs[f"{kind}_input_ids"], inputs[f"{kind}_attention_mask"]
        return (ids, mask), (gather(ids), gather(mask))

    offset = accelerator.process_index * len(person_ids)
    return PairLabels.of_rows(person_ids, gather(person_ids), offset, both("identity"), both("clothing"))


def whole_batch_norms(norms: Tensor, accelerator: Accelerator) -> Tensor:
    """Gradient norms of the whole batch's losses from those of each process's rows, [K].

    A process's rows receive the gradients of W losses that are averaged in the end, so the whole batch's gradient
    with respect to all rows has the squared norm `sum over processes (norm / W)^2`.
    """
    if accelerator.num_processes == 1:
        return norms
    return accelerator.reduce(norms.square(), "sum").sqrt() / accelerator.num_processes
