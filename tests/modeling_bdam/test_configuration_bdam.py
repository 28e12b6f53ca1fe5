"""A configuration says what is wrong with it at once, and survives JSON."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from transformers import AutoConfig, BertConfig, CLIPVisionConfig, ViTConfig

from modeling_bdam import BDAMConfig

TOWERS: dict[str, Any] = {
    "text_config": {"model_type": "bert", "hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": 1},
    "vision_config": {"model_type": "clip_vision_model", "hidden_size": 60, "image_size": 32},
}


def test_the_defaults_are_the_papers_towers() -> None:
    config = BDAMConfig()
    assert isinstance(config.vision_config, ViTConfig)
    assert isinstance(config.text_config, BertConfig)
    assert (config.hidden_size, config.fusion_hidden_size, config.num_bdam_layers) == (768, 256, 6)


def test_plain_dicts_become_the_towers_own_configs() -> None:
    config = BDAMConfig(**TOWERS, projection_dim=128)
    assert isinstance(config.vision_config, CLIPVisionConfig)
    assert isinstance(config.text_config, BertConfig)
    assert (config.vision_config.hidden_size, config.text_config.hidden_size, config.projection_dim) == (60, 48, 128)


def test_a_dict_without_model_type_is_of_the_default_kind() -> None:
    assert BDAMConfig(vision_config={"image_size": [384, 128]}).vision_config == ViTConfig(image_size=[384, 128])


@pytest.mark.parametrize(
    ("typo", "nearest"),
    [
        ("projecton_dim", "projection_dim"),
        ("num_bdam_layer", "num_bdam_layers"),
        ("cross_attention", "bdam_cross_attention"),
        ("vision_confg", "vision_config"),
    ],
)
def test_an_unknown_field_is_refused_with_the_nearest_name(typo: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"^BDAMConfig has no field `{typo}`; did you mean `{nearest}`\\?$"):
        BDAMConfig.from_dict({typo: 1})


def test_an_unknown_field_like_no_other_is_refused_without_a_guess() -> None:
    with pytest.raises(ValueError, match=r"^BDAMConfig has no field `zzz`$"):
        BDAMConfig.from_dict({"zzz": 1})


def test_an_unknown_field_in_a_saved_file_is_refused(tmp_path: Path) -> None:
    BDAMConfig(**TOWERS).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**saved, "use_bdm": False}))
    with pytest.raises(ValueError, match="did you mean `use_bdam`"):
        BDAMConfig.from_pretrained(tmp_path)


def test_an_unknown_kind_of_tower_is_refused_with_the_nearest_kind() -> None:
    with pytest.raises(
        ValueError, match=r"^text_config: transformers has no model type `bertt`; did you mean `bert`\?$"
    ):
        BDAMConfig(text_config={"model_type": "bertt"})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("projection_dim", "256"),
        ("hidden_size", 768.0),
        ("use_bdam", "false"),
        ("dropout", "0.1"),
        ("fusion_sequence", "tokens"),
        ("adversarial_on", "both"),
        ("text_config", "bert-base-uncased"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(StrictDataclassFieldValidationError, match=f"'{field}'"):
        BDAMConfig(**{field: value})


def test_whole_numbers_stand_for_fractions() -> None:
    config = BDAMConfig(dropout=0, mlp_ratio=4, clothing_weight=1)  # as JSON and command lines write them
    assert (config.dropout, config.mlp_ratio, config.clothing_weight) == (0, 4, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"hidden_size": 100, "num_bdam_heads": 12},
            r"hidden_size \(100\) must be a multiple of num_bdam_heads \(12\)",
        ),
        ({"num_bdam_heads": 0}, "num_bdam_heads must be at least 1, got 0"),
        ({"projection_dim": -1}, "projection_dim must be at least 1, got -1"),
        ({"num_bdam_layers": -1}, "num_bdam_layers must be at least 0, got -1"),
        ({"dropout": 1.0}, "dropout must be below 1, got 1.0"),
        ({"fusion_sequence": "token", "use_fusion": False}, "fusion_sequence='token' needs use_fusion=True"),
    ],
)
def test_fields_that_do_not_fit_one_another_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        BDAMConfig(**fields)


def test_heads_need_not_divide_the_width_without_bdam() -> None:
    assert BDAMConfig(hidden_size=100, num_bdam_heads=12, use_bdam=False).hidden_size == 100


def test_json_and_dict_keep_every_field(tmp_path: Path) -> None:
    config = BDAMConfig(
        **TOWERS,
        projection_dim=128,
        num_bdam_layers=3,
        bdam_gate=False,
        mlp_ratio=2.0,
        fusion_sequence="token",
        adversarial_on="clothing",
        clothing_weight=0.5,
        dtype="bfloat16",
    )
    config.save_pretrained(tmp_path)
    for loaded in (
        BDAMConfig.from_pretrained(tmp_path),
        AutoConfig.from_pretrained(tmp_path),
        BDAMConfig.from_dict(config.to_dict()),
        BDAMConfig.from_json_file(tmp_path / "config.json"),
    ):
        assert loaded.to_dict() == {**config.to_dict(), "_name_or_path": loaded.name_or_path}
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == "bdam"
    assert saved["num_bdam_layers"] == 3


def test_a_field_can_be_changed_while_loading(tmp_path: Path) -> None:
    BDAMConfig(**TOWERS).save_pretrained(tmp_path)
    config: Any = BDAMConfig.from_pretrained(tmp_path, clothing_weight=2.0, text_config={"vocab_size": 20})
    assert (config.clothing_weight, config.text_config.vocab_size, config.text_config.hidden_size) == (2.0, 20, 48)
