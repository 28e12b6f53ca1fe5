"""The experiments as written down: they can all be read, and a slip of the pen is named."""

from pathlib import Path

import pytest
import yaml

from data_pipeline.experiments.definitions import FOLDER, NAMES, load_budget, load_experiment
from data_pipeline.experiments.plan import Plan, Run


def test_every_file_is_listed_and_every_listed_one_can_be_read() -> None:
    files = {path.stem for path in FOLDER.glob("*.yaml")}
    assert files == {*NAMES, "budget_small", "budget_medium", "budget_full", "published"}
    assert all(load_experiment(name).rows for name in NAMES)


@pytest.mark.parametrize("preset", ["tiny", "clip", "paper"])
def test_every_row_is_a_setting_that_the_training_takes(preset: str) -> None:
    run = Run.of(preset, "full", load_budget("full"), {"dataset_name": ["synthetic"]})
    Plan.of(run, [load_experiment(name) for name in NAMES], (0,)).check()


def test_paper_figures_of_tables_1_to_3_are_those_printed() -> None:
    full = {
        name: next(row for row in load_experiment(name).rows if row.name == "Full model").paper
        for name in ("table1_bdam", "table2_fusion", "table3_losses")
    }
    assert [figures["mAP"] for figures in full.values()] == [66.74, 69.58, 72.61]
    assert full["table3_losses"]["rank10"] == 96.47


def test_published_figures_say_how_their_checkpoint_was_picked() -> None:
    published = yaml.safe_load((FOLDER / "published.yaml").read_text())
    for entry in published["methods"]:
        assert entry["source"] in ("paper", "authors")
        assert entry["picked"]
        assert len(entry["figures"]) == len(published["sets"])
        assert all(len(figures) == 4 for figures in entry["figures"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: A\nkind: tabel\nrows: [{name: a}]", "unknown tabel; known are"),
        ("title: A\nkind: table\nrows: [{name: a, modle: {}}]", "row 1: unknown modle; known are"),
        ("title: A\nkind: table\nrows: [{name: a, keep: [all]}]", "keep: unknown all; known are"),
        ("title: A\nkind: table\nreference: b\nrows: [{name: a}]", "reference 'b' is no row"),
        ("title: A\nkind: table\nsources: b\nrows: [{name: a}]", "unknown sources"),
    ],
)
def test_slip_in_a_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "slip.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_experiment("slip", tmp_path)


def test_unknown_experiment_is_refused() -> None:
    with pytest.raises(ValueError, match="no experiment or budget table9"):
        load_experiment("table9")
