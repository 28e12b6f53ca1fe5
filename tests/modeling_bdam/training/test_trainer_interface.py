"""`BDAMTrainer` takes what users of `Trainer` pass, on rows of the common schema with the default collators."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from PIL import Image
from transformers import EarlyStoppingCallback, EvalPrediction, TrainerCallback, set_seed

from modeling_bdam import BDAMModel, BDAMProcessor
from modeling_bdam.training.trainer import BDAMTrainer, TrainingStoppedError
from modeling_bdam.training.training_args import BDAMTrainingArguments

MakeTrainer = Callable[..., BDAMTrainer]


@pytest.fixture
def rows(photo: Callable[..., Image.Image]) -> Dataset:
    """Eight images of four people, half of them with descriptions."""
    columns: dict[str, list[Any]] = {
        "image": [photo(seed=number) for number in range(8)],
        "person_id": [number // 2 for number in range(8)],
        "outfit_id": [number // 2 for number in range(8)],
        "captions": [["a man in red"], ["a woman in red coat"]] * 4,
        "identity_description": ["a man", "a woman", "a woman", "a man", None, None, None, None],
        "clothing_description": ["red coat", "red coat", "coat", "red", None, None, None, None],
    }
    return Dataset.from_dict(columns)


@pytest.fixture
def make_trainer(checkpoint: Path, rows: Dataset, tmp_path: Path) -> MakeTrainer:
    """`make_trainer(arguments, **options)`: a trainer with the default collators of the processor."""

    def make(arguments: dict[str, Any] | None = None, **options: Any) -> BDAMTrainer:
        set_seed(0)
        if "model_init" not in options:
            options.setdefault("model", BDAMModel.from_pretrained(checkpoint))
        settings: dict[str, Any] = {"output_dir": str(tmp_path / "run"), "per_device_train_batch_size": 4}
        settings |= {"max_steps": 2, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True}
        args = BDAMTrainingArguments(**settings | (arguments or {}))
        options = {"processing_class": BDAMProcessor.from_pretrained(checkpoint), "train_dataset": rows, **options}
        return BDAMTrainer(args=args, eval_dataset=rows, **options)

    return make


def test_default_collators_train_and_evaluate_rows(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer({"logging_steps": 1})
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss_info" in entry]
    assert {"loss_adversarial" in entry for entry in logs} == {True, False}  # a batch of each kind
    assert 0 <= trainer.evaluate()["eval_mAP"] <= 1


def test_collators_without_processor_are_required(make_trainer: MakeTrainer) -> None:
    with pytest.raises(ValueError, match="without processing_class, pass data_collator and retrieval_collator"):
        make_trainer(processing_class=None)


def test_model_init_makes_a_new_model_for_each_training(make_trainer: MakeTrainer, checkpoint: Path) -> None:
    models: list[BDAMModel] = []

    def model_init() -> BDAMModel:
        models.append(BDAMModel.from_pretrained(checkpoint))
        return models[-1]

    trainer = make_trainer(model_init=model_init)
    losses = [trainer.train().training_loss for _ in range(2)]
    assert losses[0] == pytest.approx(losses[1])
    assert trainer.model is models[-1] is not models[-2]


@pytest.mark.parametrize("adam_l2", [False, True])
def test_optimizers_are_used_for_training(adam_l2: bool, make_trainer: MakeTrainer, checkpoint: Path) -> None:
    model = BDAMModel.from_pretrained(checkpoint)
    weight = model.image_clothing_head.weight
    before = weight.detach().clone()
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    arguments = {"max_grad_norm": 0.0, "max_steps": 1, "adam_l2": adam_l2}
    trainer = make_trainer(arguments, model=model, optimizers=(optimizer, scheduler))
    gradients: list[torch.Tensor] = []
    callback = TrainerCallback()
    callback.on_pre_optimizer_step = lambda *args, **kwargs: gradients.append(weight.grad.clone())  # type: ignore
    trainer.add_callback(callback)
    trainer.train()
    torch.testing.assert_close(weight.detach(), before - 0.1 * gradients[0])


def test_compute_metrics_gets_vectors_and_people(make_trainer: MakeTrainer) -> None:
    seen: list[EvalPrediction] = []

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        seen.append(prediction)
        return {"own": 0.25}

    trainer = make_trainer(compute_metrics=compute_metrics)
    assert trainer.evaluate()["eval_own"] == 0.25
    prediction: Any = seen[0]
    (queries, gallery), (query_people, gallery_people) = prediction.predictions, prediction.label_ids
    assert queries.shape == gallery.shape == (8, 32)
    assert query_people.tolist() == gallery_people.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_predict_returns_vectors_people_and_metrics(make_trainer: MakeTrainer, rows: Dataset) -> None:
    trainer = make_trainer()
    output: Any = trainer.predict(rows.select([0, 1, 4]))
    queries, gallery = output.predictions
    scores = queries @ gallery.T
    model, processor = trainer.model, trainer.processing_class
    assert isinstance(model, BDAMModel)
    assert isinstance(processor, BDAMProcessor)
    assert output.label_ids[1].tolist() == [0, 0, 2]
    assert output.metrics["test_mAP"] == trainer.evaluate(rows.select([0, 1, 4]))["eval_mAP"]
    text = processor(text=["a man in red"], return_tensors="pt")
    image = processor(images=[rows[1]["image"]], return_tensors="pt")
    with torch.no_grad():
        query, picture = model.get_text_features(**text), model.get_image_features(**image)
    expected = model.score(query.pooler_output, picture.pooler_output)
    assert scores[0, 1] == pytest.approx(expected.item(), rel=1e-4)


def test_early_stopping_ends_the_training(make_trainer: MakeTrainer, checkpoint: Path) -> None:
    arguments = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 9}
    arguments |= {"load_best_model_at_end": True, "learning_rate": 0.0}
    trainer = make_trainer(arguments, callbacks=[EarlyStoppingCallback(early_stopping_patience=2)])
    trainer.train()
    assert trainer.state.global_step == 3  # the metric of the first step is never exceeded
    assert trainer.state.best_model_checkpoint is not None
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-1")


@pytest.mark.parametrize("half_with_information", ["identity", "clothing"])
def test_choose_clothing_weight_stores_the_best(
    make_trainer: MakeTrainer, half_with_information: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer()
    split = trainer.encode(trainer.eval_dataset)
    split.gallery_ids = torch.arange(len(split.gallery))
    known, *noise = (F.normalize(torch.randn(len(split.gallery), 6), dim=1) for _ in range(3))
    order = slice(None, None, 1 if half_with_information == "identity" else -1)
    split.gallery = torch.cat([known, noise[0]][order], dim=1)
    split.queries = torch.cat([known, noise[1]][order], dim=1)[split.query_rows]
    monkeypatch.setattr(trainer, "encode", lambda rows, candidates: split)
    beta = trainer.choose_clothing_weight()
    assert isinstance(trainer.model, BDAMModel)
    assert beta == trainer.model.config.clothing_weight
    assert beta < 1 if half_with_information == "identity" else beta > 1


def test_left_out_tasks_that_leave_no_loss_on_captions(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer({"left_out_tasks": ["info", "triplet"]})
    with pytest.raises(TrainingStoppedError, match="no loss is left for rows without descriptions"):
        trainer.train()


def test_seconds_per_step_leave_out_evaluation(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, late = time.perf_counter, [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + late[0])

    class Slow(TrainerCallback):
        def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
            late[0] += 1000

    trainer = make_trainer({"eval_strategy": "steps", "eval_steps": 1, "max_steps": 3, "logging_steps": 1})
    with pytest.raises(TrainingStoppedError, match="no entry with the time of a step"):
        trainer.seconds_per_step()
    trainer.callback_handler.callbacks.insert(0, Slow())
    trainer.train()
    assert sum("seconds_per_step" in entry for entry in trainer.state.log_history) == 3
    assert 0 < trainer.seconds_per_step() < 1000


@pytest.mark.parametrize("settings", [{"matching_steps": 2}, {"train_only": "matching"}])
def test_matching_stage_without_a_head_is_refused(make_trainer: MakeTrainer, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="need a model with --config_overrides use_matching=true"):
        make_trainer(settings)


def test_evaluate_of_several_sets_prefixes_their_names(make_trainer: MakeTrainer, rows: Dataset) -> None:
    trainer = make_trainer()
    trainer.eval_dataset = {"one": rows.select(range(4)), "two": rows}
    metrics = trainer.evaluate()
    assert {"eval_one_mAP", "eval_two_mAP"} <= metrics.keys()
    assert trainer.evaluate("two")["eval_mAP"] == metrics["eval_two_mAP"]


@pytest.mark.parametrize("data", ["list", "column"])
def test_train_dataset_without_person_ids_is_refused(data: str, make_trainer: MakeTrainer, rows: Dataset) -> None:
    train_dataset = [rows[0]] if data == "list" else rows.remove_columns("person_id")
    with pytest.raises(TypeError, match="train_dataset has no column person_id: pass a Dataset"):
        make_trainer(train_dataset=train_dataset)
