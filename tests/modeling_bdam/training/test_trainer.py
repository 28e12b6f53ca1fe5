"""The trainer on random tensors; several processes and resuming are also tested through the command."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TrainerCallback, TrainingArguments, set_seed

from modeling_bdam import BDAMConfig, BDAMModel
from modeling_bdam.losses_bdam import gate_regularization
from modeling_bdam.objective_bdam import TASKS, PairLabels, task_losses
from modeling_bdam.training.sampler import KeyedDataset
from modeling_bdam.training.task_weighting import GradNorm, UncertaintyWeighting
from modeling_bdam.training.trainer import BDAMTrainer, NonFiniteLossError, TrainingStoppedError
from modeling_bdam.training.training_args import BDAMTrainingArguments

from ..tensor_rows import TensorRows, collate
from . import three_steps


class Recorder(TrainerCallback):
    """Keeps the gradients of each optimizer step."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model = kwargs["model"]
        self.gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})


def model_of(trainer: BDAMTrainer) -> BDAMModel:
    assert isinstance(trainer.model, BDAMModel)
    return trainer.model


MakeTrainer = Callable[..., tuple[BDAMTrainer, Recorder]]


@pytest.fixture
def make_trainer(
    tiny_config: Callable[..., BDAMConfig], make_batch: Callable[..., dict[str, Tensor]], tmp_path: Path
) -> MakeTrainer:
    """`make_trainer(towers, **training_arguments)`: over 16 rows of 8 people, no clipping; CLIP's have no dropout."""

    def make(towers: str = "clip", **arguments: Any) -> tuple[BDAMTrainer, Recorder]:
        settings: dict[str, Any] = {
            "output_dir": str(tmp_path),
            "per_device_train_batch_size": 4,
            "max_steps": 1,
            "max_grad_norm": 0.0,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
        }
        set_seed(0)
        recorder = Recorder()
        trainer = BDAMTrainer(
            model=BDAMModel(tiny_config(towers, dropout=0.0, initializer_range=0.2)),
            args=BDAMTrainingArguments(**{**settings, **arguments}),
            data_collator=collate,
            retrieval_collator=collate,
            train_dataset=TensorRows(make_batch(16)),
            callbacks=[recorder],
        )
        return trainer, recorder

    return make


def test_accumulated_gradient_is_mean_of_micro_batches(make_trainer: MakeTrainer) -> None:
    trainer, recorder = make_trainer(gradient_accumulation_steps=3)
    model, rows = model_of(trainer), trainer.train_dataset
    assert isinstance(rows, KeyedDataset)
    expected = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    sampler = trainer._get_train_sampler()
    keys = list(sampler)[:12]
    model.train()
    for start in (0, 4, 8):
        batch = collate([rows[key] for key in keys[start : start + 4]])
        people = batch.pop("person_ids")
        output = model(**batch)
        texts = [(batch[f"{kind}_input_ids"], batch[f"{kind}_attention_mask"]) for kind in ("identity", "clothing")]
        labels = PairLabels.of_rows(people, people, 0, (texts[0], texts[0]), (texts[1], texts[1]))
        loss = torch.stack(list(task_losses(output, output, labels, model.config).values())).sum()
        loss = loss + 0.1 * gate_regularization(output.gate, output.fusion_gate)
        model.zero_grad()
        loss.backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                expected[name] += parameter.grad / 3
    model.zero_grad()

    trainer.train()
    (gradients,) = recorder.gradients
    assert gradients
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-4)  # their norm is above 1000


def test_gradnorm_updates_once_per_step_with_means(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    update = GradNorm.update

    def record(self: GradNorm, losses: Tensor, norms: Tensor) -> Any:
        seen.append((losses.clone(), norms.clone()))
        return update(self, losses, norms)

    monkeypatch.setattr(GradNorm, "update", record)
    trainer, _ = make_trainer(gradient_accumulation_steps=2, max_steps=3)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "weight_info" in entry]
    assert len(seen) == len(logs) == 3
    for (losses, norms), entry in zip(seen, logs, strict=True):  # the log has means over micro-batches
        assert [entry[f"loss_{task}"] for task in TASKS] == pytest.approx(losses.tolist(), rel=1e-5)
        assert [entry[f"gradient_norm_{task}"] for task in TASKS] == pytest.approx(norms.tolist(), rel=1e-5)
    assert [logs[0][f"weight_{task}"] for task in TASKS] == [1.0] * len(TASKS)  # constant within the first step
    assert logs[1]["weight_info"] != 1.0


@pytest.mark.parametrize("objective", ["decoupled", "plain", "sdm"])
def test_training_decreases_loss_on_repeated_batch(make_trainer: MakeTrainer, objective: str) -> None:
    rate = {"learning_rate": 3e-3, "lr_scheduler_type": "constant"}
    trainer, _ = make_trainer(objective=objective, max_steps=12, per_device_train_batch_size=16, **rate)
    trainer.train()
    losses = [entry["loss_info"] for entry in trainer.state.log_history if "loss_info" in entry]
    assert losses[-1] < 0.8 * losses[0]


def test_left_out_tasks_are_not_logged(make_trainer: MakeTrainer) -> None:
    trainer, _ = make_trainer(left_out_tasks=["triplet", "decouple"])
    trainer.train()
    logged = {name.removeprefix("loss_") for name in trainer.state.log_history[0] if name.startswith("loss_")}
    assert logged == {"info", "adversarial", "match"}


def test_non_finite_gradient_stops_before_the_step(make_trainer: MakeTrainer) -> None:
    trainer, _ = make_trainer(max_steps=3)
    parameter = model_of(trainer).image_clothing_head.weight
    parameter.register_hook(lambda gradient: gradient * float("nan") if trainer.state.global_step == 1 else gradient)
    with pytest.raises(NonFiniteLossError, match="norm of their gradient is nan at step 2"):
        trainer.train()
    assert all(bool(value.isfinite().all()) for value in model_of(trainer).parameters())


def test_adam_l2_adds_weight_decay_to_gradient(make_trainer: MakeTrainer) -> None:
    adam = {"learning_rate": 1e-3, "weight_decay": 0.5, "adam_beta1": 0.8, "adam_epsilon": 1e-4}
    trainer, recorder = make_trainer(adam_l2=True, lr_scheduler_type="constant", **adam)
    before = {name: value.detach().clone() for name, value in model_of(trainer).named_parameters()}
    trainer.train()
    name = "vision_model.encoder.layers.0.mlp.fc1.weight"
    gradient = recorder.gradients[0][name] + 0.5 * before[name]
    # In the first step the moments of Adam are the gradient and its square
    expected = before[name] - 1e-3 * gradient / (gradient.abs() + 1e-4)
    torch.testing.assert_close(dict(model_of(trainer).named_parameters())[name].detach(), expected)


def test_load_best_model_restores_every_weight(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    """`save_pretrained` writes older weight names for a ViT than those in memory."""
    trainer, _ = make_trainer("vit", save_strategy="steps", save_steps=1)
    trainer.train()
    saved = {name: value.clone() for name, value in model_of(trainer).state_dict().items()}
    with torch.no_grad():
        for parameter in model_of(trainer).parameters():
            parameter.add_(1.0)
    trainer.state.best_model_checkpoint = str(tmp_path / "checkpoint-1")
    trainer._load_best_model()
    for name, value in model_of(trainer).state_dict().items():
        assert torch.equal(value, saved[name]), name


def test_init_refuses_unsuitable_batch_size(make_trainer: MakeTrainer) -> None:
    with pytest.raises(ValueError, match="must be a multiple of images_per_person"):
        make_trainer(per_device_train_batch_size=5)


def test_uncertainty_weighting_updates_once_per_step(make_trainer: MakeTrainer) -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        make_trainer(uncertainty_weighting=True)
    arguments = {"gradnorm": False, "uncertainty_weighting": True, "gradient_accumulation_steps": 2, "max_steps": 3}
    trainer, _ = make_trainer(**arguments, save_strategy="steps", save_steps=3)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "weight_info" in entry]
    expected = UncertaintyWeighting(TASKS)
    for entry in logs:
        assert [entry[f"weight_{task}"] for task in TASKS] == pytest.approx(expected.weights.tolist())
        expected.update(torch.tensor([entry[f"loss_{task}"] for task in TASKS]))
    assert trainer.balance.weighting is not None
    torch.testing.assert_close(trainer.balance.weighting.weights, expected.weights)

    resumed, _ = make_trainer(**{**arguments, "max_steps": 4})
    resumed.train(resume_from_checkpoint=str(Path(trainer.args.output_dir) / "checkpoint-3"))
    weights = [entry["weight_info"] for entry in resumed.state.log_history if "weight_info" in entry]
    assert weights[3] == pytest.approx(expected.weights[0].item())


def test_robust_pairs_refuse_baseline_objective(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not trained by objective=plain"):
        BDAMTrainingArguments(output_dir=str(tmp_path), robust_pairs=True, objective="plain")


def test_robust_pairs_choose_texts_each_epoch_and_resume(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    def without_one(encoder: Any, rows: Any, borrow: bool) -> Tensor:
        calls.append((rows, borrow))
        own = torch.arange(len(rows))
        return own.where(own != len(calls), -1)  # first all but row 1, then all but row 2

    drawn: list[list[int]] = []

    class DrawnRows(TrainerCallback):
        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            drawn.append([row for row, *_ in trainer.train_sampler or ()])

    monkeypatch.setattr("modeling_bdam.training.decoupled.choose_texts", without_one)
    arguments: dict[str, Any] = {"robust_pairs": True, "robust_pairs_warmup": 0.3, "robust_pairs_borrowing": 0.5}
    arguments |= {"save_strategy": "steps", "save_steps": 6}
    trainer, recorder = make_trainer(**arguments, max_steps=12)  # epochs of 4 steps
    trainer.add_callback(DrawnRows())
    trainer.train()
    assert [(len(rows), borrow) for rows, borrow in calls] == [(16, False), (16, True)]  # at steps 4 and 8
    assert [sorted({*range(16)} - {*rows}) for rows in drawn] == [[], [1], [2]]
    assert [len(rows) for rows in drawn] == [16, 16, 16]
    logs = [entry for entry in trainer.state.log_history if "loss_info" in entry]
    assert {step: entry["plausible_rows"] for step, entry in enumerate(logs) if "plausible_rows" in entry} == {
        4: 15 / 16,
        8: 15 / 16,
    }
    assert [entry["borrowed_rows"] for entry in logs if "borrowed_rows" in entry] == [0, 0]

    whole = recorder.gradients
    calls.clear()
    calls.append(None)  # the resumed run chooses in the third epoch only
    trainer, recorder = make_trainer(**arguments, max_steps=12)
    trainer.train(resume_from_checkpoint=str(Path(trainer.args.output_dir) / "checkpoint-6"))
    assert len(calls) == 2
    for again, first in zip(recorder.gradients, whole[6:], strict=True):
        for name, gradient in first.items():
            torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_weight_decay_leaves_out_vectors_and_decay_rates(make_trainer: MakeTrainer) -> None:
    trainer, _ = make_trainer()
    decayed = set(trainer.get_decay_parameter_names(model_of(trainer)))
    shapes = {name: value.ndim for name, value in model_of(trainer).named_parameters()}
    left_out = shapes.keys() - decayed
    assert {"logit_scale", "fusion.layers.0.A_log", "fusion.layers.0.D", "fusion.norms.0.weight"} <= left_out
    assert {"fusion.layers.0.in_proj.weight", "image_clothing_head.weight"} <= decayed
    assert all(shapes[name] > 1 for name in decayed)
    assert {name for name in left_out if shapes[name] > 1 and not name.endswith("A_log")} == set()


def without_descriptions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in batch.items() if not name.startswith(("identity_", "clothing_"))}


def test_train_freezes_parameters_no_loss_reaches(make_trainer: MakeTrainer) -> None:
    trainer, recorder = make_trainer(weight_decay=0.5, learning_rate=1e-2)
    trainer.data_collator = lambda rows: without_descriptions(collate(rows))
    before = {name: value.detach().clone() for name, value in model_of(trainer).named_parameters()}
    trainer.train()
    unreached = {name for name in before if name.startswith(("adversarial_projection.", "fusion.gate."))}
    assert unreached
    assert unreached == trainer.untrained == before.keys() - recorder.gradients[0].keys()
    assert all(torch.equal(dict(model_of(trainer).named_parameters())[name], before[name]) for name in unreached)
    assert all(parameter.requires_grad for parameter in model_of(trainer).parameters())  # as before the training


@pytest.mark.parametrize("option", ["ddp_find_unused_parameters", "ddp_static_graph", "torch_compile"])
def test_gradnorm_refuses_options_that_hide_norms(make_trainer: MakeTrainer, option: str) -> None:
    with pytest.raises(ValueError, match=f"GradNorm cannot be combined with --{option}"):
        make_trainer(**{option: True})
    make_trainer(**{option: True}, gradnorm=False)


def gradient_norms(trainer: BDAMTrainer) -> list[list[float]]:
    """Trains; returns the gradient norm of each task in each step."""
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss_info" in entry]
    return [[entry[f"gradient_norm_{task}"] for task in TASKS] for entry in logs]


@pytest.mark.parametrize(
    ("arguments", "tolerance"),
    [
        ({"bf16": True}, 0.1),
        ({"gradient_checkpointing": True}, 1e-4),
        ({"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}, 1e-4),
    ],
    ids=["bf16", "checkpointing", "reentrant"],
)
def test_gradient_norms_are_equal_with(
    arguments: dict[str, Any], tolerance: float, make_trainer: MakeTrainer, recwarn: pytest.WarningsRecorder
) -> None:
    expected = gradient_norms(make_trainer(learning_rate=1e-5, max_steps=2)[0])
    norms = gradient_norms(make_trainer(learning_rate=1e-5, max_steps=2, **arguments)[0])
    for step, expected_step in zip(norms, expected, strict=True):
        assert step == pytest.approx(expected_step, rel=tolerance)


def test_gradient_norms_are_equal_with_loss_scaling(make_trainer: MakeTrainer) -> None:
    expected = gradient_norms(make_trainer(max_steps=2)[0])
    trainer, _ = make_trainer(max_steps=2)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step, expected_step in zip(gradient_norms(trainer), expected, strict=True):
        assert step == pytest.approx(expected_step, rel=1e-4)


def test_overflow_of_loss_scaling_skips_gradnorm(make_trainer: MakeTrainer) -> None:
    trainer, _ = make_trainer(max_steps=1)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=3e38)
    before = {name: value.clone() for name, value in model_of(trainer).state_dict().items()}
    trainer.train()
    assert trainer.balance.weighting is not None
    assert trainer.balance.weighting.weights.tolist() == [1.0] * len(TASKS)
    assert all(value.equal(before[name]) for name, value in model_of(trainer).state_dict().items())


@pytest.mark.parametrize(
    ("factor", "message"), [(0.0, "are all 0 at step 1"), (float("inf"), "norms of their gradients")]
)
def test_unusable_gradient_norms_stop_the_training(
    factor: float, message: str, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms = torch.full((len(TASKS),), factor)
    monkeypatch.setattr("modeling_bdam.training.task_balance.shared_gradient_norms", lambda *arguments: norms)
    with pytest.raises(TrainingStoppedError, match=message):
        make_trainer()[0].train()


def test_save_writes_arguments_as_json_without_pickle(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer, _ = make_trainer(hub_token="secret-token")
    trainer.save_model(str(tmp_path / "saved"))
    assert not (tmp_path / "saved" / "training_args.bin").exists()
    text = (tmp_path / "saved" / "training_args.json").read_text()
    assert json.loads(text)["per_device_train_batch_size"] == 4
    assert "secret-token" not in text


def test_auto_find_batch_size_keeps_a_multiple_of_k(make_trainer: MakeTrainer) -> None:
    sizes: list[int] = []
    trainer, _ = make_trainer(auto_find_batch_size=True, per_device_train_batch_size=6)

    def collate_or_fail(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        sizes.append(len(rows))
        if sizes[-1] > 4 and len(sizes) > 1:  # the first batch is the probe of the losses
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return collate(rows)

    trainer.data_collator = collate_or_fail
    trainer.train()
    assert sizes[1] == 6
    assert sizes[-1] == 4
    assert all(size % 2 == 0 for size in sizes)


def test_init_refuses_plain_training_arguments(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="args is a TrainingArguments; BDAMTrainer needs BDAMTrainingArguments"):
        BDAMTrainer(args=TrainingArguments(output_dir=str(tmp_path), use_cpu=True))  # type: ignore[arg-type]


def test_evaluate_without_evaluation_set_is_refused(make_trainer: MakeTrainer) -> None:
    trainer, _ = make_trainer()
    with pytest.raises(ValueError, match="there is nothing to evaluate on: pass eval_dataset"):
        trainer.evaluate()


QUICK = (
    "captions: GradNorm",
    "captions: two left out",
    "mixed: accumulation",
    "descriptions: frozen and LoRA",
    "descriptions: matching",
    "descriptions: batch norm",
    "descriptions: frozen batch norm",
)


@pytest.mark.parametrize("runs", [QUICK, pytest.param(three_steps.RUNS, marks=pytest.mark.slow)], ids=["quick", "all"])
def test_two_processes_have_the_losses_of_one(runs: Sequence[str], tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", three_steps.__file__)
    with subprocess.Popen([sys.executable, *launcher, tmp_path, *runs], stderr=subprocess.PIPE) as process:
        one = {run: three_steps.train(str(tmp_path / "one"), run) for run in runs}
        _, errors = process.communicate()
    assert process.returncode == 0, errors[-4000:]
    two = json.loads((tmp_path / "losses.json").read_text())
    for run in runs:
        assert len(one[run]) == 3
        for expected, step in zip(one[run], two[run], strict=True):
            # Unbiased HSIC is a small difference of large sums with an absolute rounding error
            assert step == pytest.approx(expected, rel=1e-4, abs=1e-5), run
