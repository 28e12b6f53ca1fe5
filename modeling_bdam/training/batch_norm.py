"""Batch norms of towers (ResNet) in training: statistics of the whole batch, and none of frozen layers."""

from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .gathering import gather_with_gradient


class WholeBatchNorm(_BatchNorm):
    """A batch norm that normalizes by the statistics of all processes, on CPUs too, unlike `nn.SyncBatchNorm`."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalizes [N, C, ...], with the same N on every rank."""
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(x)
        dims, values = [0, *range(2, x.ndim)], x.float()
        variances, means = torch.var_mean(values, dims, correction=0)  # [C] each, of the local rows
        means, variances = gather_with_gradient(torch.stack([means, variances])[None]).unbind(1)  # [W, C] each
        mean = means.mean(dim=0)  # [C]
        variance = (variances + (means - mean).square()).mean(dim=0)  # [C]
        self._track(mean.detach(), variance.detach(), x.numel() // x.shape[1] * dist.get_world_size())
        shape = (-1, *(1 for _ in dims[1:]))  # broadcasts over [N, C, ...]
        normalized = (values - mean.view(shape)) * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normalized = normalized * self.weight.view(shape) + self.bias.view(shape)
        return normalized.to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        momentum = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * count / (count - 1), momentum)

    def _check_input_dim(self, input: Tensor) -> None:
        """Accepts each number of dimensions."""


def use_whole_batch_norms(model: nn.Module) -> None:
    """Turns the batch norms of a model into `WholeBatchNorm`, in place; parameters and names stay."""
    for module in model.modules():
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d):
            module.__class__ = WholeBatchNorm


def rest_frozen_norms(model: nn.Module) -> None:
    """Puts frozen batch norms into evaluation mode, which keeps their running statistics."""
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.affine and not cast(Tensor, module.weight).requires_grad:
            module.eval()
