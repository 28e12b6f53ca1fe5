"""The Mamba state-space layer of the fusion head (paper, section 3.4), in pure PyTorch.

Weights are compatible with `mamba_ssm.Mamba`; its fused CUDA kernel is used where it is installed.
"""

import functools
import math
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

DT_MIN, DT_MAX = 1e-3, 1e-1  # mamba_ssm's range of step sizes at initialization


@functools.cache
def _import_fused_kernel() -> Callable[..., Tensor] | None:
    """Returns `mamba_inner_fn` of mamba_ssm, or None if that package or causal_conv1d cannot be imported."""
    try:
        from mamba_ssm.ops import selective_scan_interface
    except ImportError:
        return None
    # Without causal_conv1d, mamba_ssm can be imported but its kernel fails.
    return selective_scan_interface.mamba_inner_fn if selective_scan_interface.causal_conv1d_fn is not None else None


def _fused_kernel(hidden: Tensor, d_conv: int) -> Callable[..., Tensor] | None:
    """Returns the fused CUDA kernel if it supports this tensor (CUDA, not float64), else None."""
    if not hidden.is_cuda or hidden.dtype == torch.float64 or d_conv not in (2, 3, 4):
        return None
    return _import_fused_kernel()


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Computes a causal depthwise convolution as a sum of shifted products.

    The backward pass of PyTorch's depthwise convolution is over ten times slower on CPU at [128, 1, 512].

    Args:
        x: `[B, L, E]`, also the shape of the result.
        weight: `[E, 1, d_conv]`, as in `nn.Conv1d`; the last tap is the present.
        bias: `[E]`.
    """
    length, d_conv = x.shape[1], weight.shape[-1]
    reach = min(d_conv, length)  # earlier taps would only multiply zeros
    taps = weight[:, 0, d_conv - reach :].unbind(-1)  # [E] each
    padded = F.pad(x, (0, 0, reach - 1, 0))  # [B, reach - 1 + L, E]
    out = bias
    for shift, tap in enumerate(taps):
        out = out + padded[:, shift : shift + length] * tap  # [B, L, E]
    return out


def selective_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Computes h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t and y_t = C_t h_t, from h = 0.

    Time and memory are linear in L, forward and backward. Steps are taken by `unbind`: its backward is one `stack`;
    the backward of a slice allocates a gradient of the whole sequence, so L slices would be quadratic.

    Args:
        x: `[B, L, E]`, also the shape of the result.
        dt: `[B, L, E]`, positive step sizes.
        A: `[E, N]`, negative.
        B, C: `[B, L, N]`.
    """
    drive = dt * x  # [B, L, E]
    if x.shape[1] == 1:
        # A has no effect on a single step. The empty sum is zero and keeps A in the graph: its gradient is zeros, not
        # None, for which DDP would wait.
        return drive * (B * C).sum(-1, keepdim=True) + A[:, :0].sum()

    decay_rate = A.T.contiguous()  # [N, E]: with states [B, N, E] the long axis is contiguous
    steps = zip(
        drive[:, :, None].unbind(1),  # [B, 1, E]
        dt[:, :, None].unbind(1),  # [B, 1, E]
        B[..., None].unbind(1),  # [B, N, 1]
        C[..., None].unbind(1),  # [B, N, 1]
        strict=True,
    )
    state, outputs = None, []
    for drive_t, dt_t, B_t, C_t in steps:
        added = drive_t * B_t  # [B, N, E]
        state = added if state is None else torch.addcmul(added, torch.exp(dt_t * decay_rate), state)
        outputs.append((state * C_t).sum(1))  # [B, E]
    return torch.stack(outputs, dim=1)


class MambaBlock(nn.Module):
    """One Mamba layer, `[B, L, d_model]` to `[B, L, d_model]`, without residual connection and norm.

    Parameter names, shapes and initialization equal those of `mamba_ssm.Mamba`, so state dicts are interchangeable.
    CUDA tensors use that package's fused kernel if it is installed, all others `selective_scan` in at least float32.

    Args:
        d_model: width of the input and output.
        d_state: N, states per channel.
        d_conv: taps of the causal convolution.
        expand: inner channels per input channel (E = expand * d_model).
    """

    def __init__(self, d_model: int, d_state: int = 16, d_conv: int = 4, expand: int = 2) -> None:
        super().__init__()
        self.d_state = d_state
        self.d_conv = d_conv
        self.d_inner = expand * d_model
        self.dt_rank = math.ceil(d_model / 16)

        # In the order of mamba_ssm, so that the same seed gives the same weights
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=False)
        self.conv1d = nn.Conv1d(self.d_inner, self.d_inner, d_conv, groups=self.d_inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, self.d_inner)
        self.A_log = nn.Parameter(torch.empty(self.d_inner, d_state))
        self.D = nn.Parameter(torch.empty(self.d_inner))
        self.init_weights()
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initializes `A_log`, `D` and `dt_proj`, for a model's `_init_weights`.

        Parameters that were loaded from a checkpoint stay unchanged (`transformers.initialization`).
        """
        bound = self.dt_rank**-0.5
        init.uniform_(self.dt_proj.weight, -bound, bound)
        # softplus(bias) is log-uniform over [DT_MIN, DT_MAX].
        draw = torch.rand(self.d_inner, device=self.dt_proj.bias.device)
        dt = torch.exp(draw * (math.log(DT_MAX) - math.log(DT_MIN)) + math.log(DT_MIN))
        init.copy_(self.dt_proj.bias, dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
        states = torch.arange(1, self.d_state + 1, dtype=torch.float32, device=self.A_log.device)
        init.copy_(self.A_log, torch.log(states).expand(self.d_inner, -1))
        init.ones_(self.D)

    def forward(self, hidden: Tensor) -> Tensor:
        """Mixes `hidden` `[B, L, d_model]` along its length L >= 1; causal: output t depends on inputs up to t.

        The result has the shape and dtype of `hidden` (under autocast, autocast's dtype).
        """
        # At least float32 (float64 for float64 weights), since decays are multiplied along the sequence and dt is tiny
        scan_dtype = torch.promote_types(self.A_log.dtype, torch.float32)
        A = -torch.exp(self.A_log.to(scan_dtype))  # [E, N]
        D, dt_bias = self.D.to(scan_dtype), self.dt_proj.bias.to(scan_dtype)
        projected = self.in_proj(hidden)  # [B, L, 2E]

        # Fused CUDA kernel for all remaining stages
        kernel = _fused_kernel(hidden, self.d_conv)
        if kernel is not None:
            return kernel(
                projected.transpose(1, 2),
                self.conv1d.weight,
                self.conv1d.bias,
                self.x_proj.weight,
                self.dt_proj.weight,
                self.out_proj.weight,
                None,  # out_proj has no bias
                A,
                D=D,
                delta_bias=dt_bias,
                delta_softplus=True,
            )

        # Causal convolution
        x, gate = projected.chunk(2, dim=-1)  # [B, L, E] each
        x = F.silu(causal_conv(x, self.conv1d.weight, cast(Tensor, self.conv1d.bias)))  # [B, L, E]

        # Input-dependent step sizes and matrices. The bias is added after the cast: in bfloat16 it would change dt by
        # several percent.
        dt, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)  # B, C: [B, L, N]
        dt = F.softplus(F.linear(dt, self.dt_proj.weight).to(scan_dtype) + dt_bias)  # [B, L, E]

        # Scan, skip connection and gate, output projection
        y = selective_scan(x.to(scan_dtype), dt, A, B.to(scan_dtype), C.to(scan_dtype))  # [B, L, E]
        y = (y + D * x) * F.silu(gate)  # [B, L, E]
        return self.out_proj(y.to(projected.dtype))  # [B, L, d_model]
