"""Each ablation trains over every kind of tower, queries see no image, and the model compiles whole."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modeling_bdam import BDAMModel
from modeling_bdam.losses_bdam import gate_regularization

MakeConfig = Callable[..., Any]  # BDAMConfig, whose towers are configs by now
MakeBatch = Callable[..., dict[str, Tensor]]

TRANSFORMER_TOWERS = ["vit", "clip", "siglip", "dinov2"]
TOWERS = [*TRANSFORMER_TOWERS, "convnext"]
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
    {"fusion_sequence": "token"},
    {"adversarial_on": "clothing"},
    {"decouple_on": "features"},
    {"use_bdam": False, "use_fusion": False},
    {"use_bdam": False, "fusion_sequence": "token"},
]


@pytest.fixture(autouse=True)
def _same_weights() -> None:
    torch.manual_seed(0)


def assert_trains(model: BDAMModel, batch: dict[str, Tensor]) -> None:
    """A gradient, and one that is not all zeros, reaches every parameter."""
    output = model.train()(**batch, return_loss=True)
    loss = output.loss
    if output.gate is not None or output.fusion_gate is not None:
        loss = loss + gate_regularization(output.gate, output.fusion_gate)
    loss.backward()
    # One state at a sequence of length 1 has nothing to decay; a key's bias shifts a whole row of logits.
    may_be_zero = ("A_log", "k_proj.bias", "key.bias")
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not (parameter.grad.any() or name.endswith(may_be_zero))
    ]
    assert not without
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("fields", ABLATIONS, ids=str)
def test_every_ablation_trains_every_parameter(
    fields: dict[str, Any], tiny_config: MakeConfig, make_batch: MakeBatch
) -> None:
    assert_trains(BDAMModel(tiny_config(**fields)), make_batch(8))


@pytest.mark.parametrize("towers", TOWERS)
def test_every_kind_of_tower_trains_every_parameter(
    towers: str, tiny_config: MakeConfig, make_batch: MakeBatch
) -> None:
    assert_trains(BDAMModel(tiny_config(towers)), make_batch(8))


@pytest.mark.parametrize("fields", ABLATIONS, ids=str)
def test_embeddings_are_of_unit_length_and_form_the_vector_a_gallery_stores(
    fields: dict[str, Any], tiny_config: MakeConfig, make_batch: MakeBatch
) -> None:
    model, batch = BDAMModel(tiny_config(**fields)).eval(), make_batch()
    texts = {name: batch[name] for name in ("input_ids", "attention_mask")}
    descriptions = {name: batch[name] for name in ("identity_input_ids", "identity_attention_mask")}
    for features in (
        model.get_image_features(batch["pixel_values"]),
        model.get_image_features(batch["pixel_values"], **descriptions),
        model.get_text_features(**texts),
    ):
        assert features.identity_embeds.shape == features.clothing_embeds.shape == (4, 16)
        for embeds in (features.identity_embeds, features.clothing_embeds):
            torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(4))
        assert features.pooler_output.equal(torch.cat([features.identity_embeds, features.clothing_embeds], dim=-1))


def test_forward_gives_the_features_of_each_side_and_the_loss_first(
    tiny_config: MakeConfig, make_batch: MakeBatch
) -> None:
    model, batch = BDAMModel(tiny_config()).eval(), make_batch()
    output = model(**batch, return_loss=True)
    assert output[0] is output.loss
    images = model.get_image_features(batch["pixel_values"])
    described = model.get_image_features(
        batch["pixel_values"], batch["identity_input_ids"], batch["identity_attention_mask"]
    )
    captions = model.get_text_features(batch["input_ids"], batch["attention_mask"])
    descriptions = model.get_text_features(batch["identity_input_ids"], batch["identity_attention_mask"])
    outfits = model.get_text_features(batch["clothing_input_ids"], batch["clothing_attention_mask"])
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


def test_images_alone_and_texts_alone_give_what_they_can(tiny_config: MakeConfig, make_batch: MakeBatch) -> None:
    model, batch = BDAMModel(tiny_config()).eval(), make_batch()
    images = model(pixel_values=batch["pixel_values"])
    assert images.image_embeds is not None
    assert images.text_embeds is images.logits_per_text is images.fused_identity_embeds is None
    texts = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    assert texts.text_embeds is not None
    assert texts.image_embeds is texts.logits_per_text is texts.gate is None


@pytest.mark.parametrize("fields", [{}, {"use_fusion": False}, {"fusion_sequence": "token"}], ids=str)
def test_a_query_depends_on_no_image(fields: dict[str, Any], tiny_config: MakeConfig, make_batch: MakeBatch) -> None:
    model, batch = BDAMModel(tiny_config(**fields)).eval(), make_batch()
    others = {**batch, "pixel_values": torch.randn_like(batch["pixel_values"])}
    assert model(**batch).text_embeds.equal(model(**others).text_embeds)


@pytest.mark.parametrize(("given", "bias"), [("image", [1e4, -1e4]), ("text", [-1e4, 1e4])])
def test_a_missing_modality_weighs_nothing_and_the_other_one_everything(
    given: str, bias: list[float], tiny_config: MakeConfig
) -> None:
    fusion = BDAMModel(tiny_config()).eval().fusion
    inputs = {"image": torch.randn(3, 1, 32), "text": torch.randn(3, 1, 32)}
    alone, weights = fusion(**{given: inputs[given]})
    assert weights is None
    fusion.gate.bias.data = torch.tensor(bias)  # the softmax gate of both, driven to 1 and 0
    both, weights = fusion(**inputs)
    assert weights.equal(torch.tensor([[float(b > 0) for b in bias]] * 3))
    torch.testing.assert_close(alone, both)


@pytest.mark.parametrize(("sequence", "lengths"), [("global", [1, 1, 1]), ("token", [17, 7, 17 + 6])])
def test_the_state_space_sees_one_fused_vector_or_all_tokens(
    sequence: str, lengths: list[int], tiny_config: MakeConfig, make_batch: MakeBatch
) -> None:
    model, batch = BDAMModel(tiny_config(fusion_sequence=sequence)).eval(), make_batch()
    seen: list[int] = []
    model.fusion.layers[0].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    model.get_image_features(batch["pixel_values"])
    model.get_text_features(batch["input_ids"], batch["attention_mask"])
    model.get_image_features(batch["pixel_values"], batch["identity_input_ids"], batch["identity_attention_mask"])
    assert seen == lengths


@pytest.mark.parametrize("sequence", ["global", "token"])
@pytest.mark.parametrize("towers", TRANSFORMER_TOWERS)
def test_a_text_is_embedded_alike_alone_and_padded_in_a_batch(
    towers: str, sequence: str, tiny_config: MakeConfig, make_batch: MakeBatch
) -> None:
    model, batch = BDAMModel(tiny_config(towers, fusion_sequence=sequence)).eval(), make_batch()
    ids, mask = batch["input_ids"], batch["attention_mask"]
    padded = model.get_text_features(ids, mask).pooler_output
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        alone = model.get_text_features(ids[row : row + 1, :length]).pooler_output
        torch.testing.assert_close(padded[row], alone[0], atol=1e-5, rtol=1e-4)


def test_a_description_changes_a_gallery_vectors_identity_half_alone(
    tiny_config: MakeConfig, make_batch: MakeBatch
) -> None:
    model, batch = BDAMModel(tiny_config()).eval(), make_batch()
    plain = model.get_image_features(batch["pixel_values"])
    described = model.get_image_features(
        batch["pixel_values"], batch["identity_input_ids"], batch["identity_attention_mask"]
    )
    assert not torch.allclose(plain.identity_embeds, described.identity_embeds, atol=1e-3)
    assert plain.clothing_embeds.equal(described.clothing_embeds)
    torch.testing.assert_close(described.fusion_gate.sum(dim=-1), torch.ones(4))


@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0, None])
def test_beta_scales_the_clothing_half_of_the_query_alone(
    beta: float | None, tiny_config: MakeConfig, make_batch: MakeBatch
) -> None:
    model, batch = BDAMModel(tiny_config(clothing_weight=0.7)).eval(), make_batch()
    queries = model.get_text_features(batch["input_ids"], batch["attention_mask"])
    gallery = model.get_image_features(batch["pixel_values"])
    scores = model.score(queries.pooler_output, gallery.pooler_output, beta)
    for q in range(4):
        for g in range(4):
            identity = queries.identity_embeds[q] @ gallery.identity_embeds[g]
            clothing = queries.clothing_embeds[q] @ gallery.clothing_embeds[g]
            expected = identity + (0.7 if beta is None else beta) * clothing
            torch.testing.assert_close(scores[q, g], expected)


@pytest.mark.parametrize("fields", [{}, {"use_bdam": False, "use_fusion": False}], ids=str)
def test_towers_of_another_width_are_projected_to_the_hidden_size(
    fields: dict[str, Any], tiny_config: MakeConfig, make_batch: MakeBatch
) -> None:
    model, batch = BDAMModel(tiny_config(hidden_size=24, **fields)), make_batch(8)
    assert model.get_image_features(batch["pixel_values"]).last_hidden_state.shape == (8, 17, 24)
    assert model.get_text_features(batch["input_ids"]).last_hidden_state.shape == (8, 7, 24)
    assert_trains(model, batch)
    assert not list(BDAMModel(tiny_config()).vision_projection.parameters())


@pytest.mark.parametrize("towers", TOWERS)
def test_bfloat16_stays_close_to_float32(towers: str, tiny_config: MakeConfig, make_batch: MakeBatch) -> None:
    model, batch = BDAMModel(tiny_config(towers)).eval(), make_batch()
    with torch.no_grad():
        exact = model(**batch)
        rough = model.bfloat16()(**{**batch, "pixel_values": batch["pixel_values"].bfloat16()})
    for name in ("image_identity_embeds", "image_clothing_embeds", "text_embeds", "fused_identity_embeds"):
        assert rough[name].dtype == torch.bfloat16
        assert F.cosine_similarity(rough[name].float(), exact[name]).min() > 0.995, name


@pytest.mark.parametrize("towers", TRANSFORMER_TOWERS)
def test_eager_attention_equals_sdpa(towers: str, tiny_config: MakeConfig, make_batch: MakeBatch) -> None:
    model, batch = BDAMModel(tiny_config(towers, fusion_sequence="token")).eval(), make_batch()
    model.set_attn_implementation("sdpa")
    fused = model(**batch)
    model.set_attn_implementation("eager")
    eager = model(**batch)
    for name, value in eager.items():
        torch.testing.assert_close(value, fused[name], atol=1e-5, rtol=1e-4, msg=name)


def test_cross_attention_maps_are_returned_on_request(tiny_config: MakeConfig, make_batch: MakeBatch) -> None:
    model = BDAMModel(tiny_config(num_bdam_layers=2)).eval()
    model.set_attn_implementation("eager")
    maps = model(pixel_values=make_batch()["pixel_values"], output_attentions=True).attentions
    assert [one.shape for one in maps] == [(4, 4, 17, 17)] * 2
    for one in maps:
        torch.testing.assert_close(one.sum(dim=-1), torch.ones(4, 4, 17))


@pytest.mark.parametrize("towers", TOWERS)
def test_the_model_compiles_without_a_graph_break(towers: str, tiny_config: MakeConfig, make_batch: MakeBatch) -> None:
    model, batch = BDAMModel(tiny_config(towers)).eval(), make_batch()
    torch._dynamo.reset()
    for method, inputs in (
        (model.get_image_features, {"pixel_values": batch["pixel_values"]}),
        (model.get_text_features, {name: batch[name] for name in ("input_ids", "attention_mask")}),
    ):
        compiled = torch.compile(method, fullgraph=True, backend="eager")  # a graph break raises
        torch.testing.assert_close(compiled(**inputs).pooler_output, method(**inputs).pooler_output)


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        (["clothing"], "clothing_input_ids"),
        (["identity"], "identity_input_ids"),
        (["pixel_values", "identity"], "pixel_values, identity_input_ids"),
        (["input_ids", "identity", "clothing"], "input_ids"),
    ],
)
def test_a_loss_without_its_inputs_is_refused_by_name(
    left_out: list[str], message: str, tiny_config: MakeConfig, make_batch: MakeBatch
) -> None:
    batch = {name: value for name, value in make_batch().items() if not name.startswith(tuple(left_out))}
    with pytest.raises(ValueError, match=f"^return_loss=True needs {message} as well$"):
        BDAMModel(tiny_config())(**batch, return_loss=True)


def test_captions_alone_are_enough_for_a_loss(tiny_config: MakeConfig, make_batch: MakeBatch) -> None:
    batch = {name: value for name, value in make_batch().items() if not name.startswith(("identity", "clothing"))}
    loss = BDAMModel(tiny_config())(**batch, return_loss=True).loss
    assert loss.ndim == 0
    assert loss.isfinite()


def test_a_loss_takes_texts_without_masks_as_unpadded(tiny_config: MakeConfig, make_batch: MakeBatch) -> None:
    model, batch = BDAMModel(tiny_config()).eval(), make_batch()
    unmasked = {name: value for name, value in batch.items() if not name.endswith("attention_mask")}
    ones = {name: torch.ones_like(value) for name, value in batch.items() if name.endswith("attention_mask")}
    torch.testing.assert_close(
        model(**unmasked, return_loss=True).loss, model(**{**batch, **ones}, return_loss=True).loss
    )
