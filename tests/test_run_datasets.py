"""The command on benchmarks as they lie on a disk, in small."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import run_t2i_reid
from data_pipeline import load_person_dataset

from .data_pipeline.benchmarks import layouts
from .test_run_t2i_reid import Command

TINY = {"max_steps": 2, "per_device_train_batch_size": 2, "save_strategy": "no"}
WRITERS: dict[str, Callable[[Path], Path]] = {
    "cuhk-pedes": layouts.write_cuhk_pedes,
    "icfg-pedes": layouts.write_icfg_pedes,
    "rstpreid": layouts.write_rstpreid,
    "ufine6926": layouts.write_ufine6926,
}


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    return Command(tmp_path_factory.mktemp("command"))


def run(command: Command, output: Path, *switches: str, **flags: Any) -> dict[str, float]:
    """The figures that a run in this process leaves."""
    run_t2i_reid.main(command.arguments(output, *switches, **{**TINY, **flags}))
    return json.loads((output / "eval_results.json").read_text())


def describe(folder: Path, images: str = "imgs") -> tuple[Path, Path]:
    """A descriptions file and an outfits file for every image of a set."""
    paths = sorted(str(path.relative_to(folder / images)) for path in (folder / images).rglob("*.jpg"))
    lines = [
        {
            "file_path": path,
            "identity_description": f"a tall woman, {path[:3]}",
            "clothing_description": f"a coat {path}",
        }
        for path in paths
    ]
    outfits = {path: number % 2 for number, path in enumerate(paths)}
    return (
        layouts.write_json_lines(folder / "descriptions.jsonl", lines),
        layouts.write_json(folder / "outfits.json", outfits),
    )


@pytest.mark.parametrize("name", WRITERS)
def test_captioned_benchmarks_train_and_evaluate(name: str, command: Command, tmp_path: Path) -> None:
    folder = WRITERS[name](tmp_path / name)
    figures = run(command, tmp_path / "output", dataset_name=name, data_dir=folder)
    assert 0 < figures["eval_mAP"] <= 1
    assert "eval_described_mAP" not in figures
    assert (tmp_path / "output" / "model.safetensors").is_file()
    assert (tmp_path / "output" / "retrieval.png").is_file()


def test_descriptions_and_outfits_allow_every_protocol(command: Command, tmp_path: Path) -> None:
    folder = layouts.write_cuhk_pedes(tmp_path / "CUHK-PEDES")
    descriptions, outfits = describe(folder)
    figures = run(
        command,
        tmp_path / "output",
        dataset_name="cuhk-pedes",
        data_dir=folder,
        descriptions=descriptions,
        outfits=outfits,
    )
    assert {"eval_rank1", "eval_described_rank1", "eval_clothes_changing_rank1"} <= figures.keys()


def test_two_sets_are_trained_on_together_and_evaluated_one_by_one(command: Command, tmp_path: Path) -> None:
    folders = [WRITERS[name](tmp_path / name) for name in ("cuhk-pedes", "rstpreid")]
    output = tmp_path / "output"
    figures = run(command, output, dataset_name=["cuhk-pedes", "rstpreid"], data_dir=folders)
    assert {"eval_cuhk_pedes_rank1", "eval_rstpreid_rank1"} <= figures.keys()
    assert {path.name for path in output.glob("*.png")} == {"retrieval_cuhk_pedes.png", "retrieval_rstpreid.png"}


def test_a_set_is_evaluated_on_that_was_not_trained_on(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [WRITERS[name](tmp_path / name) for name in ("cuhk-pedes", "icfg-pedes")]
    transferred = {"eval_dataset_name": "icfg-pedes", "eval_data_dir": folders[1]}
    figures = run(command, tmp_path / "output", dataset_name="cuhk-pedes", data_dir=folders[0], **transferred)
    queries = len(
        [entry for entry in json.loads((folders[1] / "ICFG-PEDES.json").read_text()) if entry["split"] == "test"]
    )
    assert f"test split: {queries} captions" in capsys.readouterr().out
    again = {"model_name_or_path": tmp_path / "output", "dataset_name": "icfg-pedes", "data_dir": folders[1]}
    assert run(command, tmp_path / "again", "--do_eval", **again)["eval_mAP"] == pytest.approx(figures["eval_mAP"])


def test_clothes_changing_set_without_captions_is_searched_by_its_descriptions(
    command: Command, tmp_path: Path
) -> None:
    folder = layouts.write_prcc(tmp_path / "prcc")
    images = next(path for path in (folder, folder / "prcc") if (path / "rgb").is_dir())
    descriptions, _ = describe(folder, str(images.relative_to(folder)))
    figures = run(command, tmp_path / "output", dataset_name="prcc", data_dir=folder, descriptions=descriptions)
    assert "eval_clothes_changing_mAP" in figures


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"dataset_name": "cuhk-pedes"}, "CUHK-PEDES: name the folder that it lies in"),
        ({"dataset_name": "cuhk-pedes", "data_dir": "nowhere"}, "nowhere: there is no such folder"),
        ({"dataset_name": "cuhk-pedos"}, "did you mean cuhk-pedes?"),
        ({"dataset_name": "prcc"}, "no training image has a caption or a description"),
    ],
)
def test_set_that_cannot_be_read_ends_with_one_line(
    flags: dict[str, Any], message: str, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if flags["dataset_name"] == "prcc":
        flags = {**flags, "data_dir": layouts.write_prcc(tmp_path / "prcc")}
    output = tmp_path / "output"
    assert message in command.fails(capsys, command.arguments(output, **flags))
    assert not output.exists()


def test_an_image_that_breaks_after_the_first_load_ends_the_run_with_one_line(
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
