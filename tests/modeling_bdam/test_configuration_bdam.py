"""Tests of the configuration: error messages name the field, and JSON keeps each value."""

import json
from hashlib import sha256
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


def test_defaults_are_the_settings_of_the_paper() -> None:
    config = BDAMConfig()
    assert isinstance(config.vision_config, ViTConfig)
    assert isinstance(config.text_config, BertConfig)
    assert (config.hidden_size, config.fusion_hidden_size, config.num_bdam_layers) == (768, 256, 6)


def test_fields_equal_those_of_earlier_checkpoints() -> None:
    later = {"decouple_estimator", "decouple_gradient", "fusion_norm", "info_weights", "joint_embeds"}
    later |= {"num_bdam_parts", "score_calibration"}
    later |= {name for name in BDAMConfig.__annotations__ if "matching" in name}
    fields = sorted(BDAMConfig.__annotations__.keys() - later)
    assert sha256(" ".join(fields).encode()).hexdigest()[:16] == "d880dd492891dcc3", (
        f"renaming a field breaks checkpoints: {fields}"
    )


def test_tower_dicts_become_configs_of_their_type() -> None:
    config = BDAMConfig(**TOWERS, projection_dim=128)
    assert isinstance(config.vision_config, CLIPVisionConfig)
    assert isinstance(config.text_config, BertConfig)
    assert (config.vision_config.hidden_size, config.text_config.hidden_size, config.projection_dim) == (60, 48, 128)
    # Without model_type it is the default tower.
    assert BDAMConfig(vision_config={"image_size": [384, 128]}).vision_config == ViTConfig(image_size=[384, 128])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"projecton_dim": 1}, r"BDAMConfig has no field `projecton_dim`; did you mean `projection_dim`\?"),
        ({"num_bdam_layer": 1}, r"BDAMConfig has no field `num_bdam_layer`; did you mean `num_bdam_layers`\?"),
        ({"cross_attention": 1}, r"BDAMConfig has no field `cross_attention`; did you mean `bdam_cross_attention`\?"),
        ({"vision_confg": 1}, r"BDAMConfig has no field `vision_confg`; did you mean `vision_config`\?"),
        ({"zzz": 1}, "BDAMConfig has no field `zzz`"),
        (
            {"text_config": {"model_type": "bertt"}},
            r"text_config: transformers has no model type `bertt`; did you mean `bert`\?",
        ),
    ],
)
def test_unknown_name_is_refused_with_the_nearest(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        BDAMConfig.from_dict(fields)


def test_unknown_field_in_a_saved_file_is_refused(tmp_path: Path) -> None:
    BDAMConfig(**TOWERS).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**saved, "use_bdm": False}))
    with pytest.raises(ValueError, match="did you mean `use_bdam`"):
        BDAMConfig.from_pretrained(tmp_path)


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
def test_value_of_the_wrong_type_is_refused(field: str, value: Any) -> None:
    with pytest.raises(StrictDataclassFieldValidationError, match=f"'{field}'"):
        BDAMConfig(**{field: value})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"hidden_size": 100, "num_bdam_heads": 12},
            r"hidden_size \(100\) must be a multiple of num_bdam_heads \(12\)",
        ),
        ({"num_bdam_heads": 0}, "num_bdam_heads must be at least 1, got 0"),
        ({"projection_dim": -1}, "projection_dim must be at least 1, got -1"),
        ({"mamba_expand": 0}, "mamba_expand must be at least 1, got 0"),
        ({"num_bdam_layers": -1}, "num_bdam_layers must be at least 0, got -1"),
        ({"clothing_weight": -0.5}, "clothing_weight must be at least 0, got -0.5"),
        ({"dropout": 1.0}, "dropout must be below 1, got 1.0"),
        ({"fusion_sequence": "token", "use_fusion": False}, "fusion_sequence='token' needs use_fusion=True"),
    ],
)
def test_inconsistent_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        BDAMConfig(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"hidden_size": 100, "num_bdam_heads": 12, "use_bdam": False},
        {"dropout": 0, "mlp_ratio": 4, "clothing_weight": 1},  # integers, as in JSON and on command lines
        {"logit_scale_init_value": -1.0},
    ],
)
def test_valid_fields_are_accepted(fields: dict[str, Any]) -> None:
    config = BDAMConfig(**fields)
    assert {name: getattr(config, name) for name in fields} == fields


def test_json_and_dict_keep_each_field(tmp_path: Path) -> None:
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


def test_field_can_be_changed_while_loading(tmp_path: Path) -> None:
    BDAMConfig(**TOWERS).save_pretrained(tmp_path)
    config: Any = BDAMConfig.from_pretrained(tmp_path, clothing_weight=2.0, text_config={"vocab_size": 20})
    assert (config.clothing_weight, config.text_config.vocab_size, config.text_config.hidden_size) == (2.0, 20, 48)
