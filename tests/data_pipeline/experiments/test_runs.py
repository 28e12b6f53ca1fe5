"""Keys, settings and folders of training runs."""

from pathlib import Path

import pytest

from data_pipeline.experiments.runs import Settings, TrainingRun, difference, merged

BASE: Settings = {
    "model": {"num_bdam_layers": 2, "vision_config": {"model_type": "vit", "hidden_size": 32}},
    "data": {"dataset_name": ["synthetic"]},
    "training": {"max_steps": 4, "task_weights": {"triplet": 0.1, "match": 2.0}},
}


def key(*layers: Settings, seed: int = 0) -> str:
    return TrainingRun(merged(BASE, *layers), seed, (), 0).key


@pytest.mark.parametrize(
    ("layer", "same"),
    [
        ({"model": {"use_bdam": True}}, True),  # defaults
        ({"model": {"adversarial_on": "identity"}}, True),
        ({"data": {"data_dir": []}}, True),
        ({"data": {"cache_dir": "/elsewhere"}}, True),  # paths and logging
        ({"training": {"left_out_tasks": []}}, True),
        ({"training": {"output_dir": "elsewhere", "logging_steps": 7}}, True),
        ({"texts": {}}, True),
        ({"model": {"use_bdam": False}}, False),
        ({"model": {"vision_config": {"hidden_size": 64}}}, False),
        ({"data": {"dataset_name": ["cuhk-pedes"]}}, False),
        ({"training": {"left_out_tasks": ["info"]}}, False),
        ({"training": {"task_weights": None}}, False),
        ({"texts": {"noise": 0.2}}, False),
    ],
)
def test_key_changes_only_with_effective_settings(layer: Settings, same: bool) -> None:
    assert (key(layer) == key()) == same


def test_key_differs_between_seeds_only_in_its_suffix() -> None:
    assert key(seed=1) != key(seed=0)
    assert key(seed=1).partition("-")[0] == key(seed=0).partition("-")[0]


def test_merged_overrides_nested_settings_without_side_effects() -> None:
    layer: Settings = {"model": {"vision_config": {"hidden_size": 64}}, "training": {"task_weights": None}, "texts": {}}
    over = merged(BASE, layer)
    assert over["model"]["vision_config"] == {"model_type": "vit", "hidden_size": 64}
    assert over["training"] == {"max_steps": 4, "task_weights": None}
    assert BASE["model"]["vision_config"]["hidden_size"] == 32
    assert difference(over, BASE) == {name: layer[name] for name in ("model", "training")}
    assert difference(BASE, BASE) == {}
    assert merged(BASE, difference(over, BASE)) | {"texts": {}} == over


def test_run_is_finished_when_all_outputs_to_keep_exist(tmp_path: Path) -> None:
    run = TrainingRun(BASE, 3, ("features",), 7)
    folder = run.save(tmp_path)
    assert TrainingRun.load(folder) == run
    assert not run.is_finished(tmp_path)
    (folder / "result.json").write_text("{}")
    assert not run.is_finished(tmp_path)
    assert TrainingRun(BASE, 3, (), 7).is_finished(tmp_path)
    (folder / "features.npz").touch()
    assert run.is_finished(tmp_path)
