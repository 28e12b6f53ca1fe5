"""Stretched position embeddings of text towers."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from modeling_bdam import BDAMModel
from modeling_bdam.training.text_positions import stretch_text_positions

pytestmark = pytest.mark.usefixtures("seed")


@pytest.mark.parametrize(
    ("kind", "reserved"),
    [("clip_text_model", 0), ("siglip_text_model", 0), ("bert", 0), ("roberta", 1), ("mpnet", 2), ("distilbert", 0)],
)
def test_stretch_text_positions_interpolates(kind: str, reserved: int, tiny_config: Any) -> None:
    model = BDAMModel(tiny_config(text_config={"model_type": kind})).eval()
    tower: Any = model.text_model
    [old] = [value for name, value in tower.named_parameters() if "position_embedding" in name]
    limit = 24 - reserved
    stretch_text_positions(tower, 2 * limit)
    [new] = [value for name, value in tower.named_parameters() if "position_embedding" in name]
    assert new.requires_grad and new[:reserved].equal(old[:reserved])
    # Row i of the stretched table is at place (i + 0.5) / 2 - 0.5 of the old one
    for row in range(4, 2 * limit - 4):
        place = (row + 0.5) / 2 - 0.5
        weights = [_cubic(place - column) for column in range(limit)]
        expected = sum(weight * old[reserved + column] for column, weight in enumerate(weights))
        torch.testing.assert_close(new[reserved + row], expected, atol=1e-5, rtol=1e-4)
    model.longest_text = 2 * limit
    ids = torch.randint(5, 99, (2, 2 * limit))
    features = model.get_text_features(ids).pooler_output
    assert features.isfinite().all()
    assert not torch.allclose(features, model.get_text_features(ids.flip(1)).pooler_output)  # positions are in use
    assert tower.config.max_position_embeddings == reserved + 2 * limit


def test_stretch_text_positions_refuses_rotary_positions() -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 50, "pad_token_id": 0}
    tower = AutoModel.from_config(AutoConfig.for_model("modernbert", **sizes))
    with pytest.raises(ValueError, match=r"^--max_text_length 9000: `modernbert` takes at most 8192 tokens, and has"):
        stretch_text_positions(tower, 9000)


def _cubic(distance: float) -> float:
    """The cubic convolution kernel of Keys with a = -0.75, as bicubic interpolation of images."""
    x, a = abs(distance), -0.75
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0
