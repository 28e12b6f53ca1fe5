"""Tests of the model: each ablation trains, queries see no image, missing inputs, padding, precision, compilation."""

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel

from modeling_bdam import BDAMConfig, BDAMModel, towers_bdam
from modeling_bdam.decoupling_bdam import PartPooling
from modeling_bdam.losses_bdam import gate_regularization
from modeling_bdam.towers_bdam import split_by_length

TRANSFORMER_TOWERS = ["vit", "clip", "siglip", "dinov2"]
EACH_TOWER = pytest.mark.parametrize("towers", [*TRANSFORMER_TOWERS, "convnext"])
EACH_TRANSFORMER_TOWER = pytest.mark.parametrize("towers", TRANSFORMER_TOWERS)
PARTS = ["vision_model", "text_model", "vision_projection", "text_projection", "decoupling", "fusion"]
PARTS += ["image_clothing_head", "text_clothing_head", "adversarial_projection"]
ABLATIONS: list[dict[str, Any]] = [
    {},
    {"use_bdam": False},
    {"bdam_cross_attention": False},
    {"bdam_gate": False},
    {"num_bdam_layers": 0},
    {"num_bdam_layers": 3},
    {"mlp_ratio": 2.0},
    {"use_fusion": False},
    {"fusion_alignment": False},
    {"fusion_gate": False},
    {"fusion_mamba": False},
    {"fusion_norm": False},
    {"fusion_sequence": "token"},
    {"num_bdam_parts": 3},
    {"num_bdam_parts": 3, "fusion_sequence": "token"},
    {"adversarial_on": "clothing"},
    {"decouple_on": "features"},
    {"use_bdam": False, "use_fusion": False},
    {"use_bdam": False, "fusion_sequence": "token"},
]

pytestmark = pytest.mark.usefixtures("seed")


@pytest.fixture
def model(tiny_config: Any) -> BDAMModel:
    return BDAMModel(tiny_config()).eval()


@pytest.fixture
def batch(make_batch: Any) -> dict[str, Tensor]:
    return make_batch()


def texts(batch: dict[str, Tensor], prefix: str = "") -> tuple[Tensor, Tensor]:
    return batch[f"{prefix}input_ids"], batch[f"{prefix}attention_mask"]


def assert_trains(model: BDAMModel, batch: dict[str, Tensor]) -> None:
    """Asserts that each parameter gets a gradient that is not all zeros."""
    output = model.train()(**batch, return_loss=True)
    loss = output.loss
    if output.gate is not None or output.fusion_gate is not None:
        loss = loss + gate_regularization(output.gate, output.fusion_gate)
    loss.backward()
    # A has no effect at length 1; the bias of a key shifts all logits of a row equally.
    may_be_zero = ("A_log", "k_proj.bias", "key.bias")
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not (parameter.grad.any() or name.endswith(may_be_zero))
    ]
    assert not without
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_parameters_equal_those_of_earlier_checkpoints(tiny_config: Any) -> None:
    model = BDAMModel(tiny_config(fusion_norm=False))
    names = "\n".join(sorted(f"{name} {list(value.shape)}" for name, value in model.state_dict().items()))
    digest = sha256(names.encode()).hexdigest()[:16]
    assert digest == "7567dc47767f3351", f"renaming a parameter breaks saved checkpoints:\n{names}"


@pytest.mark.parametrize("fields", ABLATIONS, ids=str)
def test_each_ablation_trains_each_parameter(fields: dict[str, Any], tiny_config: Any, make_batch: Any) -> None:
    assert_trains(BDAMModel(tiny_config(**fields)), make_batch(8))


def test_checkpoint_from_before_the_norms_loads_without_them(tiny_config: Any, tmp_path: Path) -> None:
    model = BDAMModel(tiny_config(fusion_norm=False))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["fusion_norm"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    for loader in (BDAMModel, AutoModel):
        again = loader.from_pretrained(tmp_path)
        assert not again.config.fusion_norm
        assert all(value.equal(model.state_dict()[name]) for name, value in again.state_dict().items())
    assert BDAMConfig.from_dict({}).fusion_norm


@pytest.mark.parametrize("scale", [1e3, 1e6])
def test_norm_keeps_large_inputs_finite(tiny_config: Any, batch: dict[str, Tensor], scale: float) -> None:
    model = BDAMModel(tiny_config())
    for layer in (model.vision_projection, model.text_projection):
        layer.register_forward_hook(lambda module, inputs, output: scale * output)
    output = model(**batch, return_loss=True)
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)


def test_scale_of_logits_is_at_most_100(model: BDAMModel, batch: dict[str, Tensor]) -> None:
    with torch.no_grad():
        model.logit_scale.fill_(5.0)  # exp(5) = 148
    assert model(**batch).logit_scale.item() == pytest.approx(100)


@pytest.mark.parametrize("dropped", ["clothing_", "identity_"])
def test_texts_encoded_together_equal_separate_ones(
    model: BDAMModel, batch: dict[str, Tensor], dropped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch["identity_input_ids"][1] = batch["identity_input_ids"][0]  # a repeated text
    batch = {name: value for name, value in batch.items() if not name.startswith(dropped)}
    together = model(**batch)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    separate = model(**batch)
    for name, value in separate.items():
        torch.testing.assert_close(together[name], value, rtol=1e-5, atol=1e-5, msg=name)


def test_one_row_of_equal_texts_is_encoded(model: BDAMModel, make_batch: Any) -> None:
    batch = make_batch(1)
    for prefix in ("identity_", "clothing_"):
        batch |= {f"{prefix}{name}": batch[name] for name in ("input_ids", "attention_mask")}
    output = model(**batch)
    torch.testing.assert_close(output.description_identity_embeds, output.caption_identity_embeds)


@pytest.mark.parametrize(
    ("lengths", "sizes"),
    [
        ([], [0]),
        ([5], [1]),
        ([5, 5, 5], [3]),
        ([31, 32, 32], [3]),  # a token of padding is not worth another pass
        ([3, 3, 3, 4, 9, 9, 9, 30], [4, 3, 1]),
        ([1, 2, 4, 8, 16, 32, 64], [3, 2, 1, 1]),
    ],
)
def test_texts_are_divided_where_padding_is_saved(lengths: list[int], sizes: list[int]) -> None:
    assert split_by_length(torch.tensor(lengths, dtype=torch.long)) == sizes


def test_part_pooling_is_attention_of_learned_queries(tiny_config: Any) -> None:
    config = tiny_config(num_bdam_parts=3)
    pooling = PartPooling(config).double()
    for parameter in pooling.parameters():
        nn.init.normal_(parameter)
    tokens = torch.randn(4, 10, config.hidden_size, dtype=torch.float64)
    normed = pooling.norm(tokens)
    key, value = (F.linear(normed, each.weight, each.bias) for each in (pooling.k_proj, pooling.v_proj))
    query = pooling.queries.weight.expand(4, -1, -1)  # [B, P, D]
    place = (torch.arange(10) + 0.5) / 10
    stripes = -0.5 * ((place - pooling.center[:, None]) / pooling.log_width.exp()[:, None]).square()  # [P, L]
    split = (config.num_bdam_heads, -1)
    query, key, value = (each.unflatten(-1, split).transpose(1, 2) for each in (query, key, value))
    expected = F.scaled_dot_product_attention(query, key, value, stripes).transpose(1, 2).flatten(2)
    torch.testing.assert_close(pooling(tokens), expected)


def test_part_pooling_returns_the_dtype_of_autocast(tiny_config: Any) -> None:
    config = tiny_config(num_bdam_parts=3)
    with torch.autocast("cpu", torch.bfloat16):
        parts = PartPooling(config)(torch.randn(4, 10, config.hidden_size))
    assert parts.dtype == torch.bfloat16


def test_parts_begin_as_stripes(tiny_config: Any) -> None:
    pooling: Any = BDAMModel(tiny_config(num_bdam_parts=4)).decoupling.get_submodule("identity_branch.projection")
    tokens = torch.randn(1, 32, pooling.queries.weight.shape[1])
    changed = tokens.repeat(32, 1, 1)
    changed[range(32), range(32)] *= -1
    effect = (pooling(changed) - pooling(tokens)).norm(dim=-1)  # [changed token, part]
    places = (effect * torch.arange(32)[:, None]).sum(0) / effect.sum(0)
    assert places.tolist() == pytest.approx([4, 12, 20, 28], abs=6)  # a stripe reaches beyond its 8 tokens


@EACH_TOWER
def test_each_tower_trains_each_parameter(towers: str, tiny_config: Any, make_batch: Any) -> None:
    assert_trains(BDAMModel(tiny_config(towers)), make_batch(8))


@pytest.mark.parametrize("fields", ABLATIONS, ids=str)
def test_embeddings_have_unit_length(fields: dict[str, Any], tiny_config: Any, batch: dict[str, Tensor]) -> None:
    model = BDAMModel(tiny_config(**fields)).eval()
    for features in (
        model.get_image_features(batch["pixel_values"]),
        model.get_image_features(batch["pixel_values"], *texts(batch, "identity_")),
        model.get_text_features(*texts(batch)),
    ):
        assert features.identity_embeds.shape == features.clothing_embeds.shape == (4, 16)
        for embeds in (features.identity_embeds, features.clothing_embeds):
            torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(4))
        assert features.pooler_output.equal(torch.cat([features.identity_embeds, features.clothing_embeds], dim=-1))


def test_forward_equals_the_feature_methods(model: BDAMModel, batch: dict[str, Tensor]) -> None:
    output = model(**batch, return_loss=True)
    assert output[0] is output.loss
    images = model.get_image_features(batch["pixel_values"])
    described = model.get_image_features(batch["pixel_values"], *texts(batch, "identity_"))
    captions, descriptions, outfits = (
        model.get_text_features(*texts(batch, prefix)) for prefix in ("", "identity_", "clothing_")
    )
    for actual, expected in (
        (output.image_embeds, images.pooler_output),
        (output.fused_identity_embeds, described.identity_embeds),
        (output.fusion_gate, described.fusion_gate),
        (output.text_embeds, captions.pooler_output),
        (output.description_identity_embeds, descriptions.identity_embeds),
        (output.description_clothing_embeds, outfits.clothing_embeds),
        (output.logits_per_text, output.logit_scale * captions.pooler_output @ images.pooler_output.T),
        (output.logits_per_image, output.logits_per_text.T),
    ):
        torch.testing.assert_close(actual, expected)


def test_forward_of_one_modality_leaves_others_none(model: BDAMModel, batch: dict[str, Tensor]) -> None:
    images = model(pixel_values=batch["pixel_values"])
    assert images.image_embeds is not None
    assert images.text_embeds is images.logits_per_text is images.fused_identity_embeds is None
    captions = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    assert captions.text_embeds is not None
    assert captions.image_embeds is captions.logits_per_text is captions.gate is None


@pytest.mark.parametrize("fields", [{}, {"use_fusion": False}, {"fusion_sequence": "token"}], ids=str)
def test_query_does_not_depend_on_images(fields: dict[str, Any], tiny_config: Any, batch: dict[str, Tensor]) -> None:
    model = BDAMModel(tiny_config(**fields)).eval()
    others = {**batch, "pixel_values": torch.randn_like(batch["pixel_values"])}
    assert model(**batch).text_embeds.equal(model(**others).text_embeds)


@pytest.mark.parametrize(("given", "bias"), [("image", [1e4, -1e4]), ("text", [-1e4, 1e4])])
def test_missing_modality_has_weight_zero(given: str, bias: list[float], model: BDAMModel) -> None:
    fusion: Any = model.fusion
    inputs = {"image": torch.randn(3, 1, 32), "text": torch.randn(3, 1, 32)}
    single, weights = fusion(**{given: inputs[given]})
    assert weights is None
    fusion.gate.bias.data = torch.tensor(bias)  # saturates the softmax gate to 1 and 0
    both, weights = fusion(**inputs)
    assert weights.equal(torch.tensor([[float(b > 0) for b in bias]] * 3))
    torch.testing.assert_close(single, both)


@pytest.mark.parametrize(("sequence", "lengths"), [("global", [1, 1, 1]), ("token", [17, 7, 17 + 6])])
def test_fusion_sequence_sets_the_length_of_the_scan(
    sequence: str, lengths: list[int], tiny_config: Any, batch: dict[str, Tensor]
) -> None:
    model: Any = BDAMModel(tiny_config(fusion_sequence=sequence)).eval()
    seen: list[int] = []
    model.fusion.layers[0].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    model.get_image_features(batch["pixel_values"])
    model.get_text_features(*texts(batch))
    model.get_image_features(batch["pixel_values"], *texts(batch, "identity_"))
    assert seen == lengths


@pytest.mark.parametrize("sequence", ["global", "token"])
@EACH_TRANSFORMER_TOWER
def test_padding_does_not_change_text_embeddings(
    towers: str, sequence: str, tiny_config: Any, batch: dict[str, Tensor]
) -> None:
    model = BDAMModel(tiny_config(towers, fusion_sequence=sequence)).eval()
    ids, mask = texts(batch)
    padded = model.get_text_features(ids, mask).pooler_output
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        single = model.get_text_features(ids[row : row + 1, :length]).pooler_output
        torch.testing.assert_close(padded[row], single[0], atol=1e-5, rtol=1e-4)


def test_description_changes_only_the_identity_half(model: BDAMModel, batch: dict[str, Tensor]) -> None:
    plain = model.get_image_features(batch["pixel_values"])
    described = model.get_image_features(batch["pixel_values"], *texts(batch, "identity_"))
    assert not torch.allclose(plain.identity_embeds, described.identity_embeds, atol=1e-3)
    assert plain.clothing_embeds.equal(described.clothing_embeds)
    torch.testing.assert_close(described.fusion_gate.sum(dim=-1), torch.ones(4))


@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0, None])
def test_score_scales_only_the_clothing_half(beta: float | None, tiny_config: Any, batch: dict[str, Tensor]) -> None:
    model = BDAMModel(tiny_config(clothing_weight=0.7)).eval()
    queries, gallery = model.get_text_features(*texts(batch)), model.get_image_features(batch["pixel_values"])
    scores = model.score(queries.pooler_output, gallery.pooler_output, beta)
    for q in range(4):
        for g in range(4):
            identity = queries.identity_embeds[q] @ gallery.identity_embeds[g]
            clothing = queries.clothing_embeds[q] @ gallery.clothing_embeds[g]
            expected = identity + (0.7 if beta is None else beta) * clothing
            torch.testing.assert_close(scores[q, g], expected)


@pytest.mark.parametrize("fields", [{}, {"use_bdam": False, "use_fusion": False}], ids=str)
def test_towers_of_other_width_are_projected(fields: dict[str, Any], tiny_config: Any, make_batch: Any) -> None:
    model, batch = BDAMModel(tiny_config(hidden_size=24, **fields)), make_batch(8)
    assert model.get_image_features(batch["pixel_values"]).last_hidden_state.shape == (8, 17, 24)
    assert model.get_text_features(batch["input_ids"]).last_hidden_state.shape == (8, 7, 24)
    assert_trains(model, batch)
    assert not list(BDAMModel(tiny_config()).vision_projection.parameters())


@EACH_TOWER
def test_bfloat16_is_close_to_float32(towers: str, tiny_config: Any, batch: dict[str, Tensor]) -> None:
    model = BDAMModel(tiny_config(towers)).eval()
    with torch.no_grad():
        exact = model(**batch)
        rough = model.bfloat16()(**batch)  # float32 pixels, as the processor returns them
    for name in ("image_identity_embeds", "image_clothing_embeds", "text_embeds", "fused_identity_embeds"):
        assert rough[name].dtype == torch.bfloat16
        assert F.cosine_similarity(rough[name].float(), exact[name]).min() > 0.995, name


@EACH_TRANSFORMER_TOWER
def test_eager_attention_equals_sdpa(towers: str, tiny_config: Any, batch: dict[str, Tensor]) -> None:
    model = BDAMModel(tiny_config(towers, fusion_sequence="token")).eval()
    outputs = []
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        outputs.append(model(**batch))
    for name, value in outputs[1].items():
        torch.testing.assert_close(value, outputs[0][name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("kernels", ["sdpa", "flex_attention"])
def test_tower_without_kernels_keeps_its_default(
    kernels: str, tiny_config: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    warn_once: Any = towers_bdam.logger.warning_once
    warn_once.cache_clear()
    model = BDAMModel(tiny_config("convnext"))
    model.save_pretrained(tmp_path)
    model.set_attn_implementation(kernels)
    loaded = BDAMModel.from_pretrained(tmp_path, attn_implementation=kernels)
    for one in (model, loaded):
        used = [part.config._attn_implementation for part in (one, one.vision_model, one.text_model)]
        assert used == ["sdpa", "eager", kernels]
    assert [record.message for record in caplog.records if "ConvNextModel" in record.message] == [
        f"ConvNextModel does not support attention by {kernels} and uses its default"
    ]


@pytest.mark.parametrize("place", ["auto", {"": "disk"}, dict.fromkeys(PARTS, "disk")], ids=["auto", "all", "parts"])
def test_weights_can_be_offloaded_to_disk(
    place: str | dict[str, str], model: BDAMModel, batch: dict[str, Tensor], tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    memory = {"max_memory": {"cpu": 40_000}} if place == "auto" else {}
    offloaded = BDAMModel.from_pretrained(tmp_path, device_map=place, offload_folder=tmp_path / "offload", **memory)
    assert any(value.is_meta for value in offloaded.fusion.parameters())
    with torch.no_grad():
        expected, outputs = model(**batch), offloaded(**batch)
    assert all(value.equal(outputs[name]) for name, value in expected.items())


def test_cross_attention_maps_are_returned(tiny_config: Any, batch: dict[str, Tensor]) -> None:
    model = BDAMModel(tiny_config(num_bdam_layers=2)).eval()
    model.set_attn_implementation("eager")
    maps = model(pixel_values=batch["pixel_values"], output_attentions=True).attentions
    assert [one.shape for one in maps] == [(4, 4, 17, 17)] * 2
    for one in maps:
        torch.testing.assert_close(one.sum(dim=-1), torch.ones(4, 4, 17))


@pytest.mark.parametrize(
    ("towers", "backend"),
    [
        *((towers, "eager") for towers in [*TRANSFORMER_TOWERS, "convnext"]),
        pytest.param("vit", "aot_eager", marks=pytest.mark.slow),
    ],
)
def test_model_compiles_without_graph_break(towers: str, backend: str, tiny_config: Any, make_batch: Any) -> None:
    model = BDAMModel(tiny_config(towers)).eval()
    torch._dynamo.reset()
    for method, names in (
        (model.get_image_features, ["pixel_values"]),
        (model.get_text_features, ["input_ids", "attention_mask"]),
    ):
        compiled = torch.compile(method, fullgraph=True, dynamic=True, backend=backend)  # a graph break raises
        for size in (4, 6):
            inputs = {name: make_batch(size)[name] for name in names}
            torch.testing.assert_close(compiled(**inputs).pooler_output, method(**inputs).pooler_output)


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        (("clothing",), "clothing_input_ids"),
        (("identity",), "identity_input_ids"),
        (("pixel_values", "identity"), "pixel_values, identity_input_ids"),
        (("input_ids", "identity", "clothing"), "input_ids"),
    ],
)
def test_loss_without_its_inputs_is_refused(
    left_out: tuple[str, ...], message: str, model: BDAMModel, batch: dict[str, Tensor]
) -> None:
    inputs = {name: value for name, value in batch.items() if not name.startswith(left_out)}
    with pytest.raises(ValueError, match=f"^return_loss=True also needs {message}$"):
        model(**inputs, return_loss=True)


def test_loss_needs_only_images_and_captions(model: BDAMModel, batch: dict[str, Tensor]) -> None:
    inputs = {name: value for name, value in batch.items() if not name.startswith(("identity", "clothing"))}
    loss = model.train()(**inputs, return_loss=True).loss
    assert loss.ndim == 0
    assert loss.isfinite()


def test_loss_without_masks_assumes_no_padding(model: BDAMModel, batch: dict[str, Tensor]) -> None:
    unmasked = {name: value for name, value in batch.items() if not name.endswith("attention_mask")}
    ones = {name: torch.ones_like(value) for name, value in batch.items() if name.endswith("attention_mask")}
    expected = model(**{**batch, **ones}, return_loss=True).loss
    torch.testing.assert_close(model(**unmasked, return_loss=True).loss, expected)


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("attn_implementaton", "; did you mean `attn_implementation`?"),
        ("clothing_weigth", "; did you mean `clothing_weight`?"),
        ("devicemap", "; did you mean `device_map`?"),
        ("zzz", ""),
    ],
)
def test_unknown_argument_of_loading_names_the_nearest(checkpoint: Path, argument: str, hint: str) -> None:
    message = re.escape(f"BDAMModel.from_pretrained has no argument `{argument}`{hint}")
    for loaded in (BDAMModel, AutoModel):
        with pytest.raises(TypeError, match=f"^{message}$"):
            loaded.from_pretrained(checkpoint, **{argument: "cpu"})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *(
            (name, "no such folder, and not of the form owner/name of the Hub")
            for name in ("no", "./no", "/no/x", "a/b/c")
        ),
        ("empty", "no model, since it has no config.json; give the folder of a saved model"),
        ("list", "its config.json is of the model type `None`, but `bdam` is needed"),
        ("bert", "its config.json is of the model type `bert`, but `bdam` is needed"),
    ],
)
def test_folder_that_is_no_model_is_named(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, content in {"empty": None, "list": "[1]", "bert": '{"model_type": "bert"}'}.items():
        Path(folder).mkdir()
        if content is not None:
            Path(folder, "config.json").write_text(content)
    for loaded in (BDAMModel, BDAMConfig):
        with pytest.raises((OSError, ValueError), match=f"^{re.escape(f'{name}: {message}')}$"):
            loaded.from_pretrained(name)
