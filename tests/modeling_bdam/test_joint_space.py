"""A model over the towers of one dual encoder ranks as the dual encoder does before it is trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    ChineseCLIPConfig,
    ChineseCLIPImageProcessorPil,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    MetaClip2Config,
    MetaClip2Model,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from modeling_bdam import BDAMConfig, BDAMModel, BDAMProcessor
from modeling_bdam.objective_bdam import PairLabels, task_losses
from modeling_bdam.training.trainer import BDAMTrainer
from modeling_bdam.training.training_args import BDAMTrainingArguments

from .conftest import END, IMAGE, TEXT
from .tensor_rows import TensorRows, collate
from .two_color_people import draw_people, rank_1, train_dual_encoder

FAMILIES: dict[str, tuple[Any, Any, Any]] = {
    "clip": (CLIPConfig, CLIPModel, CLIPImageProcessorPil),
    "metaclip_2": (MetaClip2Config, MetaClip2Model, CLIPImageProcessorPil),
    "chinese_clip": (ChineseCLIPConfig, ChineseCLIPModel, ChineseCLIPImageProcessorPil),
    "siglip": (SiglipConfig, SiglipModel, SiglipImageProcessorPil),  # also SigLIP2 with a fixed resolution
}
TEXT_KEYS = ("input_ids", "attention_mask")
SENTENCES = ["a man in red coat [END]", "photo of woman [END]", "a woman in coat [END]", "red [END]"]


@pytest.fixture
def save_dual_encoder(tmp_path: Path, word_tokenizer: Any) -> Any:
    """`save_dual_encoder(family, std)`: a dual encoder with random weights, saved in `tmp_path` with its processor."""

    def save(family: str, std: float = 0.2) -> Any:
        torch.manual_seed(0)
        config_class, model_class, image_processor = FAMILIES[family]
        is_siglip = family == "siglip"
        text = TEXT | ({"projection_size": 32} if is_siglip else {})
        fields: dict[str, Any] = {} if is_siglip else {"projection_dim": 24, "logit_scale_init_value": 3.0}
        source = model_class(config_class(vision_config=IMAGE, text_config=text, **fields)).eval()
        for weight in source.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=std)
        torch.nn.init.constant_(source.logit_scale, 3.0)
        source.save_pretrained(tmp_path)
        square = {"height": 32, "width": 32}
        size = {"size": square} if is_siglip else {"size": {"shortest_edge": 32}, "crop_size": square}
        image_processor(image_std=[0.2, 0.3, 0.4], **size).save_pretrained(tmp_path)
        word_tokenizer(24).save_pretrained(tmp_path)
        return source

    return save


@pytest.fixture
def clip(save_dual_encoder: Any) -> CLIPModel:
    """A CLIP model with random weights, saved in `tmp_path`."""
    return save_dual_encoder("clip")


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        *((family, {}) for family in FAMILIES),
        ("clip", {"use_bdam": False, "use_fusion": False}),
        ("clip", {"fusion_sequence": "token"}),
        ("siglip", {"fusion_sequence": "token", "num_bdam_parts": 2}),
    ],
    ids=str,
)
def test_new_model_scores_as_the_dual_encoder(
    family: str, fields: Any, save_dual_encoder: Any, tmp_path: Path, photo: Any
) -> None:
    source = save_dual_encoder(family)
    model = BDAMModel.from_vision_text_pretrained(str(tmp_path), str(tmp_path), num_bdam_layers=1, **fields).eval()
    width = 32 if family == "siglip" else 24
    assert (model.config.joint_embeds, model.config.projection_dim, model.config.hidden_size) == (True, width, 32)
    assert (model.logit_scale.item(), model.config.num_bdam_heads) == (pytest.approx(3.0), 4)

    # Inputs by the processor of the source
    own = AutoImageProcessor.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    images = [photo(40, 40, seed) for seed in range(5)]
    inputs = dict(own[0](images, return_tensors="pt"))
    padding = "max_length" if family == "siglip" else True
    inputs |= own[1](SENTENCES, padding=padding, return_token_type_ids=False, return_tensors="pt")
    if family == "siglip":
        del inputs["attention_mask"]  # its tokenizer on the Hub returns none
    output = source(**inputs)
    expected = output.text_embeds @ output.image_embeds.T
    assert expected.std() > 0.05

    # Scores of new and of reloaded weights
    processor = BDAMProcessor.from_towers(str(tmp_path), str(tmp_path))
    model.save_pretrained(tmp_path / "bdam")
    processor.save_pretrained(tmp_path / "bdam")
    again = BDAMModel.from_pretrained(tmp_path / "bdam")
    for each, reader in ((model, processor), (again, BDAMProcessor.from_pretrained(tmp_path / "bdam"))):
        batch = reader(images=images, text=SENTENCES, return_tensors="pt")
        torch.testing.assert_close(batch["pixel_values"], inputs["pixel_values"])
        images_and_texts = each(**batch)
        for beta in (0.0, 1.0, 2.0):
            found = each.score(images_and_texts.text_embeds, images_and_texts.image_embeds, beta)
            torch.testing.assert_close(found / (1 + beta), expected, rtol=1e-4, atol=1e-4)
            assert found.argsort().equal(expected.argsort())
        features = each.get_text_features(batch["input_ids"], batch["attention_mask"]).pooler_output
        torch.testing.assert_close(features, images_and_texts.text_embeds)
        # Captions and descriptions together, of which each distinct text is encoded once
        texts = {f"{prefix}{key}": batch[key] for prefix in ("", "identity_", "clothing_") for key in TEXT_KEYS}
        embeds = each(**texts).caption_identity_embeds
        torch.testing.assert_close(embeds, images_and_texts.caption_identity_embeds)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_new_model_keeps_the_rank_1_of_a_trained_dual_encoder(
    family: str, save_dual_encoder: Any, tmp_path: Path
) -> None:
    source = save_dual_encoder(family, std=0.03).train()

    def score(pixels: Tensor, ids: Tensor) -> Tensor:
        output = source(pixel_values=pixels, input_ids=ids)
        return output.text_embeds @ output.image_embeds.T

    train_dual_encoder(score, source.parameters(), (32, 32), END)
    source.eval().save_pretrained(tmp_path)
    model = BDAMModel.from_vision_text_pretrained(str(tmp_path), str(tmp_path)).eval()
    pixels, ids = draw_people((32, 32), END, seed=1000)
    with torch.no_grad():
        expected, output = score(pixels, ids), model(pixel_values=pixels, input_ids=ids)
    assert rank_1(expected) > 0.9
    for beta in (0.0, 1.0, 2.0):
        found = model.score(output.text_embeds, output.image_embeds, beta)
        assert rank_1(found) == rank_1(expected)
        torch.testing.assert_close(found / (1 + beta), expected, rtol=1e-4, atol=1e-4)


def test_the_decoupling_loss_does_not_make_the_identity_constant(clip: CLIPModel, tmp_path: Path) -> None:
    model = BDAMModel.from_vision_text_pretrained(str(tmp_path), str(tmp_path), num_bdam_layers=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    pixels = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    texts = {"input_ids": torch.randint(3, 90, (16, 6)), "attention_mask": torch.ones(16, 6, dtype=torch.long)}
    texts |= {f"{kind}_{key}": texts[key] for kind in ("identity", "clothing") for key in TEXT_KEYS}
    spread = []
    for _ in range(30):
        output = model(pixel_values=pixels, **texts)
        spread.append(output.image_identity_embeds.std(dim=0).mean().item())
        labels = PairLabels.of_rows(torch.arange(16), torch.arange(16))
        losses = task_losses(output, output, labels, model.config)
        optimizer.zero_grad()
        (losses["info"] + 10 * losses["decouple"]).backward()
        optimizer.step()
    assert spread[-1] > 0.7 * spread[0]


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_weights_of_the_joint_space_are_trained(
    family: str, save_dual_encoder: Any, tmp_path: Path, make_batch: Any
) -> None:
    save_dual_encoder(family)
    model = BDAMModel.from_vision_text_pretrained(str(tmp_path), str(tmp_path), num_bdam_layers=1)
    torch.nn.init.normal_(model.image_clothing_head.weight)
    torch.nn.init.normal_(model.text_clothing_head.weight)
    model(**make_batch(4), return_loss=True).loss.backward()
    assert not [name for name, value in model.named_parameters() if value.grad is None]


def test_new_model_scores_other_image_sizes_as_clip(clip: CLIPModel, tmp_path: Path, make_batch: Any) -> None:
    fields = {"num_bdam_layers": 1, "interpolate_pos_encoding": True}
    model = BDAMModel.from_vision_text_pretrained(str(tmp_path), str(tmp_path), **fields).eval()
    batch = make_batch(4)
    pixels = torch.nn.functional.interpolate(batch["pixel_values"], scale_factor=(2, 1))
    expected = clip.get_image_features(pixels, interpolate_pos_encoding=True)
    found = model.get_image_features(pixels).identity_embeds
    torch.testing.assert_close(
        found, torch.nn.functional.normalize(expected.pooler_output, dim=-1), rtol=1e-4, atol=1e-5
    )


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
    pretrained = ("vision_model.", "text_model.", "visual_projection.", "textual_projection.")
    names = {id(value): name for name, value in model.named_parameters()}
    for group in groups:
        is_tower = {names[id(value)].startswith(pretrained) for value in group["params"]}
        assert is_tower <= {group["lr"] == 1e-2}
    assert {group["lr"] for group in groups} == {1e-2, 5e-2}
    output = model.eval()(**make_batch(4))
    assert not torch.allclose(output.image_identity_embeds, output.image_clothing_embeds, atol=1e-3)


def test_joint_space_that_does_not_fit_is_refused(clip: CLIPModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="projection_dim=16, but the towers have a joint space of 24"):
        BDAMModel.from_vision_text_pretrained(str(tmp_path), str(tmp_path), projection_dim=16)
    fields: dict[str, Any] = {"projection_dim": 16, "joint_embeds": False, "hidden_size": 32, "num_bdam_heads": 4}
    assert not BDAMModel.from_vision_text_pretrained(str(tmp_path), str(tmp_path), **fields).config.joint_embeds
    with pytest.raises(Exception, match="joint_embeds needs the towers of a CLIP or SigLIP model"):
        BDAMConfig(joint_embeds=True)
