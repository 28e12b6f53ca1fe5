"""The measured cost of the matching heads of figure 5."""

import pytest
import torch

from data_pipeline.experiments import efficiency
from data_pipeline.experiments.efficiency import faster_at, measure_head, saved_bytes

FIELDS = {"hidden_size": 32, "num_bdam_heads": 4, "matching_hidden_size": 16, "projection_dim": 8, "use_matching": True}


def test_saved_bytes_counts_each_storage_once() -> None:
    x = torch.randn(10, 10, requires_grad=True)
    assert saved_bytes(lambda: x.exp()) == 400  # its own result
    assert saved_bytes(lambda: x * x) == 400  # one tensor, saved twice
    assert saved_bytes(lambda: x + x) == 0


@pytest.mark.parametrize("block", ["mamba", "transformer", "attention", "mlp"])
def test_measure_head_covers_all_lengths(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficiency, "_MIN_SECONDS", 0.0)
    monkeypatch.setattr(efficiency, "LENGTHS", (64, 128))
    found = measure_head("row", {**FIELDS, "matching_block": block, "vision_config": {"model_type": "vit"}})
    assert [(entry["name"], entry["length"]) for entry in found] == [("row", 64), ("row", 128)]
    for entry in found:
        assert min(entry[name] for name in ("parameters", "train_ms", "score_ms", "memory_mb")) > 0
    assert found[1]["memory_mb"] > found[0]["memory_mb"]


def test_faster_at_names_the_lengths() -> None:
    times = {"a": (3.0, 3.0, 3.0), "b": (1.0, 3.0, 9.0)}
    measured = [
        {"name": name, "length": length, "train_ms": value}
        for name, values in times.items()
        for length, value in zip((64, 256, 1024), values, strict=True)
    ]
    assert (faster_at(measured, "a", "b"), faster_at(measured, "b", "a")) == ([1024], [64])
