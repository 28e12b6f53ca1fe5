"""Command line, presets and preset files; most error messages are tested through the command."""

import json
from pathlib import Path
from typing import Any

import pytest

from modeling_bdam.training.run_arguments import apply_overrides, parse_arguments, read_preset
from modeling_bdam.training.training_args import DUAL_ENCODER_FIELDS


@pytest.mark.parametrize("name", ["tiny", "paper", "clip"])
def test_parse_arguments_reads_preset(name: str) -> None:
    _, _, training, _ = parse_arguments([f"--config={name}"])
    assert training.output_dir == f"outputs/{name}"


def test_preset_paper_has_settings_of_section_4_2() -> None:
    model, data, training, fields = parse_arguments(["--config=paper"])
    assert "vit-base-patch16-224" in str(model.vision_model_name_or_path)
    assert "bert-base-uncased" in str(model.text_model_name_or_path)
    assert (data.image_height, data.image_width) == (224, 224)
    assert (training.learning_rate, training.weight_decay, training.num_train_epochs) == (1e-4, 1e-3, 60)
    assert (training.per_device_train_batch_size, training.gradnorm_alpha) == (64, 1.5)
    assert (fields["num_bdam_layers"], fields["dropout"]) == (6, 0.1)


def test_parse_arguments_prefers_flags_to_file_to_defaults(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"data": {"vocab_size": 77}, "training": {"learning_rate": 0.5, "max_steps": 7}}))
    _, data, training, _ = parse_arguments(["--config", str(file), "--learning_rate=0.25", "--output_dir=x"])
    assert (training.learning_rate, training.max_steps, data.vocab_size) == (0.25, 7, 77)
    assert data.image_height == 128


def test_parse_arguments_reads_last_config() -> None:
    model, _, training, _ = parse_arguments(["--config=tiny", "--config", "paper"])
    assert model.config == "paper"
    assert training.output_dir == "outputs/paper"


@pytest.mark.parametrize(
    ("flags", "train", "evaluate"),
    [
        ([], True, True),
        (["--do_train"], True, False),
        (["--do_eval"], False, True),
        (["--do_train", "--do_eval"], True, True),
        (["--model_name_or_path=folder"], False, True),
        (["--model_name_or_path=folder", "--do_train"], True, False),
    ],
)
def test_parse_arguments_sets_do_train_and_do_eval(flags: list[str], train: bool, evaluate: bool) -> None:
    _, _, training, _ = parse_arguments(flags)
    assert (training.do_train, training.do_eval) == (train, evaluate)


@pytest.mark.parametrize("objective", ["decoupled", "irra"])
def test_parse_arguments_builds_dual_encoder_of_a_baseline(objective: str) -> None:
    *_, fields = parse_arguments(["--config=clip", f"--objective={objective}", "--config_overrides=dropout=0.3"])
    expected = DUAL_ENCODER_FIELDS if objective == "irra" else {}
    assert {name: fields[name] for name in fields.keys() & DUAL_ENCODER_FIELDS.keys()} == expected
    assert fields["dropout"] == 0.3


def test_apply_overrides_parses_json_or_strings() -> None:
    fields: dict[str, Any] = {"hidden_size": 8}
    apply_overrides(fields, "use_bdam=false, dropout=0.5,fusion_sequence=global,vision_config.hidden_size=96")
    expected = {"hidden_size": 8, "use_bdam": False, "dropout": 0.5, "fusion_sequence": "global"}
    assert fields == expected | {"vision_config": {"hidden_size": 96}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vision_config.depths=[1,1,3]", {"vision_config": {"model_type": "convnext", "depths": [1, 1, 3]}}),
        ("dropout=[1, [2, 3]],mlp_ratio=0.5,", {"dropout": [1, [2, 3]], "mlp_ratio": 0.5}),
        ('fusion_block="a,b=c",use_bdam=false', {"fusion_block": "a,b=c", "use_bdam": False}),
        ('vision_config={"hidden_size": 1, "patch_size": 2}', {"vision_config": {"hidden_size": 1, "patch_size": 2}}),
        (" dropout = 1e-1 , fusion_sequence=1st", {"dropout": 0.1, "fusion_sequence": "1st"}),
    ],
)
def test_apply_overrides_reads_commas_in_json(text: str, expected: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"vision_config": {"model_type": "convnext"}}
    apply_overrides(fields, text)
    assert fields == {"vision_config": {"model_type": "convnext"}} | expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dropout=[1,2", "is no valid JSON: check its quotes and brackets"),
        ('dropout="1', "is no valid JSON"),
        ("dropout=[1]2", "is no valid JSON"),
        ("dropout=1,2", "'2' is not key=value"),
        ("dropout,use_bdam=false", "'dropout' is not key=value"),
        ("vision_config=3", "vision_config is no JSON object"),
        ('vision_config={"pach_size":3}', "unknown field `pach_size`"),
        ("text_config.vocab_size=9", "text_config.vocab_size follows from the tokenizer"),
        ('text_config={"pad_token_id":9}', "text_config.pad_token_id follows from the tokenizer"),
    ],
)
def test_apply_overrides_refuses_broken_values(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apply_overrides({}, text)


def test_apply_overrides_checks_fields_of_tower_kind() -> None:
    fields: dict[str, Any] = {"vision_config": {"model_type": "convnext"}}
    apply_overrides(fields, "vision_config.layer_scale_init_value=1")
    with pytest.raises(ValueError, match="unknown field `layer_scale_init_value`"):
        apply_overrides({"vision_config": {"model_type": "vit"}}, "vision_config.layer_scale_init_value=1")


@pytest.mark.parametrize("text", ["[1]", '{"model": 3}', "{"])
def test_read_preset_refuses_file_without_sections(text: str, tmp_path: Path) -> None:
    file = tmp_path / "odd.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"odd\.json is no"):
        read_preset(str(file))


def test_metric_of_the_best_checkpoint_is_one_that_training_computes() -> None:
    assert parse_arguments(["--metric_for_best_model", "described_mAP"])[2].metric_for_best_model == "described_mAP"
    with pytest.raises(ValueError, match="unknown metric `reranked_mAP`"):
        parse_arguments(["--metric_for_best_model", "reranked_mAP"])
