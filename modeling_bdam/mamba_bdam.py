"""The Mamba state-space layer of the fusion head (paper, section 3.4), in pure PyTorch.

Weights are compatible with `mamba_ssm.Mamba`; its fused CUDA kernel is used where it is installed.
"""

import functools
import math
import os
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Environment variable that sets the scan of new blocks: "auto"; "fused", an error without mamba_ssm on CUDA; "pytorch"
SCAN_VARIABLE = "BDAM_MAMBA_SCAN"
_CHUNK = 2**18  # numbers in the states of one chunk of the scan
DT_MIN, DT_MAX = 1e-3, 1e-1  # mamba_ssm's range of step sizes at initialization


@functools.cache
def _import_fused_kernel() -> tuple[Callable[..., Tensor] | None, str]:
    """Returns `mamba_inner_fn` of mamba_ssm or, if it cannot be imported, None with the reason."""
    try:
        from mamba_ssm.ops import selective_scan_interface

        # Without causal_conv1d, mamba_ssm can be imported but its kernel fails.
        if selective_scan_interface.causal_conv1d_fn is None:
            raise ImportError("causal_conv1d cannot be imported")
        return selective_scan_interface.mamba_inner_fn, ""
    except Exception as error:  # a broken triton or CUDA library raises RuntimeError, OSError or AttributeError
        is_missing = isinstance(error, ModuleNotFoundError) and str(error.name).startswith("mamba_ssm")
        if not is_missing:
            _report_fallback(error)
        return None, _one_line(error)


def _fused_kernel(hidden: Tensor, d_conv: int, scan: str) -> Callable[..., Tensor] | None:
    """Returns the fused kernel if it is installed and supports this tensor, else None.

    Raises:
        RuntimeError: the kernel cannot be used, but `scan` is "fused".
    """
    kernel, reason = None, f"it needs CUDA tensors, not of float64, and 2 to 4 taps; got {hidden.device}, "
    reason += f"{hidden.dtype}, {d_conv}"
    if scan != "pytorch" and hidden.is_cuda and hidden.dtype != torch.float64 and d_conv in (2, 3, 4):
        kernel, reason = _import_fused_kernel()
    if kernel is None and scan == "fused":
        raise RuntimeError(
            f"{SCAN_VARIABLE}=fused, but mamba_ssm's kernel cannot be used: {reason}; unset the variable"
        )
    return kernel


def _report_fallback(error: Exception) -> None:
    logger.warning_once(
        f"mamba_ssm is installed, but its kernel fails ({_one_line(error)}): the slower scan in PyTorch is used; "
        f"repair mamba_ssm, or set {SCAN_VARIABLE}=pytorch"
    )


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


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

    Time and memory are linear in L, forward and backward. Only the recurrence goes step by step; the rest is computed
    for chunks of steps that fit into the cache of a processor.

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
    state = torch.zeros_like(drive[:, :1] * decay_rate)  # [B, N, E]
    # A chunk size by the batch size would fix the batch size in a compiled or exported model
    steps = x.shape[1] if torch.compiler.is_compiling() else max(1, _CHUNK // max(1, state.numel()))
    outputs = []
    sequences = (drive[:, :, None], dt[:, :, None], B[..., None], C[..., None])  # [B, L, 1, E] and [B, L, N, 1]
    parts = (sequence.transpose(0, 1).split(steps) for sequence in sequences)  # the chunks of each, steps first
    for drive_c, dt_c, B_c, C_c in zip(*parts, strict=True):
        states = _Recurrence.apply(torch.exp(dt_c * decay_rate), drive_c * B_c, state)  # [steps, B, N, E]
        state = states[-1]
        outputs.append((states * C_c).sum(2))  # [steps, B, E]
    return torch.cat(outputs).transpose(0, 1)


class _Recurrence(torch.autograd.Function):
    """h_t = a_t h_{t-1} + b_t, with one operation per step also in the backward pass; autograd needs five."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, start: Tensor) -> Tensor:
        """Returns all h_t [steps, B, N, E], of a and b of the same shape and h_{-1} [B, N, E]."""
        states, state = [], start
        for a_t, b_t in zip(a.unbind(), b.unbind(), strict=True):
            state = torch.addcmul(b_t, a_t, state)
            states.append(state)
        h = torch.stack(states)
        ctx.save_for_backward(a, h, start)
        return h

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Computes the gradient of b, g_t = dh_t + a_{t+1} g_{t+1}; that of a is g_t h_{t-1}."""
        a, h, start = ctx.saved_tensors
        *earlier, g_t = gradients[0].unbind()
        g = [g_t]
        for dh_t, a_next in zip(reversed(earlier), reversed(a[1:].unbind()), strict=True):
            g_t = torch.addcmul(dh_t, a_next, g_t)
            g.append(g_t)
        of_b = torch.stack(g[::-1])
        return of_b * torch.cat([start[None], h[:-1]]), of_b, a[0] * g_t


class CausalConv1d(nn.Conv1d):
    """A convolution that is computed by `causal_conv`, in a module so that accelerate can offload its weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, L, E]` to `[B, L, E]`."""
        return causal_conv(x, self.weight, cast(Tensor, self.bias))


class StepSize(nn.Linear):
    """The projection of step sizes, in the dtype of the scan."""

    def forward(self, dt: Tensor, dtype: torch.dtype) -> Tensor:  # type: ignore[override]
        """Maps `[B, L, R]` to positive step sizes `[B, L, E]` in `dtype`.

        The bias is added after the cast: in bfloat16 it would change dt by several percent.
        """
        return F.softplus(F.linear(dt, self.weight).to(dtype) + self.bias.to(dtype))


class MambaBlock(nn.Module):
    """One Mamba layer, `[B, L, d_model]` to `[B, L, d_model]`, without residual connection and norm.

    Parameter names, shapes and initialization equal those of `mamba_ssm.Mamba`, so state dicts are interchangeable.
    CUDA tensors use that package's fused kernel if it is installed, all others `selective_scan` in at least float32;
    the environment variable `BDAM_MAMBA_SCAN` forces one of them.

    Args:
        d_model: width of the input and output.
        d_state: N, states per channel.
        d_conv: taps of the causal convolution.
        expand: inner channels per input channel (E = expand * d_model).
    """

    def __init__(self, d_model: int, d_state: int = 16, d_conv: int = 4, expand: int = 2) -> None:
        super().__init__()
        self.scan = os.environ.get(SCAN_VARIABLE, "auto")
        if self.scan not in ("auto", "fused", "pytorch"):
            raise ValueError(f"environment variable {SCAN_VARIABLE}={self.scan}: must be auto, fused or pytorch")
        self.d_state = d_state
        self.d_conv = d_conv
        self.d_inner = expand * d_model
        self.dt_rank = math.ceil(d_model / 16)

        # In the order of mamba_ssm, so that the same seed gives the same weights
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=False)
        self.conv1d = CausalConv1d(self.d_inner, self.d_inner, d_conv, groups=self.d_inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = StepSize(self.dt_rank, self.d_inner)
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
        A, D = -torch.exp(self.A_log.to(scan_dtype)), self.D.to(scan_dtype)  # [E, N], [E]
        projected = self.in_proj(hidden)  # [B, L, 2E]

        # Fused CUDA kernel for all remaining stages, except if accelerate has offloaded the weights that it reads
        kernel = None if self.conv1d.weight.is_meta else _fused_kernel(hidden, self.d_conv, self.scan)
        if kernel is not None:
            try:
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
                    delta_bias=self.dt_proj.bias.to(scan_dtype),
                    delta_softplus=True,
                )
            except Exception as error:  # such as a build for another GPU
                if self.scan == "fused" or isinstance(error, torch.OutOfMemoryError):
                    raise
                _report_fallback(error)
                self.scan = "pytorch"

        # Causal convolution
        x, gate = projected.chunk(2, dim=-1)  # [B, L, E] each
        x = F.silu(self.conv1d(x))  # [B, L, E]

        # Input-dependent step sizes and matrices
        dt, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)  # B, C: [B, L, N]
        dt = self.dt_proj(dt, scan_dtype)  # [B, L, E]

        # Scan, skip connection and gate, output projection
        y = selective_scan(x.to(scan_dtype), dt, A, B.to(scan_dtype), C.to(scan_dtype))  # [B, L, E]
        y = (y + D * x) * F.silu(gate)  # [B, L, E]
        return self.out_proj(y.to(projected.dtype))  # [B, L, d_model]
