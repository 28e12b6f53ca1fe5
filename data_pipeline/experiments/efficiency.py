"""What each kind of fusion costs: measured on the fusion head alone, with the preset's widths and lengths."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from modeling_bdam import BDAMConfig
from modeling_bdam.fusion_bdam import FusionHead

BATCH = 64
TEXT_TOKENS = 32  # of an identity description, about
SEQUENCES = ("global", "token")
_PATCH = 16  # pixels a side of an image token, of every preset's tower
_MIN_SECONDS = 0.5
_MIN_REPEATS = 5


def measure_fusion(name: str, model_fields: Mapping[str, Any], image_size: tuple[int, int]) -> list[dict[str, Any]]:
    """Costs of a fusion head on images with a description each, for both kinds of sequence.

    Args:
        name: of the row.
        model_fields: fields of the config.
        image_size: height and width in pixels.

    Returns:
        for each sequence: `name`, `sequence`, `length`: tokens that are fused, `parameters`, `flops`: of one image,
        elementwise operations included, `throughput`: images a second in batches of 64, `latency_ms`: of one image,
        `memory_mb`: what the forward pass of a batch keeps for the backward pass, `peak_memory_mb`: on CUDA.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fields = {key: value for key, value in model_fields.items() if not key.endswith(("_config", "_name_or_path"))}
    found = []
    for sequence in SEQUENCES:
        config = BDAMConfig(**{**fields, "fusion_sequence": sequence, "use_fusion": True})
        image_tokens, text_tokens = 1, 1
        if sequence == "token":
            image_tokens, text_tokens = (image_size[0] // _PATCH) * (image_size[1] // _PATCH), TEXT_TOKENS
        torch.manual_seed(0)
        head = FusionHead(config, config.hidden_size).to(device)
        image = torch.randn(BATCH, image_tokens, config.hidden_size, device=device)
        text = torch.randn(BATCH, text_tokens, config.hidden_size, device=device)
        length = 1 if sequence == "global" else image_tokens + text_tokens
        found.append({"name": name, "sequence": sequence, "length": length, **_measure(head, image, text)})
    return found


def _measure(head: FusionHead, image: Tensor, text: Tensor) -> dict[str, Any]:
    """The costs of a head on a batch, [B, L, D] and [B, T, D]."""
    head.eval()
    with torch.no_grad():
        batch_seconds = median_seconds(lambda: head(image, text), image.device)
        one_seconds = median_seconds(lambda: head(image[:1], text[:1]), image.device)
    flops = count_flops(lambda: head(image[:1], text[:1]))
    head.train()
    return {
        "parameters": sum(parameter.numel() for parameter in head.parameters()),
        "flops": flops,
        "throughput": len(image) / batch_seconds,
        "latency_ms": 1000 * one_seconds,
        "memory_mb": saved_bytes(lambda: head(image, text)[0]) / 1e6,
        "peak_memory_mb": _peak_memory(lambda: head(image, text)[0].sum().backward(), image.device),
    }


def median_seconds(run: Callable[[], Any], device: torch.device) -> float:
    """Median time of a call, after two to warm up."""
    times: list[float] = []
    for repeat in range(1000):
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if repeat >= 2:
            times.append(time.perf_counter() - started)
        if len(times) >= _MIN_REPEATS and sum(times) >= _MIN_SECONDS:
            break
    return statistics.median(times)


def count_flops(run: Callable[[], Any]) -> int:
    """Floating-point operations of a call: matrix products, and one for each number that an elementwise operation
    gives, since a state space consists of little else."""
    counter = FlopCounterMode(display=False, custom_mapping=_ELEMENTWISE)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:  # it does not look into fused attention on a CPU
        run()
    return int(counter.get_total_flops())


def saved_bytes(forward: Callable[[], Tensor]) -> int:
    """Size of what a forward pass keeps for its backward pass, each storage once; weights are among it."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = forward()  # held, so that no storage is freed and its address taken again
        del output
    return sum(storages.values())


def _peak_memory(step: Callable[[], Any], device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() / 1e6


def _one_each(*inputs: Any, out_shape: Any, **arguments: Any) -> int:
    """One operation for each number of the (first) result, for `FlopCounterMode`, which hands over shapes."""
    first = out_shape[0] if out_shape and isinstance(out_shape[0], Sequence) else out_shape
    return math.prod(first)


_aten = torch.ops.aten
_ELEMENTWISE = dict.fromkeys(
    (
        _aten.mul,
        _aten.add,
        _aten.addcmul,
        _aten.exp,
        _aten.sum,
        _aten.silu,
        _aten.gelu,
        _aten.softplus,
        _aten.sigmoid,
        _aten._softmax,
        _aten.native_layer_norm,
        _aten.mean,
        _aten.div,
    ),
    _one_each,
)
