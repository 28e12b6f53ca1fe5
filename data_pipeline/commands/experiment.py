"""`bdam experiment`: reproduces the tables and figures of the paper, and further ones."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup


class _RunByDefault(TyperGroup):
    """Makes `run` the default command: `bdam experiment all` is `bdam experiment run all`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_RunByDefault,
    no_args_is_help=True,
    help="Reproduce tables and figures of the paper, and further ones: `bdam experiment all`, or some names.",
)


@app.command("list")
def list_experiments(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    """List the experiments and their rows."""
    from data_pipeline.experiments.definitions import NAMES, load_experiment

    experiments = [load_experiment(name) for name in NAMES]
    if as_json:
        listed = [{"name": e.name, "title": e.title, "rows": [row.name for row in e.rows]} for e in experiments]
        print(json.dumps(listed, ensure_ascii=False))
        return
    for experiment in experiments:
        typer.echo(f"{experiment.name:20} {experiment.title}")
        typer.echo(f"{'':20}   {' · '.join(dict.fromkeys(row.name for row in experiment.rows))}")


@app.command()
def run(
    names: Annotated[list[str], typer.Argument(help="Experiments (`bdam experiment list`), or `all`.")],
    output_dir: Annotated[Path, typer.Option(help="Folder of the study; an interrupted study resumes there.")] = Path(
        "outputs/experiments"
    ),
    budget: Annotated[
        Literal["small", "medium", "full"],
        typer.Option(
            help="small: the tables and figures of the paper but table 4, by a short training, within 45 minutes on "
            "two CPU cores. medium: a longer training, some hours there. full: the training of the preset."
        ),
    ] = "small",
    config: Annotated[str, typer.Option(help="A preset (tiny, paper, clip) or a JSON file.")] = "tiny",
    dataset_name: Annotated[str, typer.Option(help="As in run_t2i_reid.py.")] = "synthetic",
    data_dir: Annotated[str | None, typer.Option(help="As in run_t2i_reid.py.")] = None,
    descriptions: Annotated[str | None, typer.Option(help="As in run_t2i_reid.py.")] = None,
    outfits: Annotated[str | None, typer.Option(help="As in run_t2i_reid.py.")] = None,
    cache_dir: Annotated[str | None, typer.Option(help="As in run_t2i_reid.py.")] = None,
    styled_descriptions: Annotated[
        str | None, typer.Option(help="For table 4 on your own set: a folder with random.jsonl, kmeans.jsonl, ...")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, for example 0,1,2; by default those of the budget.")] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Number of parallel runs; by default one per GPU, or two on a CPU.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the planned runs and exit.")] = False,
) -> None:
    """Train the runs of some experiments and write the report."""
    _quiet()
    from data_pipeline.experiments.definitions import load_budget, load_experiment
    from data_pipeline.experiments.plan import Plan, Study
    from data_pipeline.experiments.report import write_report
    from data_pipeline.experiments.runner import FailedRunsError, default_jobs, train_all

    files = {"data_dir": data_dir, "descriptions": descriptions, "outfits": outfits}
    data: dict[str, Any] = {name: [] if path is None else [path] for name, path in files.items()}
    data |= {"dataset_name": [dataset_name], "cache_dir": cache_dir}
    try:
        chosen = load_budget(budget)
        wanted = chosen.experiments if names == ["all"] else tuple(names)
        experiments = [load_experiment(name) for name in wanted]
        study = Study.of(config, chosen, data, styled_descriptions)
        plan = Plan.of(study, experiments, _numbers(seeds) if seeds else chosen.seeds)
        plan.check()
        if dry_run:
            print(plan.summary(output_dir, jobs or default_jobs()))
            return
        plan.save(output_dir)
    except (ValueError, OSError) as error:
        _fail(error)
    for name, reason in plan.skipped.items():
        typer.echo(f"{name} is skipped: {reason}", err=True)
    failed = None
    try:
        train_all(plan.runs, output_dir, jobs)
    except FailedRunsError as error:
        failed = error
    typer.echo(f"report: {write_report(output_dir)}")
    if failed is not None:
        _fail(failed)


@app.command()
def report(
    output_dir: Annotated[Path, typer.Option(help="Folder of a study, finished or not.")] = Path("outputs/experiments"),
) -> None:
    """Write the report of a study from its results.jsonl and the folders of its runs."""
    _quiet()
    from data_pipeline.experiments.report import write_report

    try:
        typer.echo(f"report: {write_report(output_dir)}")
    except (ValueError, OSError) as error:
        _fail(error)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise ValueError(f"--seeds {text}: expected integers, for example 0,1,2") from None


def _quiet() -> None:
    import datasets
    from transformers.utils import logging

    logging.set_verbosity_error()
    datasets.disable_progress_bars()


def _fail(error: Exception) -> None:
    sys.exit(f"bdam experiment: {error}")
