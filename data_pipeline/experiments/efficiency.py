"""Measures the cost of the fusion blocks: only the fusion head, with the widths and sequence lengths of the preset."""

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
from modeling_bdam.files import default_device
from modeling_bdam.fusion_bdam import FusionHead

BATCH = 64
TEXT_TOKENS = 32  # of a typical identity description
SEQUENCES = ("global", "token")
_PATCH = 16  # width in pixels of the patch of an image token, in all presets
_MIN_SECONDS = 0.5
_MIN_REPEATS = 5


def measure_fusion(name: str, model_fields: Mapping[str, Any], image_size: tuple[int, int]) -> list[dict[str, Any]]:
    """Measures a fusion head on images with one description each, for both values of `fusion_sequence`.

    Args:
        name: of the row.
        model_fields: fields of the config.
        image_size: height and width in pixels.

    Returns:
        for each sequence: `name`, `sequence`, `length`: number of fused tokens, `parameters`, `flops`: of one image,
        including elementwise operations, `throughput`: images per second in batches of 64, `latency_ms`: of one image,
        `memory_mb`: tensors that the forward pass of a batch saves for the backward pass, `peak_memory_mb`: on CUDA.
    """
    device = torch.device(default_device())
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
    """Measures a head on a batch of image tokens [B, L, D] and text tokens [B, T, D]."""
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
    """Median time of a call, after two warm-up calls."""
    times: list[float] = []
    for repeat in range(1000):
        started = time.perf_counter()
        run()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        if repeat >= 2:
            times.append(time.perf_counter() - started)
        if len(times) >= _MIN_REPEATS and sum(times) >= _MIN_SECONDS:
            break
    return statistics.median(times)


def count_flops(run: Callable[[], Any]) -> int:
    """Counts the floating-point operations of a call: matrix products, and one operation per output element of each
    elementwise operation, because a state space consists mostly of those."""
    counter = FlopCounterMode(display=False, custom_mapping=_ELEMENTWISE)
    with (
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        counter,
    ):  # the counter skips fused CPU attention
        run()
    return int(counter.get_total_flops())


def saved_bytes(forward: Callable[[], Tensor]) -> int:
    """Size of the tensors that a forward pass saves for the backward pass, weights included, each storage once."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = forward()  # keeps all storages alive, so that no address is reused
        del output
    return sum(storages.values())


def _peak_memory(step: Callable[[], Any], device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() / 1e6


def _one_each(*inputs: Any, out_shape: Any, **arguments: Any) -> int:
    """One operation per element of the (first) result, for `FlopCounterMode`, which passes shapes."""
    first = out_shape[0] if out_shape and isinstance(out_shape[0], Sequence) else out_shape
    return math.prod(first)


_OPERATIONS = "mul add addcmul exp sum silu gelu softplus sigmoid _softmax native_layer_norm mean div"
_ELEMENTWISE = {getattr(torch.ops.aten, name): _one_each for name in _OPERATIONS.split()}
