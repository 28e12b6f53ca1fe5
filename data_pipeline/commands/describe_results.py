"""`bdam describe report`, `validate`, `upgrade` and `prompts`: results of a run, and the prompt files."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import describe_styles
from .errors import one_line_errors

if TYPE_CHECKING:
    from ..descriptions.validation import Requirements

ALL_ATTRIBUTES = "gender,age,build,height,hair,skin"
texts_option = partial(typer.Option, rich_help_panel="The texts")
Attributes = Annotated[
    str,
    texts_option(
        help="Attributes of the identity text, out of gender,age,build,height,hair,skin. A deployment may need fewer: "
        "skin tone or race guessed from a photo is often wrong, is specially protected by many laws, and makes people "
        "searchable by it; hair changes from photo to photo.",
    ),
]
MinWords = Annotated[int, texts_option(help="Minimum words of each text.")]
MaxWords = Annotated[int, texts_option(help="Maximum words of each text.")]
MinCoverage = Annotated[float, texts_option(help="Share of the attributes that a text must name, 0 to 1.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
DescriptionsFile = Annotated[Path, typer.Argument(help="A descriptions file, JSON Lines.")]


def report(
    file: DescriptionsFile,
    attributes: Attributes = ALL_ATTRIBUTES,
    min_words: MinWords = 8,
    max_words: MaxWords = 80,
    min_coverage: MinCoverage = 0.75,
    prices: Annotated[Path | None, typer.Option(help="Price table, for the cost.")] = None,
    as_json: AsJson = False,
) -> None:
    """Prints coverage, leaks, lengths, duplicates, styles, failures and tokens of a descriptions file."""
    with one_line_errors():
        from ..descriptions.report import describe_report

        requirements = requirements_of(attributes, min_words, max_words, min_coverage)
        print_values(describe_report(file, requirements, prices), as_json)


def validate(
    file: DescriptionsFile,
    attributes: Attributes = ALL_ATTRIBUTES,
    min_words: MinWords = 8,
    max_words: MaxWords = 80,
    min_coverage: MinCoverage = 0.75,
    as_json: AsJson = False,
) -> None:
    """Lists the images that a run would reject, with the problems. The exit status is 1 if there are any."""
    with one_line_errors():
        from ..descriptions.report import check_file

        requirements = requirements_of(attributes, min_words, max_words, min_coverage)
        bad = {path: [problem.detail for problem in problems] for path, problems in check_file(file, requirements)}
        if as_json:
            typer.echo(json.dumps(bad, indent=1, ensure_ascii=False))
        else:
            for path, details in bad.items():
                typer.echo(f"{path}: {'; '.join(details)}")
            typer.echo(f"{len(bad)} images with problems", err=True)
        if bad:
            raise typer.Exit(1)


def upgrade(file: DescriptionsFile) -> None:
    """Fills the attribute fields of an older file from its texts, where that is certain; the texts stay."""
    with one_line_errors():
        from ..descriptions.extraction import fill_fields
        from ..descriptions.jsonl import JsonLinesFile, single_writer
        from ..descriptions.report import read_descriptions

        if not file.is_file():
            raise FileNotFoundError(f"{file}: there is no such file")
        with single_writer(file), JsonLinesFile(file) as lines:
            before = [record for _, record in read_descriptions(file)]
            after = [fill_fields(record) for record in before]
            changed = sum(old != new for old, new in zip(before, after, strict=True))
            if changed:
                lines.replace(after)
        typer.echo(f"{file}: {changed} of {len(before)} descriptions have new fields", err=True)


def prompts(folder: Annotated[Path, typer.Argument(help="Folder to create; must not exist yet.")]) -> None:
    """Copies the prompt files into a folder, to edit them for `run --prompts` and `styles --prompts`."""
    import shutil

    with one_line_errors():
        from ..descriptions.prompts import PACKAGED, PLACEHOLDERS
        from ..styles.text_tasks import PROMPT_FOLDER

        folder.mkdir(parents=True)
        files = {PACKAGED / name: placeholders for name, placeholders in PLACEHOLDERS.items()}
        for file, placeholders in (files | {PROMPT_FOLDER / name: () for name in describe_styles.PROMPTS}).items():
            shutil.copy(file, folder)
            allowed = ", ".join(f"{{{placeholder}}}" for placeholder in placeholders)
            typer.echo(f"{folder / file.name}" + (f", placeholders: {allowed}" if allowed else ""))


def requirements_of(
    attributes: str, min_words: int, max_words: int, min_coverage: float, caption: bool = False
) -> "Requirements":
    """Makes requirements from the values of the flags."""
    from ..descriptions.validation import Requirements

    names = tuple(dict.fromkeys(name.strip() for name in attributes.split(",") if name.strip()))
    return Requirements(names, min_words, max_words, min_coverage, caption)


def print_values(values: dict[str, Any], as_json: bool) -> None:
    """Prints a report or an estimate as a table, or as one JSON document."""
    if as_json:
        typer.echo(json.dumps(values, indent=1, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    from ..descriptions.report import report_rows

    rows = (
        report_rows(values) if "file" in values else [(key.replace("_", " "), _format(values[key])) for key in values]
    )
    table = Table(show_header=False)
    for key, value in rows:
        table.add_row(key, value)
    Console().print(table)


def _format(value: float | None) -> str:
    if value is None:
        return "unknown without --prices"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4f}"
