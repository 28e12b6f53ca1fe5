"""`run_t2i_reid.py` on small benchmarks in their official file layouts."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import run_t2i_reid
from data_pipeline import load_person_dataset

from .command import Command
from .data_pipeline.benchmarks import layouts

TINY = {"max_steps": 2, "per_device_train_batch_size": 2, "save_strategy": "no"}
NO_RANDOMNESS: dict[str, Any] = {
    "config_overrides": "dropout=0,vision_config.hidden_dropout_prob=0,vision_config.attention_probs_dropout_prob=0",
    **{f"{name}_probability": 0 for name in ("flip", "crop", "erase", "word_mask")},
}
WRITERS: dict[str, Callable[[Path], Path]] = {
    "cuhk-pedes": layouts.write_cuhk_pedes,
    "icfg-pedes": layouts.write_icfg_pedes,
    "rstpreid": layouts.write_rstpreid,
    "ufine6926": layouts.write_ufine6926,
}


def run(command: Command, output: Path, *switches: str, **flags: Any) -> dict[str, float]:
    """Runs the command in this process; returns the metrics that it wrote."""
    run_t2i_reid.main(command.arguments(output, *switches, **{**TINY, **flags}))
    return json.loads((output / "eval_results.json").read_text())


def losses(output: Path) -> list[dict[str, float]]:
    """The losses of each step by task."""
    log = json.loads((output / "trainer_state.json").read_text())["log_history"]
    entries = (entry for entry in log if "loss_info" in entry)
    return [{name[5:]: value for name, value in entry.items() if name.startswith("loss_")} for entry in entries]


def describe(folder: Path, images: str = "imgs") -> dict[str, Path]:
    """Writes a descriptions file and an outfits file for every image of a data set; returns the flags for them."""
    paths = sorted(str(path.relative_to(folder / images)) for path in (folder / images).rglob("*.jpg"))
    descriptions = [
        {"file_path": path, "identity_description": f"a tall woman, {path[:3]}", "clothing_description": f"coat {path}"}
        for path in paths
    ]
    outfits = {path: number % 2 for number, path in enumerate(paths)}
    return {
        "descriptions": layouts.write_json_lines(folder / "descriptions.jsonl", descriptions),
        "outfits": layouts.write_json(folder / "outfits.json", outfits),
    }


@pytest.mark.parametrize("name", WRITERS)
def test_captioned_benchmark_trains_and_evaluates(name: str, command: Command, tmp_path: Path) -> None:
    folder = WRITERS[name](tmp_path / name)
    metrics = run(command, tmp_path / "output", dataset_name=name, data_dir=folder)
    assert 0 < metrics["eval_mAP"] <= 1
    assert "eval_described_mAP" not in metrics
    assert (tmp_path / "output" / "model.safetensors").is_file()
    assert (tmp_path / "output" / "retrieval.png").is_file()


def test_descriptions_and_outfits_enable_every_protocol(command: Command, tmp_path: Path) -> None:
    folder = layouts.write_cuhk_pedes(tmp_path / "CUHK-PEDES")
    metrics = run(command, tmp_path / "output", dataset_name="cuhk-pedes", data_dir=folder, **describe(folder))
    assert {"eval_rank1", "eval_described_rank1", "eval_clothes_changing_rank1"} <= metrics.keys()


def test_two_data_sets_are_joined_and_evaluated_separately(command: Command, tmp_path: Path) -> None:
    folders = [WRITERS[name](tmp_path / name) for name in ("cuhk-pedes", "rstpreid")]
    output = tmp_path / "output"
    metrics = run(command, output, dataset_name=["cuhk-pedes", "rstpreid"], data_dir=folders)
    assert {"eval_cuhk_pedes_rank1", "eval_rstpreid_rank1"} <= metrics.keys()
    names = {f"{kind}_{name}.png" for kind in ("retrieval", "calibration") for name in ("cuhk_pedes", "rstpreid")}
    assert {path.name for path in output.glob("*.png")} == names


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_described_and_undescribed_sets_train_together(processes: int, command: Command, tmp_path: Path) -> None:
    folders = [WRITERS[name](tmp_path / name) for name in ("cuhk-pedes", "rstpreid")]
    flags: dict[str, Any] = {"dataset_name": ["cuhk-pedes", "rstpreid"], "data_dir": folders, "max_steps": 4}
    flags |= {"descriptions": [describe(folders[0])["descriptions"], "-"], "save_strategy": "no", **NO_RANDOMNESS}
    run_t2i_reid.main(command.arguments(tmp_path / "one", "--do_train", per_device_train_batch_size=4, **flags))
    one = losses(tmp_path / "one")
    assert {"adversarial" in loss for loss in one} == {True, False}  # batches of both kinds
    if processes > 1:
        arguments = command.arguments(tmp_path / "two", "--do_train", per_device_train_batch_size=2, **flags)
        process = command.start(arguments, ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"))
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-4000:]
        for expected, loss in zip(one, losses(tmp_path / "two"), strict=True):
            assert loss == pytest.approx(expected, rel=1e-4)


def test_eval_dataset_name_evaluates_on_another_data_set(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [WRITERS[name](tmp_path / name) for name in ("cuhk-pedes", "icfg-pedes")]
    transferred = {"eval_dataset_name": "icfg-pedes", "eval_data_dir": folders[1]}
    metrics = run(command, tmp_path / "output", dataset_name="cuhk-pedes", data_dir=folders[0], **transferred)
    entries = json.loads((folders[1] / "ICFG-PEDES.json").read_text())
    queries = sum(entry["split"] == "test" for entry in entries)
    assert f"test split: {queries} captions" in capsys.readouterr().out
    again = {"model_name_or_path": tmp_path / "output", "dataset_name": "icfg-pedes", "data_dir": folders[1]}
    assert run(command, tmp_path / "again", "--do_eval", **again)["eval_mAP"] == pytest.approx(metrics["eval_mAP"])


def test_data_set_without_captions_uses_descriptions_as_queries(command: Command, tmp_path: Path) -> None:
    folder = layouts.write_prcc(tmp_path / "prcc")
    images = next(path for path in (folder, folder / "prcc") if (path / "rgb").is_dir())
    descriptions = describe(folder, str(images.relative_to(folder)))["descriptions"]
    metrics = run(command, tmp_path / "output", dataset_name="prcc", data_dir=folder, descriptions=descriptions)
    assert "eval_clothes_changing_mAP" in metrics


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"dataset_name": "cuhk-pedes"}, "CUHK-PEDES: pass its folder"),
        ({"dataset_name": "cuhk-pedes", "data_dir": "nowhere"}, "nowhere: there is no such folder"),
        ({"dataset_name": "cuhk-pedos"}, "did you mean cuhk-pedes?"),
        ({"dataset_name": "prcc"}, "no training image has a caption or a description"),
    ],
)
def test_unreadable_data_set_is_a_one_line_error(
    flags: dict[str, Any], message: str, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if flags["dataset_name"] == "prcc":
        flags = {**flags, "data_dir": layouts.write_prcc(tmp_path / "prcc")}
    output = tmp_path / "output"
    assert message in command.fails(capsys, command.arguments(output, **flags))
    assert not output.exists()


def test_image_that_breaks_after_loading_is_a_one_line_error(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = layouts.write_cuhk_pedes(tmp_path / "CUHK-PEDES")
    flags: dict[str, Any] = {**TINY, "dataset_name": "cuhk-pedes", "data_dir": folder, "dataloader_num_workers": 1}
    load_person_dataset("cuhk-pedes", folder, cache_dir=command.folder / "data")
    for file in (folder / "imgs").rglob("*.jpg"):
        file.write_bytes(b"")
    message = command.fails(capsys, command.arguments(tmp_path / "output", **flags))
    assert re.fullmatch(rf"run_t2i_reid\.py: {folder}/imgs/\S+\.jpg: zero bytes", message)
    assert not (tmp_path / "output" / "all_results.json").exists()
