"""Tests of each type of tower: training, saving, pretrained weights, and the limits of image sizes and text lengths."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, CLIPConfig, CLIPModel, PreTrainedModel, SiglipConfig, SiglipModel

from modeling_bdam import BDAMConfig, BDAMModel

TRANSFORMER_TOWERS = ["vit", "clip", "siglip", "dinov2"]
EACH_TRANSFORMER_TOWER = pytest.mark.parametrize("towers", TRANSFORMER_TOWERS)
VISION_TYPES = ["vit", "deit", "dinov2", "dinov2_with_registers", "siglip_vision_model", "clip_vision_model"]
TEXT_TYPES = ["bert", "roberta", "xlm-roberta", "camembert", "mpnet", "distilbert"]
TEXT_TYPES += ["clip_text_model", "siglip_text_model"]
TALL = {"image_size": [48, 16]}

pytestmark = pytest.mark.usefixtures("seed")


def assert_same_weights(tower: PreTrainedModel, source: PreTrainedModel) -> None:
    weights, expected = tower.state_dict(), source.state_dict()
    assert weights
    assert set(weights) <= set(expected)
    for name, value in weights.items():
        assert value.equal(expected[name]), name


def assert_trains_and_reloads(model: BDAMModel, batch: dict[str, Tensor], folder: Path) -> None:
    model.train()
    model(**batch, return_loss=True).loss.backward()
    idle = [name for name, value in model.named_parameters() if value.grad is None]
    assert not idle  # DDP would wait for their gradients
    model.eval().save_pretrained(folder)
    loaded = AutoModel.from_pretrained(folder)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert_same_weights(loaded, model)
    with torch.no_grad():
        one, other = (m(pixel_values=batch["pixel_values"], input_ids=batch["input_ids"]) for m in (model, loaded))
    assert one.logits_per_text.equal(other.logits_per_text)


@pytest.mark.parametrize(
    ("side", "kind"),
    [*(("vision_config", kind) for kind in VISION_TYPES), *(("text_config", kind) for kind in TEXT_TYPES)],
)
def test_tower_trains_and_reloads(side: str, kind: str, tmp_path: Path, tiny_config: Any, make_batch: Any) -> None:
    assert_trains_and_reloads(BDAMModel(tiny_config(**{side: {"model_type": kind}})), make_batch(), tmp_path)


@pytest.mark.parametrize("towers", [*TRANSFORMER_TOWERS, "convnext"])
def test_pretrained_towers_keep_their_weights(towers: str, tmp_path: Path, tiny_config: Any, make_batch: Any) -> None:
    source = BDAMModel(tiny_config(towers))
    source.vision_model.save_pretrained(tmp_path / "vision")
    source.text_model.save_pretrained(tmp_path / "text")
    model = BDAMModel.from_vision_text_pretrained(
        str(tmp_path / "vision"), str(tmp_path / "text"), hidden_size=32, num_bdam_heads=4, num_bdam_layers=1
    )
    assert_same_weights(model.vision_model, source.vision_model)
    assert_same_weights(model.text_model, source.text_model)
    assert model.text_model.config is model.config.text_config  # a change of one changes the other
    assert model.vision_model.config is model.config.vision_config
    model.set_attn_implementation("eager")
    assert {
        cast(Any, module.config)._attn_implementation for module in model.modules() if hasattr(module, "config")
    } == {"eager"}
    pixels = make_batch()["pixel_values"]
    tokens, expected = (m.eval().get_image_features(pixels).last_hidden_state for m in (model, source))
    torch.testing.assert_close(tokens, expected)
    model.save_pretrained(tmp_path / "bdam")
    assert_same_weights(BDAMModel.from_pretrained(tmp_path / "bdam"), model)


@pytest.mark.parametrize(
    ("towers", "config_class", "model_class"),
    [("clip", CLIPConfig, CLIPModel), ("siglip", SiglipConfig, SiglipModel)],
)
def test_model_of_both_modalities_provides_both_towers(
    towers: str, config_class: type, model_class: type, tmp_path: Path, tiny_config: Any
) -> None:
    config = tiny_config(towers)
    halves = {"vision_config": config.vision_config.to_dict(), "text_config": config.text_config.to_dict()}
    source = model_class(config_class(**halves))
    source.save_pretrained(tmp_path)
    model = BDAMModel.from_vision_text_pretrained(str(tmp_path), str(tmp_path), hidden_size=32, num_bdam_heads=4)
    assert_same_weights(model.vision_model, source.vision_model)
    assert_same_weights(model.text_model, source.text_model)


def test_unknown_field_with_pretrained_towers_is_refused(tmp_path: Path, tiny_config: Any) -> None:
    for half in ("vision_config", "text_config"):
        AutoModel.from_config(getattr(tiny_config(), half)).save_pretrained(tmp_path / half)
    with pytest.raises(ValueError, match="did you mean `hidden_size`"):
        BDAMModel.from_vision_text_pretrained(f"{tmp_path}/vision_config", f"{tmp_path}/text_config", hiden_size=32)


def test_feature_map_becomes_normalized_tokens(tiny_config: Any, make_batch: Any) -> None:
    model: Any = BDAMModel(tiny_config("convnext")).eval()
    pixels = make_batch()["pixel_values"]
    feature_map = model.vision_model(pixel_values=pixels).last_hidden_state
    tokens = model.get_image_features(pixels).last_hidden_state
    assert feature_map.shape == (4, 32, 4, 4)
    for y in range(4):
        for x in range(4):
            torch.testing.assert_close(tokens[:, 4 * y + x], model.vision_model.layernorm(feature_map[:, :, y, x]))


@pytest.mark.parametrize("towers", ["vit", "clip", "siglip"])
def test_other_image_size_is_refused(towers: str, tiny_config: Any, make_batch: Any) -> None:
    model = BDAMModel(tiny_config(towers))
    with pytest.raises(ValueError, match=r"^images are 48x16, but the vision tower takes 32x32: resize .*$"):
        model(pixel_values=make_batch(2, (48, 16))["pixel_values"])


@EACH_TRANSFORMER_TOWER
def test_partial_patches_are_refused(towers: str, tiny_config: Any, make_batch: Any) -> None:
    model = BDAMModel(tiny_config(towers, interpolate_pos_encoding=True))
    with pytest.raises(ValueError, match=r"^images are 48x20, but the vision tower has patches of 8x8: .*$"):
        model.get_image_features(make_batch(2, (48, 20))["pixel_values"])


@EACH_TRANSFORMER_TOWER
def test_interpolated_positions_allow_other_sizes(towers: str, tiny_config: Any, make_batch: Any) -> None:
    model = BDAMModel(tiny_config(towers, interpolate_pos_encoding=True)).eval()
    tall = model.get_image_features(make_batch(2, (64, 16))["pixel_values"])
    assert tall.last_hidden_state.shape == (2, 8 * 2 + int(towers != "siglip"), 32)

    own = make_batch()["pixel_values"]
    interpolated = model.get_image_features(own).pooler_output
    model.config.interpolate_pos_encoding = False
    torch.testing.assert_close(interpolated, model.get_image_features(own).pooler_output, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(384, 128), (256, 128), (224, 224), (64, 192)])
@pytest.mark.parametrize("kind", ["vit", "dinov2", "siglip_vision_model", "clip_vision_model"])
def test_square_positions_are_interpolated_to_tall_images(kind: str, size: tuple[int, int], tiny_config: Any) -> None:
    tower = {"model_type": kind, "image_size": 224, "patch_size": 16}
    model = BDAMModel(tiny_config(vision_config=tower, interpolate_pos_encoding=True)).eval()
    tokens = model.get_image_features(torch.randn(1, 3, *size)).last_hidden_state
    assert tokens.shape[1] - size[0] * size[1] // 256 == int(kind != "siglip_vision_model")


@pytest.mark.parametrize(("kind", "class_tokens"), [("vit", 1), ("deit", 2), ("clip_vision_model", 1)])
def test_tower_for_tall_images_takes_only_them(
    kind: str, class_tokens: int, tmp_path: Path, tiny_config: Any, make_batch: Any
) -> None:
    model = BDAMModel(tiny_config(vision_config={**TALL, "model_type": kind}))
    assert_trains_and_reloads(model, make_batch(4, (48, 16)), tmp_path)
    tokens = model.get_image_features(make_batch(1, (48, 16))["pixel_values"]).last_hidden_state
    assert tokens.shape[1] == 6 * 2 + class_tokens
    with pytest.raises(ValueError, match=r"^images are 32x32, but the vision tower takes 48x16: .*"):
        model.get_image_features(make_batch(1)["pixel_values"])


def test_grid_positions_of_a_square_equal_clips(tiny_config: Any, make_batch: Any) -> None:
    clip = {"model_type": "clip_vision_model"}
    own, grid = (
        BDAMModel(tiny_config("clip", interpolate_pos_encoding=True, vision_config=clip | {"image_size": size})).eval()
        for size in (32, [32, 32])
    )
    grid.load_state_dict(own.state_dict())
    for size in ((32, 32), (64, 16), (16, 64)):
        pixels = make_batch(2, size)["pixel_values"]
        expected = own.get_image_features(pixels).pooler_output
        torch.testing.assert_close(grid.get_image_features(pixels).pooler_output, expected)


def test_tall_grid_positions_are_interpolated_only_for_clip(tiny_config: Any, make_batch: Any) -> None:
    pixels = make_batch(2, (96, 32))["pixel_values"]
    clip, vit = (
        BDAMModel(tiny_config(vision_config={**TALL, "model_type": kind}, interpolate_pos_encoding=True)).eval()
        for kind in ("clip_vision_model", "vit")
    )
    embeddings: Any = clip.vision_model.embeddings
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
    assert clip.get_image_features(pixels).last_hidden_state.shape[1] == 49

    with pytest.raises(ValueError, match=r"^images are 96x32, but the vision tower has positions for 48x16, which can"):
        vit.get_image_features(pixels)


@pytest.mark.parametrize(("kind", "limit"), [("bert", 24), ("roberta", 23), ("xlm-roberta", 23), ("mpnet", 22)])
def test_longest_text_excludes_padding_positions(kind: str, limit: int, tiny_config: Any) -> None:
    model = BDAMModel(tiny_config(text_config={"model_type": kind})).eval()
    assert model.longest_text == limit
    assert model.get_text_features(torch.full((1, limit), 5)).pooler_output.isfinite().all()
    with pytest.raises(ValueError, match=f"^texts are {limit + 1} tokens long, but the text tower takes {limit}: .*"):
        model.get_text_features(torch.full((1, limit + 1), 5))


@pytest.mark.parametrize("towers", ["vit", "clip", "siglip"])
@pytest.mark.parametrize("text", ["", "identity_", "clothing_"])
def test_too_long_text_is_refused(towers: str, text: str, tiny_config: Any) -> None:
    model = BDAMModel(tiny_config(towers))
    model(**{f"{text}input_ids": torch.full((1, 24), 5)})
    with pytest.raises(ValueError, match=r"^texts are 25 tokens long, but the text tower takes 24: truncate .*$"):
        model(**{f"{text}input_ids": torch.full((1, 25), 5)})


@pytest.mark.parametrize(
    ("half", "kind", "message"),
    [
        ("text_config", "vit", "`vit` takes pixel_values, but this tower gets only input_ids: use another model type"),
        ("vision_config", "bert", "`bert` takes input_ids, but this tower gets only pixel_values: use another"),
        ("text_config", "t5", "`t5` is an encoder-decoder: a tower is an encoder, such as `vit` or `bert`"),
        ("text_config", "bart", "`bart` is an encoder-decoder"),
        ("text_config", "wav2vec2", "`wav2vec2` takes input_values"),
        ("text_config", "vilt", "`vilt` takes pixel_values, but this tower gets only input_ids"),
        ("vision_config", "siglip2_vision_model", "`siglip2_vision_model` takes pixel_attention_mask, spatial_shapes"),
        ("vision_config", "clip", "`clip` is a model of images and texts: use its tower, `clip_vision_model`"),
        ("vision_config", "blip_vision_model", "`blip_vision_model` has no class in AutoModel: use another tower"),
        ("vision_config", "efficientnet", "`efficientnet` has no `hidden_size`, the width of its tokens"),
    ],
)
def test_model_that_cannot_be_the_tower_is_refused(half: str, kind: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{half}: {message}"):
        BDAMModel(BDAMConfig.from_dict({half: {"model_type": kind}}))


def test_pretrained_model_that_cannot_be_the_tower_is_refused(tmp_path: Path, tiny_config: Any) -> None:
    (tmp_path / "empty").mkdir()
    source = BDAMModel(tiny_config())
    source.save_pretrained(tmp_path / "bdam")
    source.vision_model.save_pretrained(tmp_path / "vit")
    source.text_model.save_pretrained(tmp_path / "other")
    config = AutoConfig.from_pretrained(tmp_path / "vit")
    config.save_pretrained(tmp_path / "other")  # the weights are of a text tower
    for name, message in {
        "none": "the tower .*none cannot be read: ",
        "empty": "the tower .*empty cannot be read: ",
        "bdam": ".*bdam is a whole BDAM model: use BDAMModel.from_pretrained",
        "other": r".*other lacks \d+ weights of `vit`: use another tower",
    }.items():
        with pytest.raises((OSError, ValueError), match=f"^vision_config: {message}.*$") as raised:
            BDAMModel.from_vision_text_pretrained(str(tmp_path / name), str(tmp_path / "other"))
        assert "\n" not in str(raised.value)


def test_new_grid_tower_is_initialized_like_clip(tiny_config: Any) -> None:
    def deviations(size: Any) -> list[float]:
        fields = {"model_type": "clip_vision_model", "image_size": size}
        weights = BDAMModel(tiny_config("clip", vision_config=fields)).vision_model.named_parameters()
        return [weight.std().item() for name, weight in weights if name.endswith("proj.weight")]

    assert deviations([48, 16]) == pytest.approx(deviations(32), rel=0.2)
