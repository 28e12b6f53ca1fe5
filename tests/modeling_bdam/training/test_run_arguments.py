"""Reading the command line, presets and files; how bad ones end is tested through the command."""

import json
from pathlib import Path
from typing import Any

import pytest

from modeling_bdam.training.run_arguments import apply_overrides, parse_arguments, read_preset


@pytest.mark.parametrize("name", ["tiny", "paper", "clip"])
def test_presets_parse_and_name_their_own_output_folder(name: str, tmp_path: Path) -> None:
    _, _, training, _ = parse_arguments([f"--config={name}"])
    assert training.output_dir == f"outputs/{name}"


def test_preset_paper_is_section_4_2() -> None:
    model, data, training, fields = parse_arguments(["--config=paper"])
    assert "vit-base-patch16-224" in str(model.vision_model_name_or_path)
    assert "bert-base-uncased" in str(model.text_model_name_or_path)
    assert (data.image_height, data.image_width) == (224, 224)
    assert (training.learning_rate, training.weight_decay, training.num_train_epochs) == (1e-4, 1e-3, 60)
    assert (training.per_device_train_batch_size, training.gradnorm_alpha) == (64, 1.5)
    assert (fields["num_bdam_layers"], fields["dropout"]) == (6, 0.1)


def test_command_line_wins_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"data": {"vocab_size": 77}, "training": {"learning_rate": 0.5, "max_steps": 7}}))
    _, data, training, _ = parse_arguments(["--config", str(file), "--learning_rate=0.25", "--output_dir=x"])
    assert (training.learning_rate, training.max_steps, data.vocab_size) == (0.25, 7, 77)
    assert data.image_height == 128


def test_the_last_config_named_is_the_one_read() -> None:
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
def test_what_is_done_follows_from_the_flags(flags: list[str], train: bool, evaluate: bool) -> None:
    _, _, training, _ = parse_arguments(flags)
    assert (training.do_train, training.do_eval) == (train, evaluate)


def test_overrides_are_read_as_json_where_they_can_be() -> None:
    fields: dict[str, Any] = {"hidden_size": 8}
    apply_overrides(fields, "use_bdam=false, dropout=0.5,fusion_sequence=global,vision_config.hidden_size=96")
    expected = {"hidden_size": 8, "use_bdam": False, "dropout": 0.5, "fusion_sequence": "global"}
    assert fields == expected | {"vision_config": {"hidden_size": 96}}


def test_override_of_a_tower_knows_the_fields_of_its_kind() -> None:
    fields: dict[str, Any] = {"vision_config": {"model_type": "convnext"}}
    apply_overrides(fields, "vision_config.layer_scale_init_value=1")
    with pytest.raises(ValueError, match="unknown field `layer_scale_init_value`"):
        apply_overrides({"vision_config": {"model_type": "vit"}}, "vision_config.layer_scale_init_value=1")


@pytest.mark.parametrize("text", ["[1]", '{"model": 3}', "{"])
def test_file_that_is_no_object_of_sections_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "odd.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"odd\.json is no"):
        read_preset(str(file))
