"""`run_t2i_reid.py` from its arguments to its output folder, with a tiny model on few people."""

import contextlib
import io
import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor
from transformers.testing_utils import CaptureLogger

import run_t2i_reid
from data_pipeline import training
from modeling_bdam import BDAMModel
from modeling_bdam.training import checkpoints, decoupled, trainer
from modeling_bdam.training.build import build_model
from modeling_bdam.training.run_arguments import parse_arguments

from .command import Command


@pytest.fixture(scope="module")
def finished(command: Command) -> tuple[Path, str]:
    """The output folder of the command with its baseline, and the printed text."""
    folder, printed = command.folder / "finished", io.StringIO()
    with contextlib.redirect_stdout(printed):
        run_t2i_reid.main(command.arguments(folder, "--compare_plain"))
    return folder, printed.getvalue()


def history(folder: Path) -> list[dict[str, float]]:
    """The log entries of the training steps, without times."""
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    entries = [entry for entry in log if "loss_info" in entry]
    return [{name: value for name, value in entry.items() if name != "seconds_per_step"} for entry in entries]


def assert_same_weights(one: Path, other: Path, tolerance: float) -> None:
    first, second = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert float((value - second[name]).abs().max()) <= tolerance, name


# The main command


def test_command_writes_model_code_metrics_and_picture(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "processor_config.json", "tokenizer.json"} <= names
    assert {"retrieval.png", "calibration.png"} <= names
    assert {"modeling_bdam.py", "configuration_bdam.py", "processing_bdam.py", "mamba_bdam.py"} <= names
    metrics = json.loads((folder / "eval_results.json").read_text())
    everything = json.loads((folder / "all_results.json").read_text())
    own = ("eval_rank1", "eval_mAP", "eval_described_rank1", "eval_clothes_changing_rank1", "eval_absent_found")
    for name in (*own, "eval_composed_rank1", "eval_composed_picture_rank1", "eval_composed_words_rank1"):
        assert 0 <= metrics[name] <= 1
        assert everything[name] == metrics[name]
    assert everything["plain_eval_rank1"] >= 0
    assert everything["train_loss"] > 0


def test_command_prints_a_row_per_model_and_protocol(finished: tuple[Path, str]) -> None:
    table = finished[1].partition("test split: 60 captions, 30 images of 5 people")[2]
    rows = {(line[:20].strip(), line[21:39].strip()) for line in table.splitlines()}
    models = ("BDAM", "plain dual encoder", "chance")
    assert {(model, protocol) for model in models for protocol in ("standard", "clothes-changing")} <= rows


def test_saved_model_loads_with_the_auto_classes(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    query = model.get_text_features(**processor(text="a man in a red coat", return_tensors="pt"))
    assert query.pooler_output.shape == (1, 2 * model.config.projection_dim)


def test_do_eval_of_the_saved_model_gives_equal_metrics(
    command: Command, finished: tuple[Path, str], tmp_path: Path
) -> None:
    folder, _ = finished
    run_t2i_reid.main(command.arguments(tmp_path, "--do_eval", model_name_or_path=folder))
    again = json.loads((tmp_path / "eval_results.json").read_text())
    before = json.loads((folder / "eval_results.json").read_text())
    for name in ("eval_rank1", "eval_mAP", "eval_described_mAP", "eval_clothes_changing_mINP"):
        assert again[name] == pytest.approx(before[name], abs=1e-6)
    assert not (tmp_path / "model.safetensors").exists()


# Killed and resumed

# Two epochs, with dropout and augmentation.
EIGHT_STEPS: dict[str, Any] = {"max_steps": 8, "save_steps": 3, "per_device_train_batch_size": 18}


@pytest.fixture(scope="module")
def uninterrupted(command: Command) -> Path:
    folder = command.folder / "uninterrupted"
    run_t2i_reid.main(command.arguments(folder, "--do_train", **EIGHT_STEPS))
    return folder


# Killed in the first epoch and in the second.
@pytest.mark.parametrize("after", [3, pytest.param(6, marks=pytest.mark.slow)], ids="after_{}".format)
def test_killed_run_resumes_to_the_same_weights(
    after: int, command: Command, uninterrupted: Path, tmp_path: Path
) -> None:
    # SIGKILL one step after the checkpoint
    arguments = command.arguments(tmp_path, "--do_train", **EIGHT_STEPS)
    with command.start(arguments) as process:
        assert process.stdout is not None
        any(line.startswith(f"step {after + 1}/8") for line in process.stdout)  # reads up to that line
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / f"checkpoint-{after}" / "trainer_state.json").exists()
    assert not (tmp_path / "model.safetensors").exists()

    with CaptureLogger(checkpoints.logger) as logged:
        run_t2i_reid.main(arguments)
    assert f"resuming from checkpoint-{after}" in logged.out
    assert_same_weights(uninterrupted, tmp_path, 1e-6)
    for expected, entry in zip(history(uninterrupted), history(tmp_path), strict=True):
        assert entry == pytest.approx(expected, rel=1e-5, abs=1e-5)


# Bad input


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"config_overrides": "num_bdam_layer=2"}, "unknown field `num_bdam_layer`; did you mean num_bdam_layers"),
        ({"config_overrides": "vision_config.hiden_size=8"}, "unknown field `hiden_size`; did you mean hidden_size"),
        ({"config_overrides": "num_bdam_heads=5"}, "hidden_size (32) must be a multiple of num_bdam_heads (5)"),
        ({"config_overrides": "num_bdam_layers=two"}, "'num_bdam_layers' expected int, got str"),
        ({"config_overrides": "dropout"}, "'dropout' is not key=value"),
        ({"config": "tinny"}, "presets are clip, paper, tiny"),
        ({"image_height": 48}, "images are 48x32, but the vision tower takes 32x32"),
        ({"lerning_rate": 1}, "unknown argument `--lerning_rate`; did you mean --learning_rate"),
        ({"max_steps": "many"}, "invalid int value: 'many'"),
        ({"per_device_train_batch_size": 7}, "(7) must be a multiple of images_per_person (2)"),
        ({"per_device_train_batch_size": 700}, "lower the batch size"),
        ({"num_train_epochs": 1, "max_steps": 1}, "--num_train_epochs and --max_steps contradict each other"),
        ({"metric_for_best_model": "eval_rank2"}, "unknown metric `rank2`; did you mean rank"),
        ({"max_text_length": 2}, "--max_text_length 2: a word and its two marks need 3 tokens"),
        ({"dataset_name": "nowhere"}, "nowhere"),
        ({"data_dir": ["a", "b"]}, "--data_dir has 2 values for the 1 data sets of --dataset_name"),
        ({"model_name_or_path": "no/such/model"}, "--model_name_or_path no/such/model: no such folder"),
        ({"vision_model_name_or_path": "tower"}, "give both or neither"),
        ({"resume_from_checkpoint": "checkpoint-9"}, "checkpoint-9: no checkpoint"),
        # Fields of the configuration file
        (
            {"config": {"model": {"projektion_dim": 8}}},
            "section model: unknown field `projektion_dim`; did you mean projection_dim",
        ),
        (
            {"config": {"model": {"vision_config": {"pach_size": 8}}}},
            "vision_config: unknown field `pach_size`; did you mean",
        ),
        (
            {"config": {"model": {"vision_config": {"model_type": "vitt"}}}},
            "unknown model_type `vitt`; did you mean vit",
        ),
        (
            {"config": {"data": {"image_hight": 8}}},
            "section data: unknown field `image_hight`; did you mean image_height",
        ),
        (
            {"config": {"training": {"max_step": 8}}},
            "section training: unknown field `max_step`; did you mean max_steps",
        ),
    ],
)
def test_bad_input_is_a_one_line_error_and_writes_nothing(
    flags: dict[str, Any], message: str, command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    output = tmp_path / "output"
    if isinstance(flags.get("config"), dict):
        flags = {"config": command.write_settings("bad.json", flags["config"])}
    assert message in command.fails(capsys, command.arguments(output, "--do_train", **flags))
    assert not output.exists()


def test_bad_flag_exits_with_1_and_only_that_line_on_stderr(command: Command, tmp_path: Path) -> None:
    process = command.start(command.arguments(tmp_path / "output", config_overrides="num_bdam_layer=2"))
    _, errors = process.communicate()
    line = "run_t2i_reid.py: --config_overrides: unknown field `num_bdam_layer`; did you mean num_bdam_layers?\n"
    assert (process.returncode, errors) == (1, line)


def test_help_lists_the_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_t2i_reid.main(["--help"])
    assert stopped.value.code == 0
    assert "--config_overrides" in capsys.readouterr().out


def test_finished_run_is_not_overwritten(
    command: Command, finished: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert "already holds a finished run" in command.fails(capsys, command.arguments(folder))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_nan_loss_names_task_and_step_and_keeps_checkpoints(
    command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_losses = decoupled.task_losses
    calls = iter(range(7))  # call 0 is the probe of the losses before the first step

    def losses(*arguments: Any) -> dict[str, torch.Tensor]:
        values = task_losses(*arguments)
        return values | {"match": values["match"] * float("nan")} if next(calls) == 4 else values

    with monkeypatch.context() as patched:
        patched.setattr(decoupled, "task_losses", losses)
        line = command.fails(capsys, command.arguments(tmp_path, max_steps=6))
    assert "the loss of task 'match' is nan at step 4" in line
    assert not (tmp_path / "model.safetensors").exists()
    kept = AutoModel.from_pretrained(tmp_path / "checkpoint-2")
    assert all(bool(value.isfinite().all()) for value in kept.state_dict().values())
    run_t2i_reid.main(command.arguments(tmp_path, "--do_train", max_steps=6))  # resumes
    assert len(history(tmp_path)) == 6


def test_batch_size_that_fits_no_memory_is_a_one_line_error(
    command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compute_loss(*arguments: Any, **options: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(trainer.BDAMTrainer, "compute_loss", compute_loss)
    flags: dict[str, Any] = {"auto_find_batch_size": True, "per_device_train_batch_size": 2}
    line = command.fails(capsys, command.arguments(tmp_path, "--do_train", **flags))
    assert "out of memory even with a batch of --images_per_person=2 images" in line


def test_too_large_learning_rate_stops_the_training(
    command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = command.fails(capsys, command.arguments(tmp_path, learning_rate=1e30))
    assert "at step 2; training stops" in line
    assert not (tmp_path / "model.safetensors").exists()


def test_batches_without_positive_pairs_have_finite_losses(command: Command, tmp_path: Path) -> None:
    run_t2i_reid.main(command.arguments(tmp_path, "--do_train", images_per_person=1, per_device_train_batch_size=2))
    steps = history(tmp_path)
    assert 0.0 in [entry["loss_triplet"] for entry in steps]
    assert all(math.isfinite(value) for entry in steps for value in entry.values())


def test_max_text_length_extends_the_new_text_tower(command: Command, tmp_path: Path) -> None:
    run_t2i_reid.main(command.arguments(tmp_path, "--do_train", max_text_length=500, max_steps=1))
    assert AutoProcessor.from_pretrained(tmp_path).tokenizer.model_max_length == 500


def test_plain_model_starts_from_the_same_pretrained_towers(
    tmp_path: Path, finished: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Save the towers of a trained model as pretrained towers
    source = BDAMModel.from_pretrained(finished[0])
    source.vision_model.save_pretrained(tmp_path / "vision")
    source.text_model.save_pretrained(tmp_path / "text")
    AutoProcessor.from_pretrained(finished[0]).tokenizer.save_pretrained(tmp_path / "text")
    command = Command(tmp_path)
    settings = json.loads(command.settings.read_text())
    for name in ("vision", "text"):
        del settings["model"][f"{name}_config"]
        settings["model"][f"{name}_model_name_or_path"] = str(tmp_path / name)
    command.settings.write_text(json.dumps(settings))

    # Build the model and its baseline, without training them
    flags = ("--do_train", "--compare_by", "steps")
    arguments = command.arguments(tmp_path / "out", *flags, config_overrides="fusion_sequence=token")
    model_args, data_args, args, fields = parse_arguments(arguments)
    splits = training.load_splits(data_args, args)
    model, processor = build_model(model_args, data_args, fields, training.tokenizer_of(splits))
    monkeypatch.setattr(training, "train_and_save", lambda trainer, checkpoint: {})
    bdam_trainer = training.new_trainer(model, args, processor, data_args, splits)
    plain = training.train_plain(bdam_trainer, model_args, data_args, splits).model
    assert isinstance(plain, BDAMModel) and not plain.config.use_bdam
    for tower in ("vision_model", "text_model"):
        weights = getattr(source, tower).state_dict()
        assert all(value.equal(weights[name]) for name, value in getattr(plain, tower).state_dict().items())
