"""The runs that a plan contains."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline.experiments.definitions import NAMES, Budget, load_budget, load_experiment
from data_pipeline.experiments.plan import Plan, Study, read_results

MakePlan = Callable[..., Plan]


def test_plan_shares_the_full_model_across_tables(plan_of: MakePlan) -> None:
    plan = plan_of(*NAMES)
    full = plan.study.training_run(load_experiment("table1_bdam").rows[1], 0)
    (run,) = [run for run in plan.runs if run.key == full.key]
    assert run.keep == ("examples", "features", "model")
    rows = {"table1_bdam: Full model", "table3_losses: Full model", "table5_baselines: BDAM", "noise: plain"}
    assert rows <= set(plan.rows_of(run))
    assert len({run.key for run in plan.runs}) == len(plan.runs) < sum(len(e.rows) for e in plan.experiments)


def test_plan_orders_by_seed_and_keeps_one_model(plan_of: MakePlan) -> None:
    plan = plan_of("examples", "figure4_tsne", seeds=(2, 5))
    assert [run.seed for run in plan.runs] == [2, 2, 5, 5]
    assert ["model" in run.keep for run in plan.runs] == [True, False, False, False]
    assert all("features" in run.keep for run in plan.runs)


def test_small_budget_takes_less_than_45_minutes() -> None:
    budget = load_budget("small")
    study = Study.of("tiny", budget, {"dataset_name": ["synthetic"]})
    plan = Plan.of(study, [load_experiment(name) for name in budget.experiments], budget.seeds)
    trainings = [run.settings["training"] for run in plan.runs]
    steps, heads = sum(each["max_steps"] for each in trainings), sum("matching_steps" in each for each in trainings)
    # On one core, a step of the tiny preset takes 0.3 s, a matching head 55 s more, and the rest of a run 10 s.
    assert (0.3 * steps + 55 * heads + 10 * len(plan.runs)) / 2 < 45 * 60
    assert all(experiment.one_seed == (experiment.name == "figure5_efficiency") for experiment in plan.experiments)


def test_plan_trains_timed_runs_after_the_run_that_sets_their_time(plan_of: MakePlan) -> None:
    plan = plan_of("table5_baselines", "figure5_efficiency", seeds=(0, 1))
    keys = [run.key for run in plan.runs]
    timed = [run for run in plan.runs if run.timed_as is not None]
    assert len(timed) == 4 and all(keys.index(str(run.timed_as)) < keys.index(run.key) for run in timed)
    assert len([run for run in plan.runs if run.seed == 0]) == len([run for run in plan.runs if run.seed == 1]) + 5


def test_save_merges_plans_and_rejects_another_study(plan_of: MakePlan, tmp_path: Path) -> None:
    plan_of("beta").save(tmp_path)
    plan_of("noise", "beta", seeds=(1,)).save(tmp_path)
    assert read_results(tmp_path)[0]["experiments"] == {"beta": [0, 1], "noise": [1]}
    other = plan_of("beta")
    other = dataclasses.replace(other, study=dataclasses.replace(other.study, budget="another"))
    with pytest.raises(ValueError, match="holds a study with another budget: choose another --output-dir"):
        other.save(tmp_path)


def test_styles_of_other_data_sets_need_descriptions_by_method(preset: Path) -> None:
    data = {"dataset_name": ["cuhk-pedes"], "data_dir": ["data"]}
    budget = Budget("toy", (0,), {}, 0)
    styles = load_experiment("table4_styles")
    plan = Plan.of(Study.of(str(preset), budget, data), [styles], (0,))
    assert plan.runs == ()
    assert "needs --styled-descriptions" in plan.skipped["table4_styles"]
    plan = Plan.of(Study.of(str(preset), budget, data, "styled"), [styles], (0,))
    files = [run.settings["data"].get("descriptions") for run in plan.runs]
    assert files[1:3] == [["styled/random.jsonl"], ["styled/kmeans.jsonl"]]


def test_check_rejects_invalid_values(preset: Path) -> None:
    study = Study.of(str(preset), Budget("toy", (0,), {"model": {"num_bdam_heads": 5}}, 0), {})
    with pytest.raises(ValueError, match=r"hidden_size \(32\) must be a multiple of num_bdam_heads \(5\)"):
        Plan.of(study, [load_experiment("beta")], (0,)).check()
