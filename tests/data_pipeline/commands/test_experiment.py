"""The command line of `bdam experiment`; training runs are tested in tests/data_pipeline/experiments."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data_pipeline.commands.experiment import app
from data_pipeline.experiments import runner
from data_pipeline.experiments.definitions import NAMES

CLI = CliRunner()


def test_list_prints_experiments_and_rows() -> None:
    listed = json.loads(CLI.invoke(app, ["list", "--json"]).stdout)
    assert [entry["name"] for entry in listed] == list(NAMES)
    assert "Without cross-attention" in listed[0]["rows"]
    assert "Without cross-attention" in CLI.invoke(app, ["list"]).stdout


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    result = CLI.invoke(app, ["run", "table1_bdam", "beta", "--output-dir", str(tmp_path / "out"), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "table1_bdam: Full model | beta: Full model" in result.stdout
    assert "15 runs, 0 of them finished" in result.stdout
    assert not (tmp_path / "out").exists()


def test_run_is_the_default_command_with_a_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CLI.invoke(app, ["all", "--budget", "small", "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "table5_baselines: IRRA" in result.stdout
    monkeypatch.setattr(runner, "COMMAND", ("false",))
    result = CLI.invoke(app, ["beta"])
    assert isinstance(result.exception, SystemExit)
    assert "failed (1): no output" in str(result.exception.code)
    assert "(missing)" in (tmp_path / "outputs" / "experiments" / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table9"], "no experiment or budget table9"),
        (["run", "table9"], "no experiment or budget table9"),
        (["run", "beta", "--config", "tinny"], "presets are clip, paper, tiny"),
        (["run", "beta", "--seeds", "0,one"], "--seeds 0,one: expected integers"),
        (["report"], "holds no results.jsonl"),
    ],
)
def test_mistake_ends_with_a_one_line_message(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = CLI.invoke(app, [*arguments, "--output-dir", str(tmp_path)])
    assert isinstance(result.exception, SystemExit)
    line = str(result.exception.code)
    assert line.startswith("bdam experiment: ")
    assert message in line
    assert "\n" not in line
