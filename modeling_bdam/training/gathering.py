"""All-gather with gradient, so that a batch divided over processes has the loss of the whole batch.

Each rank computes the logits of its local batch against the all-gathered batch, [N_local, N_global]. Its loss is the
mean over its local rows. DDP averages the gradients over ranks: exactly the gradient of the loss of the whole batch.
"""

import gc
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor

from ..objective_bdam import GATHERED_FIELDS, PairLabels
from ..outputs_bdam import BDAMOutput


class _AllGather(torch.autograd.Function):
    """All-gather; the backward pass sums the gradients of a row over the losses of all ranks (all-reduce)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)  # [W * N, ...]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]  # [N, ...]


def gather_with_gradient(rows: Tensor) -> Tensor:
    """Concatenates the [N, ...] of W ranks to [W * N, ...] in rank order; N must be equal on every rank."""
    return _AllGather.apply(rows)


def gather_outputs(output: BDAMOutput, accelerator: Accelerator) -> BDAMOutput:
    """Gathers the output fields that the losses compare between rows, from all ranks."""
    if accelerator.num_processes == 1:
        return output
    fields = [name for name in GATHERED_FIELDS if output.get(name) is not None]
    gathered: dict[str, Any] = {}
    for name in fields:
        rows = output[name]
        if name in ("caption_tokens", "caption_mask"):  # the texts of each rank are padded to another length
            rows = accelerator.pad_across_processes(rows, dim=1)
        gathered[name] = gather_with_gradient(rows)
    return BDAMOutput(**gathered)


def gather_labels(person_ids: Tensor, inputs: dict[str, Tensor], accelerator: Accelerator) -> PairLabels:
    """Computes which local rows and which gathered rows are positives.

    Args:
        person_ids: persons of the local rows, [N].
        inputs: the batch; its descriptions, if any, are compared as texts.
        accelerator: gathers the ids and texts of all ranks.
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
    """Computes the gradient norms of the losses of the whole batch from those of the local rows, [K].

    Local rows receive the sum of the gradients of W losses, which DDP averages. So the squared norm of the gradient by
    all rows is the sum of (norm / W)^2 over the ranks.
    """
    if accelerator.num_processes == 1:
        return norms
    return accelerator.reduce(norms.square(), "sum").sqrt() / accelerator.num_processes


def end_process_group() -> None:
    """Destroys the process group and ends its threads, as the last call of a process.

    A DDP wrapper that is not freed, because references to it form a cycle, keeps the threads of gloo running. A thread
    that releases a tensor while the interpreter shuts down aborts the process (SIGABRT).
    """
    gc.collect()
    if dist.is_initialized():
        dist.barrier()  # a rank that leaves early would abort the others
        dist.destroy_process_group()
