"""The meters of figure 5 on operations whose cost is known."""

import pytest
import torch
from torch import nn

from data_pipeline.experiments import efficiency
from data_pipeline.experiments.efficiency import count_flops, measure_fusion, saved_bytes

FIELDS = {"hidden_size": 32, "num_bdam_heads": 4, "fusion_hidden_size": 32, "projection_dim": 8, "mamba_state_size": 4}


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficiency, "_MIN_SECONDS", 0.0)
    monkeypatch.setattr(efficiency, "BATCH", 4)


def test_flops_of_a_product_a_sum_and_attention_are_those_of_the_textbook() -> None:
    x = torch.randn(3, 5)
    assert count_flops(lambda: x @ x.T) == 2 * 3 * 5 * 3
    assert count_flops(lambda: x + x) == 15
    assert count_flops(lambda: (x * x).exp()) == 30
    q = torch.randn(1, 2, 7, 4)
    products = 2 * (2 * 2 * 7 * 7 * 4)
    counted = count_flops(lambda: nn.functional.scaled_dot_product_attention(q, q, q))
    assert products < counted < 1.5 * products  # and the softmax


def test_saved_bytes_are_what_the_backward_pass_needs_each_storage_once() -> None:
    x = torch.randn(10, 10, requires_grad=True)
    assert saved_bytes(lambda: x.exp()) == 400  # its own result
    assert saved_bytes(lambda: x * x) == 400  # one tensor, saved twice
    assert saved_bytes(lambda: x + x) == 0


@pytest.mark.parametrize("block", ["mamba", "transformer", "attention", "mlp"])
def test_costs_of_every_fusion_are_measured_for_both_sequences(block: str) -> None:
    found = measure_fusion("row", {**FIELDS, "fusion_block": block, "vision_config": {"model_type": "vit"}}, (64, 32))
    assert [(entry["sequence"], entry["length"]) for entry in found] == [("global", 1), ("token", 8 + 32)]
    for entry in found:
        assert entry["name"] == "row"
        for name in ("parameters", "flops", "throughput", "latency_ms", "memory_mb"):
            assert entry[name] > 0, name
    assert found[1]["flops"] > 20 * found[0]["flops"]
    assert found[1]["parameters"] == found[0]["parameters"]


def test_flops_of_a_state_space_grow_with_the_length_and_those_of_attention_faster() -> None:
    def growth(block: str) -> float:
        short, long = (
            measure_fusion("", {**FIELDS, "fusion_block": block}, size)[1]["flops"] for size in ((64, 32), (256, 128))
        )
        return long / short

    lengths = (128 + 32) / (8 + 32)
    assert growth("mamba") == pytest.approx(lengths, rel=0.05)
    assert growth("attention") > 1.1 * lengths
