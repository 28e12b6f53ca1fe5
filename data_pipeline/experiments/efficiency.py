"""Measures the cost of the fusion blocks as layers of the matching head, by the number of tokens."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from modeling_bdam import BDAMConfig
from modeling_bdam.files import default_device
from modeling_bdam.matching_bdam import MatchingHead

PAIRS = 2  # of an image and a query
LENGTHS = (64, 256, 1024, 2048)  # tokens of a pair
TEXT_TOKENS = 32  # of these, those of the query
_MIN_SECONDS = 0.2
_MIN_REPEATS = 3


def measure_head(name: str, model_fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Measures a matching head with the widths of a preset.

    Args:
        name: of the row.
        model_fields: fields of the config.

    Returns:
        for each of `LENGTHS`: `name`, `length`, `parameters`, `device`, `train_ms`: forward and backward pass of
        `PAIRS` pairs, `score_ms`: forward pass, `memory_mb`: tensors that the forward pass saves for the backward pass.
    """
    device = torch.device(default_device())
    fields = {key: value for key, value in model_fields.items() if not key.endswith(("_config", "_name_or_path"))}
    config = BDAMConfig(**fields)
    torch.manual_seed(0)
    head = MatchingHead(config).to(device)
    found = []
    for length in LENGTHS:
        image = torch.randn(PAIRS, 1, length - TEXT_TOKENS, config.hidden_size, device=device)
        text = torch.randn(PAIRS, TEXT_TOKENS, config.hidden_size, device=device)
        mask = torch.ones(PAIRS, TEXT_TOKENS, dtype=torch.int64, device=device)

        def forward(image: Tensor = image, text: Tensor = text, mask: Tensor = mask) -> Tensor:
            return head(image, text, mask)[0].sum()

        train_ms = 1000 * median_seconds(lambda: forward().backward(), device)
        memory_mb = saved_bytes(forward) / 1e6
        with torch.no_grad():
            score_ms = 1000 * median_seconds(forward, device)
        costs = {"train_ms": train_ms, "score_ms": score_ms, "memory_mb": memory_mb}
        parameters = sum(parameter.numel() for parameter in head.parameters())
        where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU ({torch.get_num_threads()} threads)"
        found.append({"name": name, "length": length, "parameters": parameters, "device": where, **costs})
    return found


def faster_at(measured: list[dict[str, Any]], name: str, other: str) -> list[int]:
    """The lengths at which the training pass of one head takes less time than that of another."""
    times = {(entry["name"], entry["length"]): entry["train_ms"] for entry in measured}
    lengths = sorted({entry["length"] for entry in measured})
    return [length for length in lengths if times[name, length] < times[other, length]]


def median_seconds(run: Callable[[], Any], device: torch.device) -> float:
    """Median time of a call, after one warm-up call."""
    times: list[float] = []
    for repeat in range(1000):
        started = time.perf_counter()
        run()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        if repeat >= 1:
            times.append(time.perf_counter() - started)
        if len(times) >= _MIN_REPEATS and sum(times) >= _MIN_SECONDS:
            break
    return statistics.median(times)


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
