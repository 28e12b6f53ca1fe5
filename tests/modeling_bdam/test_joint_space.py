"""A model over the towers of one CLIP model ranks as CLIP does before it is trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from modeling_bdam import BDAMConfig, BDAMModel
from modeling_bdam.training.trainer import BDAMTrainer
from modeling_bdam.training.training_args import BDAMTrainingArguments

from .tensor_rows import TensorRows, collate


@pytest.fixture
def clip(tiny_config: Any, tmp_path: Path) -> CLIPModel:
    """A CLIP model with random weights, saved in `tmp_path`."""
    torch.manual_seed(0)
    config = tiny_config("clip", initializer_range=0.2)
    halves = {half: getattr(config, half).to_dict() for half in ("vision_config", "text_config")}
    source = CLIPModel(CLIPConfig(**halves, projection_dim=24, logit_scale_init_value=3.0)).eval()
    for layer in (source.visual_projection, source.text_projection):
        torch.nn.init.normal_(layer.weight, std=0.3)
    source.save_pretrained(tmp_path)
    return source


def scores(clip: CLIPModel, batch: dict[str, Tensor]) -> Tensor:
    """The cosine of each caption with each image by CLIP."""
    output = clip(
        pixel_values=batch["pixel_values"], input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
    )
    return output.text_embeds @ output.image_embeds.T


@pytest.mark.parametrize(
    "fields", [{}, {"use_bdam": False, "use_fusion": False}, {"fusion_sequence": "token"}], ids=str
)
def test_new_model_scores_as_clip(fields: Any, clip: CLIPModel, tmp_path: Path, make_batch: Any) -> None:
    model = BDAMModel.from_vision_text_pretrained(str(tmp_path), str(tmp_path), num_bdam_layers=1, **fields).eval()
    assert (model.config.joint_embeds, model.config.projection_dim) == (True, 24)
    assert model.logit_scale.item() == pytest.approx(3.0)
    batch = make_batch(6)
    expected = scores(clip, batch)
    output = model(**batch)
    for beta in (0.0, 1.0, 2.0):
        found = model.score(output.text_embeds, output.image_embeds, beta)
        torch.testing.assert_close(found, (1 + beta) * expected, rtol=1e-5, atol=1e-5)
    features = model.get_text_features(batch["input_ids"], batch["attention_mask"]).pooler_output
    torch.testing.assert_close(features, output.text_embeds)
    model.save_pretrained(tmp_path / "bdam")
    again = BDAMModel.from_pretrained(tmp_path / "bdam")
    torch.testing.assert_close(again.get_image_features(batch["pixel_values"]).pooler_output, output.image_embeds)


def test_new_model_scores_other_image_sizes_as_clip(clip: CLIPModel, tmp_path: Path, make_batch: Any) -> None:
    fields = {"num_bdam_layers": 1, "interpolate_pos_encoding": True}
    model = BDAMModel.from_vision_text_pretrained(str(tmp_path), str(tmp_path), **fields).eval()
    batch = make_batch(4)
    pixels = torch.nn.functional.interpolate(batch["pixel_values"], scale_factor=(2, 1))
    expected = clip.get_image_features(pixels, interpolate_pos_encoding=True)
    expected = expected if isinstance(expected, Tensor) else expected.pooler_output
    found = model.get_image_features(pixels).identity_embeds
    torch.testing.assert_close(found, torch.nn.functional.normalize(expected, dim=-1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fields", [{}, {"num_bdam_parts": 2}], ids=str)
def test_training_moves_both_halves_apart(fields: Any, clip: CLIPModel, tmp_path: Path, make_batch: Any) -> None:
    model = BDAMModel.from_vision_text_pretrained(str(tmp_path), str(tmp_path), num_bdam_layers=1, **fields)
    settings: dict[str, Any] = {"max_steps": 3, "learning_rate": 1e-2, "new_module_lr_factor": 5, "save_strategy": "no"}
    settings |= {"per_device_train_batch_size": 4, "report_to": "none", "use_cpu": True, "gradnorm": False}
    args = BDAMTrainingArguments(output_dir=str(tmp_path / "run"), lr_scheduler_type="constant", **settings)
    rows = TensorRows(make_batch(8))
    trainer = BDAMTrainer(model, args, data_collator=collate, retrieval_collator=collate, train_dataset=rows)
    trainer.train()
    groups: Any = trainer.optimizer.param_groups if trainer.optimizer is not None else []
    names = {id(value): name for name, value in model.named_parameters()}
    for group in groups:
        is_tower = {names[id(value)].startswith(("vision_model.", "text_model.")) for value in group["params"]}
        assert is_tower <= {group["lr"] == 1e-2}
    assert {group["lr"] for group in groups} == {1e-2, 5e-2}
    output = model.eval()(**make_batch(4))
    assert not torch.allclose(output.image_identity_embeds, output.image_clothing_embeds, atol=1e-3)


def test_joint_space_that_does_not_fit_is_refused(clip: CLIPModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="projection_dim=16, but the towers have a joint space of 24"):
        BDAMModel.from_vision_text_pretrained(str(tmp_path), str(tmp_path), projection_dim=16)
    fields: dict[str, Any] = {"projection_dim": 16, "joint_embeds": False, "hidden_size": 32, "num_bdam_heads": 4}
    assert not BDAMModel.from_vision_text_pretrained(str(tmp_path), str(tmp_path), **fields).config.joint_embeds
    with pytest.raises(Exception, match="joint_embeds needs the towers of a CLIP model"):
        BDAMConfig(joint_embeds=True)
