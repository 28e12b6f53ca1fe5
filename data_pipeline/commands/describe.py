"""`bdam describe`: annotator styles, and descriptions by a multimodal LLM."""

import enum
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import describe_results, describe_styles
from .describe_results import (
    ALL_ATTRIBUTES,
    TEXTS,
    AsJson,
    Attributes,
    MaxWords,
    MinCoverage,
    MinWords,
    print_values,
    requirements_of,
)
from .errors import one_line_errors

if TYPE_CHECKING:
    import random

    from ..descriptions.prompts import Style

app = typer.Typer(no_args_is_help=True, help="Annotator styles, and descriptions by a multimodal LLM.")
app.command()(describe_styles.styles)
app.command()(describe_styles.compare_clusterings)

_SERVER, _BATCH, _LOCAL = "The server", "The Batch API", "A local model"
_COST, _AGAIN = "Cost", "What was described before"


class BackendName(enum.Enum):
    """Who answers."""

    openai = "openai"
    transformers = "transformers"


class Others(enum.Enum):
    """What becomes of descriptions under other settings."""

    keep = "keep"
    replace = "replace"


class Structured(enum.Enum):
    """How the server is asked for JSON."""

    schema = "schema"
    object = "object"
    none = "none"


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="A data set, `folder` for images of your own, or `synthetic`.")],
    model: Annotated[str, typer.Option(help="Its name at the server; a folder or Hub id with --backend transformers.")],
    data_dir: Annotated[Path | None, typer.Option(help="The folder of the data set.")] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="A split to describe; may be repeated.", show_default="all")
    ] = None,
    output: Annotated[Path, typer.Option(help="JSON lines to append to; a stopped run goes on.")] = Path(
        "descriptions.jsonl"
    ),
    backend: Annotated[BackendName, typer.Option(help="A server that speaks the OpenAI API, or a local model.")] = (
        BackendName.openai
    ),
    limit: Annotated[int | None, typer.Option(help="Describe so many images, then stop.")] = None,
    sheet: Annotated[bool, typer.Option(help="Draw a contact sheet of images with their texts.")] = True,
    as_json: AsJson = False,
    attributes: Attributes = ALL_ATTRIBUTES,
    min_words: MinWords = 8,
    max_words: MaxWords = 80,
    min_coverage: MinCoverage = 0.75,
    attempts: Annotated[int, typer.Option(help="How many answers an image may take.", rich_help_panel=TEXTS)] = 3,
    max_duplicates: Annotated[
        int, typer.Option(help="How many images may have the same two texts.", rich_help_panel=TEXTS)
    ] = 20,
    styles: Annotated[
        Path | None,
        typer.Option(
            help="What `bdam describe styles` wrote: asks for a caption in one of these styles too.",
            rich_help_panel=TEXTS,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws other styles.", rich_help_panel=TEXTS)] = 0,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="A folder of prompt files of your own: `bdam describe prompts` copies the package's.",
            rich_help_panel=TEXTS,
        ),
    ] = None,
    temperature: Annotated[
        float, typer.Option(help="Of sampling; below 0 leaves it to the server.", rich_help_panel=TEXTS)
    ] = 0.7,
    max_tokens: Annotated[
        int, typer.Option(help="Most tokens of an answer; 0 leaves it to the server.", rich_help_panel=TEXTS)
    ] = 600,
    max_side: Annotated[
        int, typer.Option(help="Images are scaled down to so many pixels.", rich_help_panel=TEXTS)
    ] = 768,
    max_bytes: Annotated[
        int, typer.Option(help="Image files beyond this are made smaller.", rich_help_panel=TEXTS)
    ] = 200_000,
    base_url: Annotated[
        str | None,
        typer.Option(
            help="Its address, like http://localhost:8000/v1. Its key is taken from $OPENAI_API_KEY.",
            show_default="the service of OpenAI",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    in_flight: Annotated[int, typer.Option(help="Most requests at once.", rich_help_panel=_SERVER)] = 32,
    timeout: Annotated[float, typer.Option(help="Seconds until a request is sent again.", rich_help_panel=_SERVER)] = (
        120.0
    ),
    requests_per_minute: Annotated[
        float | None, typer.Option(help="The server's limit, if any.", rich_help_panel=_SERVER)
    ] = None,
    tokens_per_minute: Annotated[
        float | None, typer.Option(help="The server's limit, if any.", rich_help_panel=_SERVER)
    ] = None,
    structured: Annotated[
        Structured, typer.Option(help="How the server is asked for JSON.", rich_help_panel=_SERVER)
    ] = Structured.schema,
    extra_body: Annotated[
        str | None, typer.Option(help="A JSON object to merge into every request.", rich_help_panel=_SERVER)
    ] = None,
    batch: Annotated[
        bool, typer.Option("--batch", help="Use it: within a day, cheaper.", rich_help_panel=_BATCH)
    ] = False,
    batch_requests: Annotated[
        int,
        typer.Option(
            help="Most requests of a batch; fewer where the server queues few tokens.", rich_help_panel=_BATCH
        ),
    ] = 50_000,
    poll_seconds: Annotated[
        float, typer.Option(help="How often to look at batches under way.", rich_help_panel=_BATCH)
    ] = 30.0,
    batch_size: Annotated[int, typer.Option(help="Images at once.", rich_help_panel=_LOCAL)] = 8,
    device: Annotated[
        str | None,
        typer.Option(help="Where it computes.", show_default="cuda if there is one", rich_help_panel=_LOCAL),
    ] = None,
    prices: Annotated[
        Path | None,
        typer.Option(
            help='Price table, for a million tokens: {"MODEL": {"input": 2.5, "output": 10}}, and if you like "batch": '
            '0.5, the share that the Batch API costs, and "image_tokens": 255, for the estimate.',
            rich_help_panel=_COST,
        ),
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option(help="Stop before all answers of this output cost more.", rich_help_panel=_COST)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Send nothing; print counts, tokens, cost.", rich_help_panel=_COST)
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Send failed images again.", rich_help_panel=_AGAIN)
    ] = False,
    others: Annotated[
        Others | None,
        typer.Option(
            help="Keep or replace descriptions made under other settings.",
            show_default="refuse to run",
            rich_help_panel=_AGAIN,
        ),
    ] = None,
) -> None:
    """Describes every image of a data set in two texts: who the person is, and what they wear.

    Beside OUTPUT it leaves .failed.jsonl, .rejected.jsonl, .report.json and .png. Every answer is on disk before the
    next one counts, and none is paid twice. The exit status is 1 if an image stays without a description.
    """
    import json

    with one_line_errors():
        from ..descriptions.client import Sampling
        from ..descriptions.images import ImageItems, load_splits
        from ..descriptions.pipeline import DescribeOptions, describe_images, estimate_run
        from ..descriptions.report import contact_sheet_of, describe_report, failed_images
        from ..descriptions.whole_file import write_whole

        extra = _json_object(extra_body) if extra_body else None
        options = DescribeOptions(
            output=output,
            model=model,
            base_url=base_url,
            local=backend is BackendName.transformers,
            batch=batch,
            batch_requests=batch_requests,
            requirements=requirements_of(attributes, min_words, max_words, min_coverage, caption=styles is not None),
            prompts=prompts,
            draw_style=_draw_style(styles) if styles is not None else None,
            sampling=Sampling(temperature if temperature >= 0 else None, max_tokens or None, structured.value, extra),
            max_attempts=attempts,
            max_duplicates=max_duplicates,
            in_flight=in_flight,
            timeout=timeout,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            batch_size=batch_size,
            device=device,
            poll_seconds=poll_seconds,
            max_side=max_side,
            max_bytes=max_bytes,
            limit=limit,
            prices=prices,
            max_cost=max_cost,
            retry_failed=retry_failed,
            others=others.value if others else None,
            seed=seed,
        )
        items = ImageItems(load_splits(name, data_dir), split)
        if dry_run:
            print_values(estimate_run(items, options), as_json)
            return
        outcome = describe_images(items, options)
        if outcome.stopped:
            typer.echo(f"stopped: {outcome.stopped}; run again to go on", err=True)
        report = describe_report(output, options.requirements, prices)
        write_whole(output.with_suffix(".report.json"), json.dumps(report, indent=1, ensure_ascii=False).encode())
        if sheet and report["images"]:
            contact_sheet_of(output, items, output.with_suffix(".png"))
        print_values(report, as_json)
        if outcome.refused or outcome.stopped == "interrupted" or failed_images(output, items):
            raise typer.Exit(1)


app.command()(describe_results.report)
app.command()(describe_results.validate)
app.command()(describe_results.prompts)


def _json_object(text: str) -> dict[str, Any]:
    import json

    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"--extra-body: no valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError("--extra-body must be a JSON object")
    return value


def _draw_style(file: Path) -> "Callable[[random.Random], Style]":
    from ..styles.styles import StyleBook  # takes seconds, and most runs do without

    return StyleBook.load(file).draw
