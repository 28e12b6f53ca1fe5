"""The command as a user runs it, on very few people and with a very small model."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

import modeling_bdam.training.trainer
import run_t2i_reid
from data_pipeline import training
from modeling_bdam import BDAMModel
from modeling_bdam.training.build import build_model
from modeling_bdam.training.run_arguments import parse_arguments

ROOT = Path(run_t2i_reid.__file__).parent
WIDTH = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
SETTINGS: dict[str, dict[str, Any]] = {
    "model": {
        "vision_config": {"model_type": "vit", "image_size": 32, "patch_size": 16, "initializer_range": 0.2, **WIDTH},
        "text_config": {"model_type": "clip_text_model", "max_position_embeddings": 64, **WIDTH},
        "hidden_size": 32,
        "projection_dim": 16,
        "num_bdam_layers": 1,
        "num_bdam_heads": 2,
        "fusion_hidden_size": 16,
        "num_fusion_layers": 1,
        "mamba_state_size": 4,
        "initializer_range": 0.2,
        "dropout": 0.1,
    },
    "data": {
        "image_height": 32,
        "image_width": 32,
        "max_text_length": 64,
        "vocab_size": 300,
        "synthetic_people": 12,
        "synthetic_val_people": 3,
        "synthetic_test_people": 5,
        "crop_probability": 0.5,
        "erase_probability": 0.5,
        "word_mask_probability": 0.2,
    },
    "training": {
        "max_steps": 4,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        # Key biases have no gradient but rounding errors, which a smaller epsilon would let Adam blow up to full steps.
        "adam_epsilon": 1e-4,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 2,
        "disable_tqdm": True,
        "report_to": "none",
        "use_cpu": True,
    },
}
DETERMINISTIC = {
    "config_overrides": "dropout=0,vision_config.hidden_dropout_prob=0,vision_config.attention_probs_dropout_prob=0",
    **{f"{name}_probability": 0 for name in ("flip", "crop", "erase", "word_mask")},
}


class Command:
    """Runs the command on the very small settings, as a process or in this one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = self.write_settings("settings.json", {})
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def write_settings(self, name: str, changes: dict[str, dict[str, Any]]) -> Path:
        path = self.folder / name
        path.write_text(
            json.dumps({section: {**SETTINGS[section], **changes.get(section, {})} for section in SETTINGS})
        )
        return path

    def arguments(self, output: Path, *switches: str, config: Path | str | None = None, **flags: Any) -> list[str]:
        values = {"config": config or self.settings, "cache_dir": self.folder / "data", "output_dir": output, **flags}
        several = {name: value for name, value in values.items() if isinstance(value, list)}
        single = [f"--{name}={value}" for name, value in values.items() if name not in several]
        return [
            *switches,
            *single,
            *(part for name, value in several.items() for part in (f"--{name}", *map(str, value))),
        ]

    def start(self, arguments: list[str], processes: int = 1) -> subprocess.Popen[str]:
        launcher = [sys.executable]
        if processes > 1:
            launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        return subprocess.Popen(
            [*launcher, str(ROOT / "run_t2i_reid.py"), *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, arguments: list[str], processes: int = 1) -> str:
        process = self.start(arguments, processes)
        printed, _ = process.communicate(timeout=300)
        assert process.returncode == 0, printed
        return printed

    def fails(self, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
        """The one line that a run in this process ends with; `sys.exit` prints it and exits with 1."""
        with pytest.raises(SystemExit) as stopped:
            run_t2i_reid.main(arguments)
        line = stopped.value.code
        assert isinstance(line, str)
        assert line.startswith("run_t2i_reid.py: ")
        assert "\n" not in line
        assert "Traceback" not in capsys.readouterr().err
        return line


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    return Command(tmp_path_factory.mktemp("command"))


@pytest.fixture(scope="module")
def finished(command: Command) -> tuple[Path, str]:
    """The folder of the main command, with its baseline, and what it printed."""
    folder = command.folder / "finished"
    return folder, command.run(command.arguments(folder, "--compare_plain"))


def history(folder: Path) -> list[dict[str, float]]:
    """The log entries of the training steps."""
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in log if "loss_info" in entry]


def assert_same_weights(one: Path, other: Path, tolerance: float) -> None:
    first, second = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert float((value - second[name]).abs().max()) <= tolerance, name


# Rows that training and evaluation can use


# The main command


def test_command_leaves_model_processor_code_figures_and_picture(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "processor_config.json", "tokenizer.json", "retrieval.png"} <= names
    assert {"modeling_bdam.py", "configuration_bdam.py", "processing_bdam.py", "mamba_bdam.py"} <= names
    figures = json.loads((folder / "eval_results.json").read_text())
    everything = json.loads((folder / "all_results.json").read_text())
    for name in ("eval_rank1", "eval_mAP", "eval_described_rank1", "eval_clothes_changing_rank1"):
        assert 0 <= figures[name] <= 1
        assert everything[name] == figures[name]
    assert everything["plain_eval_rank1"] >= 0
    assert everything["train_loss"] > 0


def test_command_prints_a_row_for_each_model_and_protocol(finished: tuple[Path, str]) -> None:
    printed = finished[1]
    table = printed[printed.index("test split: 60 captions, 30 images of 5 people") :].splitlines()
    rows = {(line[:20].strip(), line[21:39].strip()) for line in table}
    models = ("BDAM", "plain dual encoder", "chance")
    assert {(model, protocol) for model in models for protocol in ("standard", "clothes-changing")} <= rows


def test_saved_model_loads_with_the_auto_classes(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    query = model.get_text_features(**processor(text="a man in a red coat", return_tensors="pt"))
    assert query.pooler_output.shape == (1, 2 * model.config.projection_dim)


def test_evaluation_of_the_saved_model_gives_the_same_figures(
    command: Command, finished: tuple[Path, str], tmp_path: Path
) -> None:
    folder, _ = finished
    run_t2i_reid.main(command.arguments(tmp_path, "--do_eval", model_name_or_path=folder))
    again = json.loads((tmp_path / "eval_results.json").read_text())
    before = json.loads((folder / "eval_results.json").read_text())
    for name in ("eval_rank1", "eval_mAP", "eval_described_mAP", "eval_clothes_changing_mINP"):
        assert again[name] == pytest.approx(before[name], abs=1e-6)
    assert not (tmp_path / "model.safetensors").exists()


# Several processes


def test_two_processes_train_step_for_step_like_one(command: Command, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    settings: dict[str, Any] = {**DETERMINISTIC, "save_strategy": "no", "max_steps": 5}
    command.run(command.arguments(one, "--do_train", per_device_train_batch_size=8, **settings))
    command.run(command.arguments(two, "--do_train", per_device_train_batch_size=4, **settings), processes=2)
    assert torch.load(two / "training_args.bin", weights_only=False).world_size == 2
    alone, shared = history(one), history(two)
    assert len(alone) == len(shared) == 5
    for step, (first, second) in enumerate(zip(alone, shared, strict=True), start=1):
        assert first.keys() == second.keys()
        for name, value in first.items():
            assert second[name] == pytest.approx(value, rel=1e-5, abs=1e-5), f"{name} at step {step}"
    assert alone[-1]["weight_info"] != 1  # GradNorm did move
    assert_same_weights(one, two, 1e-5)


# Killed and resumed


@pytest.fixture(scope="module")
def uninterrupted(command: Command) -> Path:
    """Eight steps of two epochs; dropout and augmentation are on."""
    folder = command.folder / "uninterrupted"
    command.run(command.arguments(folder, "--do_train", max_steps=8, save_steps=3, per_device_train_batch_size=18))
    return folder


def kill_in_training(command: Command, arguments: list[str], folder: Path, after: int) -> None:
    """SIGKILL once a step later than checkpoint `after` is done."""
    process = command.start(arguments)
    assert process.stdout is not None
    steps = 0
    for line in process.stdout:
        steps += "'loss_info'" in line
        if steps > after:
            break
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL
    assert (folder / f"checkpoint-{after}" / "trainer_state.json").exists()
    assert not (folder / "model.safetensors").exists()


# The one in the middle of the first epoch, the other in the middle of the second.
@pytest.mark.parametrize("after", [3, pytest.param(6, marks=pytest.mark.slow)], ids="after_{}".format)
def test_killed_run_ends_with_the_weights_of_an_uninterrupted_one(
    after: int, command: Command, uninterrupted: Path, tmp_path: Path
) -> None:
    arguments = command.arguments(tmp_path, "--do_train", max_steps=8, save_steps=3, per_device_train_batch_size=18)
    kill_in_training(command, arguments, tmp_path, after)
    printed = command.run(arguments)
    assert f"going on from checkpoint-{after}" in printed
    assert_same_weights(uninterrupted, tmp_path, 1e-6)
    for expected, entry in zip(history(uninterrupted), history(tmp_path), strict=True):
        assert entry == pytest.approx(expected, rel=1e-5, abs=1e-5)


# Bad input


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"config_overrides": "num_bdam_layer=2"}, "unknown field `num_bdam_layer`; did you mean `num_bdam_layers`"),
        ({"config_overrides": "vision_config.hiden_size=8"}, "unknown field `hiden_size`; did you mean `hidden_size`"),
        ({"config_overrides": "num_bdam_heads=5"}, "hidden_size (32) must be a multiple of num_bdam_heads (5)"),
        ({"config_overrides": "num_bdam_layers=two"}, "'num_bdam_layers' expected int, got str"),
        ({"config_overrides": "dropout"}, "'dropout' is not key=value"),
        ({"config": "tinny"}, "no preset of that name (clip, paper, tiny)"),
        ({"image_height": 48}, "images are 48x32, but the vision tower takes 32x32"),
        ({"lerning_rate": 1}, "unknown argument `--lerning_rate`; did you mean `--learning_rate`"),
        ({"max_steps": "many"}, "invalid int value: 'many'"),
        ({"per_device_train_batch_size": 7}, "(7) must be a multiple of images_per_person (2)"),
        ({"per_device_train_batch_size": 700}, "lower the batch size"),
        ({"dataset_name": "nowhere"}, "nowhere"),
        ({"data_dir": ["a", "b"]}, "--data_dir has 2 values for the 1 data sets of --dataset_name"),
        ({"model_name_or_path": "no/such/model"}, "--model_name_or_path no/such/model: no such folder"),
        ({"vision_model_name_or_path": "tower"}, "give both or neither"),
        ({"resume_from_checkpoint": "checkpoint-9"}, "checkpoint-9: no checkpoint is there"),
    ],
)
def test_bad_flag_ends_with_one_line_and_writes_nothing(
    flags: dict[str, Any], message: str, command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    output = tmp_path / "output"
    assert message in command.fails(capsys, command.arguments(output, "--do_train", **flags))
    assert not output.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": {"projektion_dim": 8}},
            "section model: unknown field `projektion_dim`; did you mean `projection_dim`",
        ),
        ({"model": {"vision_config": {"pach_size": 8}}}, "vision_config: unknown field `pach_size`; did you mean"),
        ({"model": {"vision_config": {"model_type": "vitt"}}}, "unknown model_type `vitt`; did you mean `vit`"),
        ({"data": {"image_hight": 8}}, "section data: unknown field `image_hight`; did you mean `image_height`"),
        ({"training": {"max_step": 8}}, "section training: unknown field `max_step`; did you mean `max_steps`"),
    ],
)
def test_bad_field_of_a_config_file_is_named_with_the_nearest_one(
    changes: dict[str, Any], message: str, command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    output = tmp_path / "output"
    file = command.write_settings("bad.json", changes)
    assert message in command.fails(capsys, command.arguments(output, "--do_train", config=file))
    assert not output.exists()


def test_bad_input_ends_the_process_with_that_line_on_stderr(command: Command, tmp_path: Path) -> None:
    arguments = command.arguments(tmp_path / "output", config_overrides="num_bdam_layer=2")
    ended = subprocess.run(
        [sys.executable, str(ROOT / "run_t2i_reid.py"), *arguments],
        cwd=tmp_path,
        env=command.environment,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    line = "run_t2i_reid.py: --config_overrides: unknown field `num_bdam_layer`; did you mean `num_bdam_layers`?\n"
    assert ended.stderr == line


def test_help_lists_the_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_t2i_reid.main(["--help"])
    assert stopped.value.code == 0
    assert "--config_overrides" in capsys.readouterr().out


def test_finished_run_is_not_trained_over(
    command: Command, finished: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert "already holds a finished run" in command.fails(capsys, command.arguments(folder))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_loss_that_turns_nan_stops_with_its_task_and_step_and_keeps_the_checkpoints(
    command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    good_losses = modeling_bdam.training.trainer.task_losses

    def losses(*arguments: Any) -> dict[str, torch.Tensor]:
        nonlocal calls
        calls += 1
        values = good_losses(*arguments)
        return values | {"match": values["match"] * float("nan")} if calls == 4 else values

    monkeypatch.setattr(modeling_bdam.training.trainer, "task_losses", losses)
    line = command.fails(capsys, command.arguments(tmp_path, max_steps=6))
    assert "the loss of task 'match' is nan at step 4" in line
    assert not (tmp_path / "model.safetensors").exists()
    kept = AutoModel.from_pretrained(tmp_path / "checkpoint-2")
    assert all(bool(value.isfinite().all()) for value in kept.state_dict().values())
    monkeypatch.undo()
    run_t2i_reid.main(command.arguments(tmp_path, "--do_train", max_steps=6))  # the run goes on from there
    assert len(history(tmp_path)) == 6


def test_learning_rate_that_blows_up_stops_the_training(
    command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = command.fails(capsys, command.arguments(tmp_path, learning_rate=1e30))
    assert "at step 2; training stops" in line
    assert not (tmp_path / "model.safetensors").exists()


def test_batches_without_positive_pairs_train(command: Command, tmp_path: Path) -> None:
    run_t2i_reid.main(command.arguments(tmp_path, "--do_train", images_per_person=1, per_device_train_batch_size=2))
    steps = history(tmp_path)
    assert 0.0 in [entry["loss_triplet"] for entry in steps]
    assert all(value == value and abs(value) != float("inf") for entry in steps for value in entry.values())


def test_captions_longer_than_the_text_tower_are_cut(command: Command, tmp_path: Path) -> None:
    run_t2i_reid.main(command.arguments(tmp_path, "--do_train", max_text_length=500, max_steps=1))
    assert AutoProcessor.from_pretrained(tmp_path).tokenizer.model_max_length == 64


def test_plain_model_starts_from_the_same_pretrained_towers(
    tmp_path: Path, finished: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = BDAMModel.from_pretrained(finished[0])
    source.vision_model.save_pretrained(tmp_path / "vision")
    source.text_model.save_pretrained(tmp_path / "text")
    AutoProcessor.from_pretrained(finished[0]).tokenizer.save_pretrained(tmp_path / "text")
    settings = Command(tmp_path).write_settings(
        "towers.json",
        {"model": {f"{name}_model_name_or_path": str(tmp_path / name) for name in ("vision", "text")}},
    )
    parsed = json.loads(settings.read_text())
    del parsed["model"]["vision_config"], parsed["model"]["text_config"]
    settings.write_text(json.dumps(parsed))
    model_args, data_args, args, fields = parse_arguments(
        [
            f"--config={settings}",
            f"--output_dir={tmp_path / 'out'}",
            "--do_train",
            "--config_overrides=fusion_sequence=token",
        ]
    )
    splits = training.load_splits(data_args, args)
    model, processor = build_model(model_args, data_args, fields, training.tokenizer_of(splits))
    monkeypatch.setattr(training, "train_and_save", lambda trainer, checkpoint: {})
    trainer = training.new_trainer(model, args, processor, data_args, splits)
    plain = training.train_plain(trainer, model_args, data_args, splits).model
    assert isinstance(plain, BDAMModel) and not plain.config.use_bdam
    for tower in ("vision_model", "text_model"):
        weights = getattr(source, tower).state_dict()
        assert all(value.equal(weights[name]) for name, value in getattr(plain, tower).state_dict().items())
