"""Models of checkpoints and of new towers with the values of flags."""

from pathlib import Path

import pytest
import torch
from transformers import CLIPImageProcessorPil

from data_pipeline.batches.collator import PixelBatcher
from data_pipeline.batches.tokenizer import train_tokenizer
from modeling_bdam import BDAMModel, BDAMProcessor
from modeling_bdam.training.build import build_model
from modeling_bdam.training.run_arguments import parse_arguments

SMALL = '{"model_type":"KIND","hidden_size":8,"num_hidden_layers":1,"num_attention_heads":1,"intermediate_size":8}'


def build(*flags: str) -> tuple[BDAMModel, BDAMProcessor]:
    model_args, data_args, _, fields = parse_arguments(flags)
    texts = ["a man in a red coat", "a woman in a blue coat"]
    return build_model(model_args, data_args, fields, lambda size, length: train_tokenizer(texts, size, length))


def test_flags_change_settings_of_checkpoint(checkpoint: Path) -> None:
    flags = ["--image_height=16", "--image_mean", "0.1", "0.2", "0.3", "--max_text_length=9"]
    overrides = "--config_overrides=clothing_weight=0,interpolate_pos_encoding=true,vision_config.layer_norm_eps=0.5"
    model, processor = build(f"--model_name_or_path={checkpoint}", *flags, overrides)
    assert (model.config.clothing_weight, model.vision_model.config.layer_norm_eps) == (0, 0.5)
    assert (processor.image_processor.size["height"], processor.image_processor.size["width"]) == (16, 32)
    assert processor.image_processor.image_mean == [0.1, 0.2, 0.3]
    assert processor.tokenizer.model_max_length == 9


def test_checkpoint_keeps_its_settings_without_flags(checkpoint: Path) -> None:
    model, processor = build("--config=paper", f"--model_name_or_path={checkpoint}")  # β 0, 224 x 224, 77 tokens
    assert model.config.clothing_weight == 1
    assert (processor.image_processor.size["height"], processor.tokenizer.model_max_length) == (32, 24)


def test_file_that_names_a_checkpoint_changes_it(checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    section = f'{{"model_name_or_path": "{checkpoint}", "clothing_weight": 0.5}}'
    file.write_text(f'{{"model": {section}, "data": {{"max_text_length": 8}}}}')
    model, processor = build(f"--config={file}")
    assert (model.config.clothing_weight, processor.tokenizer.model_max_length) == (0.5, 8)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config_overrides=num_bdam_layers=3"], "num_bdam_layers=3 changes the weights of"),
        (["--config_overrides=projection_dim=8"], "projection_dim=8 changes the weights of"),
        (["--config_overrides=beta=0"], "unknown field `beta`"),
        (["--image_height=64"], "images are 64x32, but the vision tower takes 32x32"),
        (["--max_text_length=25"], "--max_text_length 25: the text tower takes at most 24 tokens"),
        (["--vocab_size=99"], "--vocab_size has no effect on the pretrained model"),
        (["--vision_model_name_or_path=x"], "--vision_model_name_or_path has no effect on the pretrained model"),
    ],
)
def test_unsuitable_flags_of_checkpoint_are_refused(flags: list[str], message: str, checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=message):
        build(f"--model_name_or_path={checkpoint}", *flags)


@pytest.mark.parametrize(("kind", "positions"), [("bert", 600), ("roberta", 601), ("clip_text_model", 600)])
def test_new_text_tower_has_max_text_length_positions(kind: str, positions: int) -> None:
    text_config = SMALL.replace("KIND", kind)
    model, processor = build("--max_text_length=600", f"--config_overrides=text_config={text_config}")
    assert model.text_model.config.max_position_embeddings == positions  # RoBERTa's begin after the padding index
    assert processor.tokenizer.model_max_length == 600
    text = processor(text="red coat " * 400, return_tensors="pt")
    assert model.eval().get_text_features(**text).pooler_output.isfinite().all()


@pytest.mark.parametrize(("length", "message"), [(100, "at most 40 tokens"), (2, "need 3 tokens")])
def test_unsuitable_max_text_length_is_refused(length: int, message: str) -> None:
    overrides = "--config_overrides=text_config.max_position_embeddings=40"
    with pytest.raises(ValueError, match=f"--max_text_length {length}: .*{message}"):
        build(f"--max_text_length={length}", overrides)
    assert build(overrides)[1].tokenizer.model_max_length == 40  # the preset has 80


def test_pretrained_roberta_takes_positions_without_offset(checkpoint: Path, tmp_path: Path) -> None:
    vision, text = tmp_path / "vision", tmp_path / "text"
    model, processor = build(f"--config_overrides=text_config={SMALL.replace('KIND', 'roberta')}")
    model.text_model.save_pretrained(text)
    processor.tokenizer.save_pretrained(text)
    BDAMModel.from_pretrained(checkpoint).vision_model.save_pretrained(vision)
    flags = [f"--vision_model_name_or_path={vision}", f"--text_model_name_or_path={text}", "--image_height=32"]
    flags += ["--image_width=32"]  # the towers of the preset are replaced
    assert build(*flags, "--max_text_length=511")[1].tokenizer.model_max_length == 511
    stretched, processor = build(*flags, "--max_text_length=600")
    assert (stretched.longest_text, processor.tokenizer.model_max_length) == (600, 600)
    with pytest.raises(ValueError, match="vision_config is of new towers"):
        build(*flags, "--config_overrides=vision_config.hidden_size=8")


@pytest.mark.parametrize(
    ("flags", "size", "mean"),
    [
        ((), (32, 32), [0.1, 0.2, 0.3]),
        (("--config_overrides=interpolate_pos_encoding=true",), (128, 64), [0.1, 0.2, 0.3]),  # of the preset
        (("--config_overrides=interpolate_pos_encoding=true", "--image_height=48"), (48, 64), [0.1, 0.2, 0.3]),
        (("--image_mean", "0.5", "0.5", "0.5"), (32, 32), [0.5, 0.5, 0.5]),
    ],
)
def test_pretrained_towers_keep_their_image_settings(
    flags: tuple[str, ...], size: tuple[int, int], mean: list[float], checkpoint: Path, tmp_path: Path
) -> None:
    model, tokenizer = BDAMModel.from_pretrained(checkpoint), BDAMProcessor.from_pretrained(checkpoint).tokenizer
    model.vision_model.save_pretrained(tmp_path / "vision")
    square = {"height": 32, "width": 32}
    source = CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size=square, image_mean=[0.1, 0.2, 0.3])
    source.save_pretrained(tmp_path / "vision")
    model.text_model.save_pretrained(tmp_path / "text")
    tokenizer.save_pretrained(tmp_path / "text")
    towers = [f"--{kind}_model_name_or_path={tmp_path / kind}" for kind in ("vision", "text")]
    _, processor = build(*towers, *flags)
    settings = processor.image_processor
    assert (settings.size["height"], settings.size["width"]) == size
    assert (list(settings.image_mean), settings.resample) == (mean, source.resample)
    PixelBatcher(settings)  # fits the collators


def test_max_text_length_stretches_pretrained_towers(checkpoint: Path, tmp_path: Path) -> None:
    source = BDAMModel.from_pretrained(checkpoint)
    source.vision_model.save_pretrained(tmp_path / "vision")
    source.text_model.save_pretrained(tmp_path / "text")
    BDAMProcessor.from_pretrained(checkpoint).tokenizer.save_pretrained(tmp_path / "text")
    towers = [f"--{kind}_model_name_or_path={tmp_path / kind}" for kind in ("vision", "text")]
    model, processor = build(*towers, "--image_height=32", "--image_width=32", "--max_text_length=168")
    sentence = processor(text=" ".join(["man"] * 200), return_tensors="pt")
    assert sentence["input_ids"].shape == (1, 168)
    features = model.eval().get_text_features(**sentence).pooler_output
    model.save_pretrained(tmp_path / "long")
    again = BDAMModel.from_pretrained(tmp_path / "long")
    assert again.longest_text == 168
    torch.testing.assert_close(again.get_text_features(**sentence).pooler_output, features)
