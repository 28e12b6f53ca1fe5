"""Time of `MambaBlock` by sequence length, compared with `MambaMixer`: `python tests/benchmarks/mamba_scaling.py`.

Forward and backward in float32 on one thread, the fastest of a few runs. The time of our block is linear in the length
L. The time of transformers' mixer approaches L², because the backward pass of its Python loop over the steps allocates
a gradient of the whole sequence at each step.
"""

import time

import torch
from torch import Tensor, nn
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer

from modeling_bdam.mamba_bdam import MambaBlock

BATCH, WIDTH = 2, 32
LENGTHS = (1, 128, 256, 512, 1024)


def milliseconds(module: nn.Module, inputs: Tensor, runs: int) -> float:
    """Returns the time of the fastest forward and backward pass."""
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        module(inputs).sum().backward()
        best = min(best, time.perf_counter() - start)
    return 1000 * best


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    block = MambaBlock(WIDTH)
    mixer = MambaMixer(MambaConfig(hidden_size=WIDTH, state_size=16, num_hidden_layers=1), layer_idx=0)
    mixer.load_state_dict(block.state_dict())
    print(f"batch {BATCH}, width {WIDTH}: forward + backward")
    print("length   block ms  x half length   mixer ms  x half length  mixer / block")
    times: dict[int, tuple[float, float]] = {}
    for length in LENGTHS:
        inputs = torch.randn(BATCH, length, WIDTH)  # [B, L, D]
        runs = 5 if length <= 128 else 2
        ours, theirs = milliseconds(block, inputs, runs), milliseconds(mixer, inputs, runs)
        half = times.get(length // 2)
        growth = (f"{ours / half[0]:.1f}", f"{theirs / half[1]:.1f}") if half else ("", "")
        print(f"{length:6d}  {ours:9.2f}  {growth[0]:>13}  {theirs:9.2f}  {growth[1]:>13}  {theirs / ours:13.1f}")
        times[length] = (ours, theirs)


if __name__ == "__main__":
    main()
