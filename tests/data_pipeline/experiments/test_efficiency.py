"""The cost measures of figure 5 on operations of known cost."""

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


def test_count_flops_of_products_sums_and_attention() -> None:
    x = torch.randn(3, 5)
    assert count_flops(lambda: x @ x.T) == 2 * 3 * 5 * 3
    assert count_flops(lambda: x + x) == 15
    assert count_flops(lambda: (x * x).exp()) == 30
    q = torch.randn(1, 2, 7, 4)
    products = 2 * (2 * 2 * 7 * 7 * 4)
    counted = count_flops(lambda: nn.functional.scaled_dot_product_attention(q, q, q))
    assert products < counted < 1.5 * products  # the rest is the softmax


def test_saved_bytes_counts_each_storage_once() -> None:
    x = torch.randn(10, 10, requires_grad=True)
    assert saved_bytes(lambda: x.exp()) == 400  # its own result
    assert saved_bytes(lambda: x * x) == 400  # one tensor, saved twice
    assert saved_bytes(lambda: x + x) == 0


@pytest.mark.parametrize("block", ["mamba", "transformer", "attention", "mlp"])
def test_measure_fusion_covers_both_sequences(block: str) -> None:
    found = measure_fusion("row", {**FIELDS, "fusion_block": block, "vision_config": {"model_type": "vit"}}, (64, 32))
    assert [(entry["sequence"], entry["length"]) for entry in found] == [("global", 1), ("token", 8 + 32)]
    for entry in found:
        assert entry["name"] == "row"
        for name in ("parameters", "flops", "throughput", "latency_ms", "memory_mb"):
            assert entry[name] > 0, name
    assert found[1]["flops"] > 20 * found[0]["flops"]
    assert found[1]["parameters"] == found[0]["parameters"]


def test_flops_grow_linearly_for_mamba_and_faster_for_attention() -> None:
    def growth(block: str) -> float:
        fields = {**FIELDS, "fusion_block": block}
        short, long = (measure_fusion("", fields, size)[1]["flops"] for size in ((64, 32), (256, 128)))
        return long / short

    lengths = (128 + 32) / (8 + 32)
    assert growth("mamba") == pytest.approx(lengths, rel=0.05)
    assert growth("attention") > 1.1 * lengths
