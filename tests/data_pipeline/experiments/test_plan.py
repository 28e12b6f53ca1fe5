"""Which cells a run needs."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline.experiments.definitions import NAMES, Budget, load_budget, load_experiment
from data_pipeline.experiments.plan import Plan, Run, load_plan

MakePlan = Callable[..., Plan]


def test_full_model_of_every_table_is_one_cell(plan_of: MakePlan) -> None:
    plan = plan_of(*NAMES)
    full = plan.run.cell(load_experiment("table1_bdam").rows[1], 0)
    (cell,) = [cell for cell in plan.cells if cell.key == full.key]
    assert cell.keep == ("examples", "features", "model")
    rows = plan.rows_of(cell)
    assert {"table1_bdam: Full model", "table3_losses: Full model", "table5_baselines: BDAM", "noise: plain"} <= set(
        rows
    )
    assert len({cell.key for cell in plan.cells}) == len(plan.cells) < sum(len(e.rows) for e in plan.experiments)


def test_seeds_come_one_after_the_other_and_only_the_first_keeps_its_model(plan_of: MakePlan) -> None:
    plan = plan_of("examples", "figure4_tsne", seeds=(2, 5))
    assert [cell.seed for cell in plan.cells] == [2, 2, 5, 5]
    assert ["model" in cell.keep for cell in plan.cells] == [True, False, False, False]
    assert all("features" in cell.keep for cell in plan.cells)


def test_plan_of_everything_with_the_small_budget_is_short_enough_for_an_hour() -> None:
    budget = load_budget("small")
    run = Run.of("tiny", "small", budget, {"dataset_name": ["synthetic"]})
    plan = Plan.of(run, [load_experiment(name) for name in NAMES], budget.seeds)
    images = sum(
        cell.settings["training"]["max_steps"] * cell.settings["training"]["per_device_train_batch_size"]
        for cell in plan.cells
    )
    # Two cores of 2026 train the tiny preset on some 150 images a second, and each cell costs some 20 seconds besides.
    assert images / 150 + 20 * len(plan.cells) < 50 * 60


def test_plans_of_one_run_add_up_and_another_run_is_refused(plan_of: MakePlan, tmp_path: Path) -> None:
    plan_of("beta").save(tmp_path)
    plan_of("noise", "beta", seeds=(1,)).save(tmp_path)
    known = load_plan(tmp_path)
    assert known is not None
    assert {name: entry["seeds"] for name, entry in known["experiments"].items()} == {"beta": [0, 1], "noise": [1]}
    other = plan_of("beta")
    other = dataclasses.replace(other, run=dataclasses.replace(other.run, budget="another"))
    with pytest.raises(ValueError, match="holds a run with another budget: choose another --output-dir"):
        other.save(tmp_path)


def test_styles_of_another_set_need_descriptions_and_take_them_by_method(preset: Path) -> None:
    data = {"dataset_name": ["cuhk-pedes"], "data_dir": ["data"]}
    budget = Budget((0,), {}, 0)
    styles = load_experiment("table4_styles")
    plan = Plan.of(Run.of(str(preset), "toy", budget, data), [styles], (0,))
    assert plan.cells == ()
    assert "needs --styled-descriptions" in plan.skipped["table4_styles"]
    plan = Plan.of(Run.of(str(preset), "toy", budget, data, "styled"), [styles], (0,))
    files = [cell.settings["data"].get("descriptions") for cell in plan.cells]
    assert files[1:3] == [["styled/random.jsonl"], ["styled/kmeans.jsonl"]]


def test_value_that_does_not_fit_is_refused_before_anything_is_trained(preset: Path) -> None:
    run = Run.of(str(preset), "toy", Budget((0,), {"model": {"num_bdam_heads": 5}}, 0), {})
    with pytest.raises(ValueError, match=r"hidden_size \(32\) must be a multiple of num_bdam_heads \(5\)"):
        Plan.of(run, [load_experiment("beta")], (0,)).check()
