"""The baselines IRRA, RDE and TBPS-CLIP on tiny towers: training, evaluation, saving and resuming."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, set_seed

from modeling_bdam import BDAMConfig, BDAMModel
from modeling_bdam.training.dual_encoder import HEADS_FILE, DualEncoder
from modeling_bdam.training.irra import IRRA
from modeling_bdam.training.rde import RDE
from modeling_bdam.training.trainer import BDAMTrainer
from modeling_bdam.training.training_args import (
    DUAL_ENCODER_FIELDS,
    DUAL_ENCODER_OBJECTIVES,
    BDAMTrainingArguments,
)

from ..tensor_rows import TensorRows, collate

MakeTrainer = Callable[..., BDAMTrainer]


@pytest.fixture
def clip(tiny_config: Any, tmp_path: Path) -> str:
    """Folder of a CLIP model with random weights."""
    torch.manual_seed(0)
    config = tiny_config("clip", initializer_range=0.2)
    halves = {half: getattr(config, half).to_dict() for half in ("vision_config", "text_config")}
    CLIPModel(CLIPConfig(**halves, projection_dim=24, logit_scale_init_value=3.0)).save_pretrained(tmp_path / "clip")
    return str(tmp_path / "clip")


@pytest.fixture
def make_trainer(clip: str, tmp_path: Path, make_batch: Any) -> MakeTrainer:
    """`make_trainer(objective, **arguments)`: over 16 rows of 8 people, from the CLIP model or a `model`."""

    def make(objective: str, model: BDAMModel | None = None, **arguments: Any) -> BDAMTrainer:
        settings: dict[str, Any] = {"max_steps": 2, "logging_steps": 1, "save_strategy": "no", "report_to": "none"}
        settings |= {"per_device_train_batch_size": 8, "use_cpu": True, "images_per_person": 1, "disable_tqdm": True}
        settings |= {"objective": objective, **arguments}
        args = BDAMTrainingArguments(str(tmp_path / "run"), **settings)
        set_seed(0)
        model = model or BDAMModel.from_vision_text_pretrained(clip, clip, **DUAL_ENCODER_FIELDS)
        rows = TensorRows(make_batch(16))
        return BDAMTrainer(model, args, collate, rows, retrieval_collator=collate)

    return make


def encoder_of(trainer: BDAMTrainer) -> DualEncoder:
    assert isinstance(trainer.model, DualEncoder)
    return trainer.model.eval()


@pytest.mark.parametrize("objective", DUAL_ENCODER_OBJECTIVES)
@pytest.mark.parametrize("towers", ["clip", "vit"])
def test_training_decreases_loss(
    objective: str, towers: str, make_trainer: MakeTrainer, tiny_config: Callable[..., BDAMConfig]
) -> None:
    model = None if towers == "clip" else BDAMModel(tiny_config(towers, **DUAL_ENCODER_FIELDS))
    arguments = {"learning_rate": 3e-3, "lr_scheduler_type": "constant", "max_steps": 20}
    trainer = make_trainer(objective, model, per_device_train_batch_size=16, **arguments)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("objective", DUAL_ENCODER_OBJECTIVES)
def test_new_dual_encoder_scores_as_clip(objective: str, make_trainer: MakeTrainer, clip: str, make_batch: Any) -> None:
    model, batch = encoder_of(make_trainer(objective)), make_batch(8)
    source = CLIPModel.from_pretrained(clip).eval()
    texts = {name: batch[name] for name in ("input_ids", "attention_mask")}
    expected = source(pixel_values=batch["pixel_values"], **texts)
    extra = {"person_ids": batch["person_ids"], "pair_weights": torch.ones(8)}
    extra = {name: extra[name] for name in model.extra_inputs}
    for inputs in ({}, extra):
        output = model(pixel_values=batch["pixel_values"], **texts, **inputs)
        torch.testing.assert_close(output.image_identity_embeds, expected.image_embeds, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(output.caption_identity_embeds, expected.text_embeds, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("objective", ["irra", "tbps"])
def test_saved_folder_is_a_model_with_the_same_vectors(
    objective: str, make_trainer: MakeTrainer, tmp_path: Path, make_batch: Any
) -> None:
    trainer = make_trainer(objective, learning_rate=1e-2)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    batch, saved = make_batch(4), BDAMModel.from_pretrained(tmp_path / "saved")
    assert type(saved) is BDAMModel
    assert saved.config.clothing_weight == 0
    pooled = encoder_of(trainer).encode_images(batch["pixel_values"]).pooled
    found = saved.get_image_features(batch["pixel_values"]).identity_embeds
    torch.testing.assert_close(found, torch.nn.functional.normalize(pooled, dim=1))


def test_irra_losses_reach_every_head(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("irra", learning_rate=1e-3)
    model = encoder_of(trainer)
    assert isinstance(model, IRRA)
    before = {name: value.clone() for name, value in model.heads.named_parameters()}
    trainer.train()
    assert all(not torch.equal(value, before[name]) for name, value in model.heads.named_parameters())
    logged = {name for entry in trainer.state.log_history for name in entry if name.startswith("loss_")}
    assert logged == {"loss_sdm", "loss_id", "loss_mlm"}


def test_rde_vectors_score_the_mean_of_both_embeddings(make_trainer: MakeTrainer, make_batch: Any) -> None:
    model, batch = encoder_of(make_trainer("rde")), make_batch(8)
    output = model(**{name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask")})
    pooled = output.caption_identity_embeds @ output.image_identity_embeds.T
    selected = output.caption_clothing_embeds @ output.image_clothing_embeds.T
    assert not torch.allclose(pooled, selected, atol=1e-2)
    queries = model.get_text_features(batch["input_ids"], batch["attention_mask"]).pooler_output
    gallery = model(pixel_values=batch["pixel_values"]).image_embeds
    for beta in (0.0, 1.0):
        torch.testing.assert_close(model.score(queries, gallery, beta), (pooled + selected) / 2)


def test_rde_embeddings_do_not_depend_on_padding(make_trainer: MakeTrainer, make_batch: Any) -> None:
    model, batch = encoder_of(make_trainer("rde")), make_batch(4)
    ids, mask = batch["input_ids"][2:3], batch["attention_mask"][2:3]
    length = int(mask.sum())
    assert length < ids.shape[1]
    found = model.get_text_features(ids, mask).pooler_output
    torch.testing.assert_close(model.get_text_features(ids[:, :length], mask[:, :length]).pooler_output, found)


def test_rde_leaves_noisy_pairs_out_of_the_loss(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = torch.arange(16) % 4 > 0
    monkeypatch.setattr("modeling_bdam.training.rde.divide_pairs", lambda *args, **kwargs: clean)
    trainer = make_trainer("rde", max_steps=2)
    seen: list[Tensor] = []
    model = encoder_of(trainer)
    assert isinstance(model, RDE)
    model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs["pair_weights"]), with_kwargs=True)
    trainer.train()
    assert torch.cat(seen[1:]).sum().item() == 12  # of an epoch of 16 rows; the first batch probes the losses
    assert [entry["clean_pairs"] for entry in trainer.state.log_history if "clean_pairs" in entry] == [0.75]


@pytest.mark.parametrize("objective", DUAL_ENCODER_OBJECTIVES)
def test_resumed_run_equals_uninterrupted_run(objective: str, make_trainer: MakeTrainer, tmp_path: Path) -> None:
    arguments = {"max_steps": 4, "save_strategy": "steps", "save_steps": 3, "learning_rate": 1e-3}
    whole = make_trainer(objective, **arguments)
    whole.train()
    assert (tmp_path / "run/checkpoint-3" / HEADS_FILE).is_file()
    resumed = make_trainer(objective, **arguments)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-3"))
    expected = encoder_of(whole).state_dict()
    for name, value in encoder_of(resumed).state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=name)


def test_rde_reads_its_heads_from_a_saved_folder(make_trainer: MakeTrainer, tmp_path: Path, make_batch: Any) -> None:
    trainer = make_trainer("rde", learning_rate=1e-2)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    again = RDE(BDAMModel.from_pretrained(tmp_path / "saved")).eval()
    pixels = make_batch(4)["pixel_values"]
    found, expected = (model(pixel_values=pixels).image_embeds for model in (again, encoder_of(trainer)))
    torch.testing.assert_close(found, expected)


def test_model_with_decoupling_is_refused(tiny_config: Callable[..., BDAMConfig]) -> None:
    with pytest.raises(ValueError, match="set --config_overrides use_bdam=false,use_fusion=false"):
        DualEncoder(BDAMModel(tiny_config("clip")))


def test_rde_refuses_a_vision_tower_without_attention(tiny_config: Callable[..., BDAMConfig]) -> None:
    with pytest.raises(ValueError, match="by attention, which convnext has not; use a transformer"):
        RDE(BDAMModel(tiny_config("convnext", **DUAL_ENCODER_FIELDS)))
