"""More kinds of towers than every test can afford: each trains whole, is saved and read back, and says its limits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from modeling_bdam import BDAMModel

MakeConfig = Callable[..., Any]
MakeBatch = Callable[..., dict[str, Tensor]]

LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
SQUARE = {**LAYERS, "image_size": 32, "patch_size": 8}
TALL = {**LAYERS, "image_size": [48, 16], "patch_size": 8}
TEXT = {
    **LAYERS,
    "vocab_size": 99,
    "max_position_embeddings": 24,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION_KINDS = ["vit", "deit", "dinov2", "dinov2_with_registers", "siglip_vision_model", "clip_vision_model"]
TEXT_KINDS = [
    "bert",
    "roberta",
    "xlm-roberta",
    "camembert",
    "mpnet",
    "distilbert",
    "clip_text_model",
    "siglip_text_model",
]


@pytest.fixture(autouse=True)
def _same_weights() -> None:
    torch.manual_seed(0)


def assert_trains_and_comes_back(model: BDAMModel, batch: dict[str, Tensor], folder: Path) -> None:
    model.train()
    model(**batch, return_loss=True).loss.backward()
    idle = [name for name, value in model.named_parameters() if value.grad is None]
    assert not idle  # DDP would wait for them
    model.eval()
    model.save_pretrained(folder)
    back = AutoModel.from_pretrained(folder)
    for name, value in model.state_dict().items():
        assert value.equal(back.state_dict()[name]), name
    with torch.no_grad():
        one, other = (m(pixel_values=batch["pixel_values"], input_ids=batch["input_ids"]) for m in (model, back))
    assert one.logits_per_text.equal(other.logits_per_text)


@pytest.mark.parametrize("kind", VISION_KINDS)
def test_vision_tower_trains_and_comes_back(
    kind: str, tmp_path: Path, tiny_config: MakeConfig, make_batch: MakeBatch
) -> None:
    model = BDAMModel(tiny_config(vision_config={**SQUARE, "model_type": kind}))
    assert_trains_and_comes_back(model, make_batch(), tmp_path)


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_text_tower_trains_and_comes_back(
    kind: str, tmp_path: Path, tiny_config: MakeConfig, make_batch: MakeBatch
) -> None:
    model = BDAMModel(tiny_config(text_config={**TEXT, "model_type": kind}))
    assert_trains_and_comes_back(model, make_batch(), tmp_path)


@pytest.mark.parametrize(("kind", "limit"), [("bert", 24), ("roberta", 23), ("xlm-roberta", 23), ("mpnet", 22)])
def test_positions_that_a_tower_keeps_to_itself_are_not_offered_to_texts(
    kind: str, limit: int, tiny_config: MakeConfig
) -> None:
    model = BDAMModel(tiny_config(text_config={**TEXT, "model_type": kind})).eval()
    assert model.longest_text == limit
    assert model.get_text_features(torch.full((1, limit), 5)).pooler_output.isfinite().all()
    with pytest.raises(ValueError, match=f"^texts are {limit + 1} tokens long, but the text tower takes {limit}: .*"):
        model.get_text_features(torch.full((1, limit + 1), 5))


@pytest.mark.parametrize(("kind", "class_tokens"), [("vit", 1), ("deit", 2), ("clip_vision_model", 1)])
def test_a_tower_for_tall_images_takes_them_as_they_are(
    kind: str, class_tokens: int, tmp_path: Path, tiny_config: MakeConfig, make_batch: MakeBatch
) -> None:
    model = BDAMModel(tiny_config(vision_config={**TALL, "model_type": kind}))
    assert_trains_and_comes_back(model, make_batch(4, (48, 16)), tmp_path)
    tokens = model.get_image_features(make_batch(1, (48, 16))["pixel_values"]).last_hidden_state
    assert tokens.shape[1] == 6 * 2 + class_tokens
    with pytest.raises(ValueError, match=r"^images are 32x32, but the vision tower takes 48x16: .*"):
        model.get_image_features(make_batch(1)["pixel_values"])


def test_positions_of_a_grid_are_clips_own_where_it_is_a_square(tiny_config: MakeConfig, make_batch: MakeBatch) -> None:
    config = tiny_config("clip", interpolate_pos_encoding=True)
    own = BDAMModel(config).eval()
    grid = BDAMModel(
        tiny_config(
            "clip",
            interpolate_pos_encoding=True,
            vision_config=config.vision_config.to_dict() | {"image_size": [32, 32]},
        )
    ).eval()
    grid.load_state_dict(own.state_dict())
    for size in ((32, 32), (64, 16), (16, 64)):
        pixels = make_batch(2, size)["pixel_values"]
        expected = own.get_image_features(pixels).pooler_output
        torch.testing.assert_close(grid.get_image_features(pixels).pooler_output, expected)


def test_positions_of_a_grid_that_is_no_square_are_interpolated_for_clip_alone(
    tiny_config: MakeConfig, make_batch: MakeBatch
) -> None:
    pixels = make_batch(2, (96, 32))["pixel_values"]
    model = BDAMModel(
        tiny_config(vision_config={**TALL, "model_type": "clip_vision_model"}, interpolate_pos_encoding=True)
    )
    embeddings: Any = model.vision_model.embeddings
    positions = embeddings.interpolate_pos_encoding(pixels, 96, 32)[0]
    weight = embeddings.position_embedding.weight
    assert positions.shape == (1 + 12 * 4, 32)
    assert positions[0].equal(weight[0])
    expected = torch.nn.functional.interpolate(
        weight[1:].reshape(6, 2, 32).permute(2, 0, 1)[None], size=(12, 4), mode="bicubic", align_corners=False
    )[0]
    for row in range(12):
        for column in range(4):
            torch.testing.assert_close(positions[1 + 4 * row + column], expected[:, row, column])
    assert model.eval().get_image_features(pixels).last_hidden_state.shape[1] == 49

    model = BDAMModel(tiny_config(vision_config={**TALL, "model_type": "vit"}, interpolate_pos_encoding=True))
    with pytest.raises(ValueError, match=r"^images are 96x32, but the vision tower has positions for 48x16, which can"):
        model.get_image_features(pixels)


@pytest.mark.parametrize("size", [(384, 128), (256, 128), (224, 224), (64, 192)])
@pytest.mark.parametrize("kind", ["vit", "dinov2", "siglip_vision_model", "clip_vision_model"])
def test_a_pretrained_square_is_interpolated_to_the_shapes_of_people(
    kind: str, size: tuple[int, int], tiny_config: MakeConfig
) -> None:
    config = tiny_config(
        vision_config={**LAYERS, "model_type": kind, "image_size": 224, "patch_size": 16}, interpolate_pos_encoding=True
    )
    tokens = BDAMModel(config).eval().get_image_features(torch.randn(1, 3, *size)).last_hidden_state
    assert tokens.shape[1] - size[0] * size[1] // 256 == int(kind != "siglip_vision_model")
