"""What makes two rows one cell."""

from pathlib import Path

import pytest

from data_pipeline.experiments.cells import Cell, Settings, merged, write_text

BASE: Settings = {
    "model": {"num_bdam_layers": 2, "vision_config": {"model_type": "vit", "hidden_size": 32}},
    "data": {"dataset_name": ["synthetic"]},
    "training": {"max_steps": 4, "task_weights": {"triplet": 0.1, "match": 2.0}},
}


def key(*layers: Settings, seed: int = 0) -> str:
    return Cell(merged(BASE, *layers), seed, (), 0).key


@pytest.mark.parametrize(
    "layer",
    [
        {"model": {"use_bdam": True}},
        {"model": {"adversarial_on": "identity"}},
        {"data": {"data_dir": []}},
        {"data": {"cache_dir": "/elsewhere"}},
        {"training": {"left_out_tasks": []}},
        {"training": {"output_dir": "elsewhere", "logging_steps": 7}},
        {"texts": {}},
    ],
)
def test_naming_a_default_or_a_place_is_no_other_cell(layer: Settings) -> None:
    assert key(layer) == key()


@pytest.mark.parametrize(
    "layer",
    [
        {"model": {"use_bdam": False}},
        {"model": {"vision_config": {"hidden_size": 64}}},
        {"data": {"dataset_name": ["cuhk-pedes"]}},
        {"training": {"left_out_tasks": ["info"]}},
        {"training": {"task_weights": None}},
        {"texts": {"noise": 0.2}},
    ],
)
def test_any_other_setting_is_another_cell(layer: Settings) -> None:
    assert key(layer) != key()


def test_another_seed_is_another_cell() -> None:
    assert key(seed=1) != key(seed=0)
    assert key(seed=1).partition("-")[0] == key(seed=0).partition("-")[0]


def test_later_settings_lie_over_earlier_ones_and_leave_them_as_they_are() -> None:
    over = merged(BASE, {"model": {"vision_config": {"hidden_size": 64}}, "training": {"task_weights": None}})
    assert over["model"]["vision_config"] == {"model_type": "vit", "hidden_size": 64}
    assert over["training"] == {"max_steps": 4, "task_weights": None}
    assert BASE["model"]["vision_config"]["hidden_size"] == 32


def test_cell_is_read_back_and_finished_once_all_it_keeps_is_there(tmp_path: Path) -> None:
    cell = Cell(BASE, 3, ("features",), 7)
    folder = cell.save(tmp_path)
    assert Cell.load(folder) == cell
    assert not cell.is_finished(tmp_path)
    write_text(folder / "result.json", "{}")
    assert not cell.is_finished(tmp_path)
    assert Cell(BASE, 3, (), 7).is_finished(tmp_path)
    write_text(folder / "features.npz", "")
    assert cell.is_finished(tmp_path)
