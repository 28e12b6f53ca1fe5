"""Towers bring their weights along, and refuse what they cannot take in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, CLIPConfig, CLIPModel, PreTrainedModel, SiglipConfig, SiglipModel

from modeling_bdam import BDAMModel

MakeConfig = Callable[..., Any]  # BDAMConfig, whose towers are configs by now
MakeBatch = Callable[..., dict[str, Tensor]]

TRANSFORMER_TOWERS = ["vit", "clip", "siglip", "dinov2"]


@pytest.fixture(autouse=True)
def _same_weights() -> None:
    torch.manual_seed(0)


def assert_same_weights(tower: PreTrainedModel, source: PreTrainedModel) -> None:
    expected = source.state_dict()
    weights = tower.state_dict()
    assert weights
    assert set(weights) <= set(expected)
    for name, value in weights.items():
        assert value.equal(expected[name]), name


@pytest.mark.parametrize("towers", [*TRANSFORMER_TOWERS, "convnext"])
def test_two_pretrained_towers_keep_their_weights(
    towers: str, tmp_path: Path, tiny_config: MakeConfig, make_batch: MakeBatch
) -> None:
    source = BDAMModel(tiny_config(towers))
    source.vision_model.save_pretrained(tmp_path / "vision")
    source.text_model.save_pretrained(tmp_path / "text")
    model = BDAMModel.from_vision_text_pretrained(
        str(tmp_path / "vision"), str(tmp_path / "text"), hidden_size=32, num_bdam_heads=4, num_bdam_layers=1
    )
    assert_same_weights(model.vision_model, source.vision_model)
    assert_same_weights(model.text_model, source.text_model)
    assert model.text_model.config is model.config.text_config  # what is set on one holds for the other
    assert model.vision_model.config is model.config.vision_config
    batch = make_batch()
    tokens = model.eval().get_image_features(batch["pixel_values"]).last_hidden_state
    torch.testing.assert_close(tokens, source.eval().get_image_features(batch["pixel_values"]).last_hidden_state)
    model.save_pretrained(tmp_path / "bdam")
    assert_same_weights(BDAMModel.from_pretrained(tmp_path / "bdam"), model)


@pytest.mark.parametrize(
    ("towers", "config_class", "model_class"),
    [("clip", CLIPConfig, CLIPModel), ("siglip", SiglipConfig, SiglipModel)],
)
def test_one_model_of_both_modalities_gives_each_its_half(
    towers: str, config_class: type, model_class: type, tmp_path: Path, tiny_config: MakeConfig
) -> None:
    config = tiny_config(towers)
    halves = {"vision_config": config.vision_config.to_dict(), "text_config": config.text_config.to_dict()}
    source = model_class(config_class(**halves))
    source.save_pretrained(tmp_path)
    model = BDAMModel.from_vision_text_pretrained(str(tmp_path), str(tmp_path), hidden_size=32, num_bdam_heads=4)
    assert_same_weights(model.vision_model, source.vision_model)
    assert_same_weights(model.text_model, source.text_model)


def test_an_unknown_field_beside_pretrained_towers_is_refused(tmp_path: Path, tiny_config: MakeConfig) -> None:
    AutoModel.from_config(tiny_config().vision_config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="did you mean `hidden_size`"):
        BDAMModel.from_vision_text_pretrained(str(tmp_path), str(tmp_path), hiden_size=32)


def test_a_feature_map_becomes_normalised_tokens(tiny_config: MakeConfig, make_batch: MakeBatch) -> None:
    model, pixels = BDAMModel(tiny_config("convnext")).eval(), make_batch()["pixel_values"]
    feature_map = model.vision_model(pixel_values=pixels).last_hidden_state
    tokens = model.get_image_features(pixels).last_hidden_state
    assert feature_map.shape == (4, 32, 4, 4)
    norm = model.vision_model.layernorm
    for y in range(4):
        for x in range(4):
            torch.testing.assert_close(tokens[:, 4 * y + x], norm(feature_map[:, :, y, x]))


@pytest.mark.parametrize("towers", ["vit", "clip", "siglip"])
def test_an_image_of_another_size_than_the_towers_is_refused(
    towers: str, tiny_config: MakeConfig, make_batch: MakeBatch
) -> None:
    model = BDAMModel(tiny_config(towers))
    with pytest.raises(ValueError, match=r"^images are 48x16, but the vision tower takes 32x32: resize .*$"):
        model(pixel_values=make_batch(2, (48, 16))["pixel_values"])


@pytest.mark.parametrize("towers", TRANSFORMER_TOWERS)
def test_an_image_that_is_no_whole_number_of_patches_is_refused(
    towers: str, tiny_config: MakeConfig, make_batch: MakeBatch
) -> None:
    model = BDAMModel(tiny_config(towers, interpolate_pos_encoding=True))
    with pytest.raises(ValueError, match=r"^images are 48x20, but the vision tower has patches of 8x8: .*$"):
        model.get_image_features(make_batch(2, (48, 20))["pixel_values"])


@pytest.mark.parametrize("towers", TRANSFORMER_TOWERS)
def test_interpolated_positions_take_another_size(towers: str, tiny_config: MakeConfig, make_batch: MakeBatch) -> None:
    model = BDAMModel(tiny_config(towers, interpolate_pos_encoding=True)).eval()
    class_token = int(towers != "siglip")
    tall = model.get_image_features(make_batch(2, (64, 16))["pixel_values"])
    assert tall.last_hidden_state.shape == (2, 8 * 2 + class_token, 32)

    own = make_batch()["pixel_values"]
    interpolated = model.get_image_features(own).pooler_output
    model.config.interpolate_pos_encoding = False
    torch.testing.assert_close(interpolated, model.get_image_features(own).pooler_output, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("towers", ["vit", "clip", "siglip"])
@pytest.mark.parametrize("text", ["", "identity_", "clothing_"])
def test_a_text_longer_than_the_tower_is_refused(towers: str, text: str, tiny_config: MakeConfig) -> None:
    model = BDAMModel(tiny_config(towers))
    model(**{f"{text}input_ids": torch.full((1, 24), 5)})
    with pytest.raises(ValueError, match=r"^texts are 25 tokens long, but the text tower takes 24: truncate .*$"):
        model(**{f"{text}input_ids": torch.full((1, 25), 5)})
