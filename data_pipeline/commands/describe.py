"""`bdam describe`: annotator styles, and descriptions by a multimodal LLM."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import describe_results, describe_styles
from .describe_results import (
    ALL_ATTRIBUTES,
    AsJson,
    Attributes,
    MaxWords,
    MinCoverage,
    MinWords,
    print_values,
    requirements_of,
    texts_option,
)
from .errors import one_line_errors

if TYPE_CHECKING:
    import random

    from ..descriptions.prompts import Style

app = typer.Typer(no_args_is_help=True, help="Annotator styles, and descriptions by a multimodal LLM.")
app.command()(describe_styles.styles)
app.command()(describe_styles.compare_clusterings)

# One group of `--help` each.
_server_option = partial(typer.Option, rich_help_panel="The server")
_batch_option = partial(typer.Option, rich_help_panel="The Batch API")
_local_option = partial(typer.Option, rich_help_panel="A local model")
_cost_option = partial(typer.Option, rich_help_panel="Cost")
_rerun_option = partial(typer.Option, rich_help_panel="Images described or failed before")


_PRICES_HELP = (
    'Price table, per million tokens: {"MODEL": {"input": 2.5, "output": 10}}; optional keys: "batch": 0.5, the factor '
    'of the Batch API; "cached_input" and "image_input", prices of cached and image tokens; "image_tokens": 255, the '
    "tokens of an image for estimates."
)


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="A data set, `folder` for your own images, or `synthetic`.")],
    model: Annotated[str, typer.Option(help="Name at the server; a folder or Hub id with --backend transformers.")],
    data_dir: Annotated[Path | None, typer.Option(help="The folder of the data set.")] = None,
    split: Annotated[list[str] | None, typer.Option(help="A split; can be repeated.", show_default="all")] = None,
    output: Annotated[Path, typer.Option(help="JSON Lines to append to; a stopped run resumes.")] = Path(
        "descriptions.jsonl"
    ),
    backend: Annotated[
        Literal["openai", "transformers"], typer.Option(help="A server with the OpenAI API, or a local model.")
    ] = "openai",
    limit: Annotated[int | None, typer.Option(help="Maximum number of images.")] = None,
    sheet: Annotated[bool, typer.Option(help="Draw a contact sheet of images with their texts.")] = True,
    as_json: AsJson = False,
    attributes: Attributes = ALL_ATTRIBUTES,
    min_words: MinWords = 8,
    max_words: MaxWords = 80,
    min_coverage: MinCoverage = 0.75,
    attempts: Annotated[int, texts_option(help="Answers per image before it is recorded as failed.")] = 3,
    max_duplicates: Annotated[int, texts_option(help="Number of images that may share the same two texts.")] = 20,
    styles: Annotated[
        Path | None, texts_option(help="File of `bdam describe styles`: adds a caption in one of these styles.")
    ] = None,
    seed: Annotated[int, texts_option(help="Random seed of the drawn styles.")] = 0,
    prompts: Annotated[
        Path | None, texts_option(help="Folder of your own prompt files; `bdam describe prompts` copies the defaults.")
    ] = None,
    temperature: Annotated[float, texts_option(help="Sampling temperature; below 0: the server's default.")] = 0.7,
    max_tokens: Annotated[int, texts_option(help="Maximum tokens per answer; 0: the server's default.")] = 900,
    max_side: Annotated[int, texts_option(help="Larger images are scaled down to this many pixels.")] = 768,
    max_bytes: Annotated[int, texts_option(help="Larger image files are re-encoded as JPEG.")] = 200_000,
    base_url: Annotated[
        str | None,
        _server_option(
            help="Address, like http://localhost:8000/v1. The key is read from $OPENAI_API_KEY.",
            show_default="the OpenAI service",
        ),
    ] = None,
    in_flight: Annotated[int, _server_option(help="Maximum number of concurrent requests.")] = 32,
    timeout: Annotated[float, _server_option(help="Seconds until a request is canceled and retried.")] = 120.0,
    requests_per_minute: Annotated[float | None, _server_option(help="Rate limit of the server.")] = None,
    tokens_per_minute: Annotated[float | None, _server_option(help="Rate limit of the server.")] = None,
    structured: Annotated[
        Literal["schema", "object", "none"],
        _server_option(help="Structured output: a JSON schema, any JSON object, or none."),
    ] = "schema",
    extra_body: Annotated[str | None, _server_option(help="A JSON object to merge into each request.")] = None,
    batch: Annotated[bool, _batch_option("--batch", help="Use the Batch API: within a day, cheaper.")] = False,
    batch_requests: Annotated[
        int, _batch_option(help="Maximum requests per batch; lower it if the server's token queue is small.")
    ] = 50_000,
    poll_seconds: Annotated[float, _batch_option(help="Seconds between two status requests.")] = 30.0,
    batch_size: Annotated[int, _local_option(help="Images per batch.")] = 8,
    device: Annotated[str | None, _local_option(help="Device of the model.", show_default="the best")] = None,
    prices: Annotated[Path | None, _cost_option(help=_PRICES_HELP)] = None,
    max_cost: Annotated[float | None, _cost_option(help="Maximum cost of all answers of this output.")] = None,
    dry_run: Annotated[bool, _cost_option("--dry-run", help="Send nothing; print counts, tokens, cost.")] = False,
    retry_failed: Annotated[bool, _rerun_option("--retry-failed", help="Retry failed images.")] = False,
    others: Annotated[
        Literal["keep", "replace"] | None,
        _rerun_option(help="Keep or replace descriptions under other settings.", show_default="error"),
    ] = None,
) -> None:
    """Describes each image of a data set in two texts, one about identity and one about clothing.

    Writes .failed.jsonl, .rejected.jsonl, .report.json and .png beside OUTPUT. Each answer is stored at once, and none
    is paid for twice. The exit status is 1 if an image has no description at the end.
    """
    with one_line_errors():
        from modeling_bdam.files import write_json

        from ..benchmarks.loading import load_person_dataset
        from ..descriptions.backend import Sampling
        from ..descriptions.images import ImageItems
        from ..descriptions.options import DescribeOptions
        from ..descriptions.pipeline import describe_images, estimate_run
        from ..descriptions.report import contact_sheet_of, describe_report, failed_images

        extra = _json_object(extra_body) if extra_body else None
        options = DescribeOptions(
            output=output,
            model=model,
            base_url=base_url,
            local=backend == "transformers",
            batch=batch,
            batch_requests=batch_requests,
            requirements=requirements_of(attributes, min_words, max_words, min_coverage, caption=styles is not None),
            prompts=prompts,
            draw_style=_draw_style(styles) if styles is not None else None,
            sampling=Sampling(temperature if temperature >= 0 else None, max_tokens or None, structured, extra),
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
            others=others,
            seed=seed,
        )
        # Images are not checked here: an unreadable one is recorded as failed.
        items = ImageItems(load_person_dataset(name, data_dir, check_images=False), split)
        if dry_run:
            print_values(estimate_run(items, options), as_json)
            return
        outcome = describe_images(items, options)
        if outcome.stopped:
            typer.echo(f"stopped: {outcome.stopped}; run again to resume", err=True)
        report = describe_report(output, options.requirements, prices)
        write_json(output.with_suffix(".report.json"), report)
        if sheet and report["images"]:
            contact_sheet_of(output, items, output.with_suffix(".png"))
        print_values(report, as_json)
        if outcome.refused or outcome.stopped == "interrupted" or failed_images(output, items):
            raise typer.Exit(1)


app.command()(describe_results.report)
app.command()(describe_results.validate)
app.command()(describe_results.upgrade)
app.command()(describe_results.prompts)


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"--extra-body: invalid JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError("--extra-body must be a JSON object")
    return value


def _draw_style(file: Path) -> "Callable[[random.Random], Style]":
    from ..styles.styles import StyleBook  # imported late: it takes seconds, and most runs use no styles

    return StyleBook.load(file).draw
