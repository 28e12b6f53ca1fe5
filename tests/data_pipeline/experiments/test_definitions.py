"""The files of experiments and budgets: all are readable, and mistakes are reported with their place."""

from pathlib import Path

import pytest
import yaml

from data_pipeline.experiments.definitions import FOLDER, NAMES, load_budget, load_experiment
from data_pipeline.experiments.plan import Plan, Study


def test_load_experiment_reads_every_file() -> None:
    files = {path.stem for path in FOLDER.glob("*.yaml")}
    assert sorted(files) == sorted([*NAMES, "budget_small", "budget_medium", "budget_full", "published"])
    assert all(load_experiment(name).rows for name in NAMES)


@pytest.mark.parametrize("preset", ["tiny", "clip", "paper"])
def test_every_row_has_valid_settings(preset: str) -> None:
    study = Study.of(preset, load_budget("full"), {"dataset_name": ["synthetic"]})
    Plan.of(study, [load_experiment(name) for name in NAMES], (0,)).check()


def test_paper_results_of_tables_1_to_3() -> None:
    full = {
        name: next(row for row in load_experiment(name).rows if row.name == "Full model").paper
        for name in ("table1_bdam", "table2_fusion", "table3_losses")
    }
    assert [figures["mAP"] for figures in full.values()] == [66.74, 69.58, 72.61]
    assert full["table3_losses"]["rank10"] == 96.47


def test_published_results_are_complete() -> None:
    published = yaml.safe_load((FOLDER / "published.yaml").read_text())
    for entry in published["methods"]:
        assert entry["source"] in ("paper", "authors")
        assert entry["picked"]
        assert [len(figures) for figures in entry["figures"]] == [4] * len(published["sets"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: A\nkind: tabel\nrows: [{name: a}]", "unknown tabel; known are"),
        ("title: A\nkind: table\nrows: [{name: a, modle: {}}]", "row 1: unknown modle; known are"),
        ("title: A\nkind: table\nrows: [{name: a, keep: [all]}]", "keep: unknown all; known are"),
        ("title: A\nkind: table\nreference: b\nrows: [{name: a}]", "reference 'b' is not the name of a row"),
        ("title: A\nkind: table\nsources: b\nrows: [{name: a}]", "unknown sources"),
    ],
)
def test_load_experiment_reports_mistakes(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "slip.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_experiment("slip", tmp_path)
