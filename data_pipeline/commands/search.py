"""`bdam index`, `bdam search`, `bdam demo`: index a gallery of person images, search it, show it in a browser."""

import enum
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import one_line_errors

if TYPE_CHECKING:
    from datasets import Dataset

    from ..search import IndexReport, PersonHit

app = typer.Typer(no_args_is_help=True, help="Index a gallery of person images, search it, show it in a browser.")

_SHOWN = 10  # of a list of mistakes


class IndexTypeName(enum.Enum):
    """How vectors are searched."""

    exact = "exact"
    hnsw = "hnsw"
    int8 = "int8"


IndexFolder = Annotated[Path, typer.Option(help="Folder of the index.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Device = Annotated[str | None, typer.Option(help="Where the model computes: cpu, cuda, ...", show_default="the best")]


@app.command()
def index(
    model: Annotated[str, typer.Option(help="A trained model: its folder, or its name on the Hub.")],
    images: Annotated[
        str,
        typer.Option(
            help="A folder of crops, each of one person, perhaps with metadata.csv, .jsonl or .parquet in it; or the "
            "name of a data set (`synthetic`, `rstpreid`, `hub:OWNER/NAME`, ...)."
        ),
    ],
    index: Annotated[Path, typer.Option(help="Folder of the index; brought up to date if it is there.")],
    data_dir: Annotated[Path | None, typer.Option(help="The folder of a data set given by name.")] = None,
    split: Annotated[str, typer.Option(help="The split of a data set given by name.")] = "test",
    descriptions: Annotated[
        str | None,
        typer.Option(
            help="JSON lines of `bdam describe`: fuses each image with its identity description. `own` takes those of "
            "a data set given by name."
        ),
    ] = None,
    index_type: Annotated[
        IndexTypeName | None,
        typer.Option(
            help="exact: scan all; hnsw: a graph, faster; int8: a quarter of the memory.",
            show_default="exact up to a million images, then hnsw",
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(help="Keep the vectors in a Milvus cluster, http://HOST:19530. Its token is $MILVUS_TOKEN."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images that go through the model together.")] = 64,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that read images.", show_default="one a core")
    ] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Embeds a folder of person images, or a data set, for `bdam search`.

    Run it again to bring the index up to date: only new and changed images are embedded, and those that are gone
    leave. A run that was stopped goes on. `torchrun --nproc_per_node N -m data_pipeline.commands.main index ...` shares
    the work among processes.
    """
    with _errors():
        from ..search.index.indexing import build_index

        _quiet()
        is_folder = Path(images).exists() or images.startswith((".", "~"))
        is_folder |= "/" in images and not images.startswith("hub:")
        report = build_index(
            index,
            images if is_folder else _dataset(images, data_dir, split, descriptions),
            model,
            descriptions=descriptions if is_folder else None,
            fuse_descriptions=descriptions is not None,
            index_type=None if index_type is None else index_type.value,
            store=store,
            batch_size=batch_size,
            workers=workers,
            device=device,
        )
    if os.environ.get("RANK", "0") == "0":
        _print_report(index, report, as_json)


@app.command()
def search(
    index: IndexFolder,
    sentence: Annotated[str | None, typer.Argument(help="What the person looks like.")] = None,
    image: Annotated[Path | None, typer.Option(help="Search by a picture of one person instead.")] = None,
    top_k: Annotated[int, typer.Option(help="How many images to find.")] = 20,
    clothing_weight: Annotated[
        float | None,
        typer.Option(
            help="How much clothes count: 1 is the everyday search, 0 finds who may have changed them.",
            show_default="the model's",
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(help="Only images of which this holds, such as \"camera == 3 and time > '2026-05-01'\"."),
    ] = None,
    same_person: Annotated[bool, typer.Option("--same-person", help="Group images of one person_id.")] = False,
    sheet: Annotated[Path | None, typer.Option(help="Draw the hits into this .png.")] = None,
    model: Annotated[
        str | None, typer.Option(help="The model, where it lies elsewhere than when the index was built.")
    ] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Finds the images that a sentence, or a picture, describes."""
    with _errors():
        from ..search.gallery import PersonGallery
        from ..sheets.hits_sheet import hits_sheet

        if (sentence is None) == (image is None):
            raise ValueError("give a sentence, or a picture with --image, and not both")
        _quiet()
        with PersonGallery.open(index, model, device) as gallery:
            if sentence is not None:
                hits = gallery.search_text(sentence, top_k, clothing_weight, where)
                if remark := gallery.remark(sentence):
                    typer.echo(f"note: {remark}", err=True)
            else:
                assert image is not None
                hits = gallery.search_image(image, top_k, clothing_weight, where)
            if len(hits) < top_k:
                within = f" within {where!r}" if where else ""
                typer.echo(f"note: asked for {top_k} images; there are {len(hits)}{within}", err=True)
            if sheet is not None:
                hits_sheet(hits, sheet, sentence if sentence is not None else f"like {image}")
        _print_hits(hits, same_person, as_json)


@app.command()
def demo(
    index: IndexFolder,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0 for a free one.")] = 7860,
    auth: Annotated[
        str | None,
        typer.Option(help="Ask for USER:PASSWORD.", envvar="BDAM_DEMO_AUTH", show_envvar=True),
    ] = None,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Answer other machines as well, which needs --auth.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="The model, where it lies elsewhere than when the index was built.")
    ] = None,
    device: Device = None,
) -> None:
    """Shows an index in the browser: a page to search it, for this machine alone unless told otherwise."""
    with _errors():
        from ..search.demo.server import serve_demo
        from ..search.gallery import PersonGallery

        user, colon, password = (auth or "").partition(":")
        if auth is not None and not (user and colon and password):
            raise ValueError("--auth wants USER:PASSWORD")
        _quiet()
        with (
            PersonGallery.open(index, model, device) as gallery,
            serve_demo(gallery, port, None if auth is None else (user, password), allow_remote) as address,
        ):
            typer.echo(f"{index}: {len(gallery)} images at {address} (Ctrl-C ends)")
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was sent here is removed then, too
            with suppress(KeyboardInterrupt):
                threading.Event().wait()


@contextmanager
def _errors() -> Iterator[None]:
    """One line for what the user can set right, a missing extra among it."""
    with one_line_errors():
        try:
            yield
        except ModuleNotFoundError as error:
            extra = {"faiss": "search", "duckdb": "search", "gradio": "demo"}.get(error.name or "")
            if extra is None:
                raise
            raise ValueError(f"{error.name} is not installed: pip install 'bdam-reid[{extra}]'") from None


def _quiet() -> None:
    """Leaves the terminal to this command's own progress bars and notes."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _dataset(name: str, data_dir: Path | None, split: str, descriptions: str | None) -> "Dataset":
    """A split of a data set given by name.

    Raises:
        ValueError: there is no such data set or split.
        OSError: its files are not there.
    """
    from datasets import disable_progress_bars

    from ..benchmarks.loading import load_person_dataset

    disable_progress_bars()
    given = None if descriptions == "own" else descriptions
    splits = load_person_dataset(name, data_dir, descriptions=given, check_images=False)  # indexing lists broken ones
    if split not in splits:
        raise ValueError(f"{name} has no split {split!r}; it has {', '.join(splits)}")
    return splits[split]


def _print_report(index: Path, report: "IndexReport", as_json: bool) -> None:
    import json
    from dataclasses import asdict

    if as_json:
        typer.echo(json.dumps({"index": str(index), **asdict(report)}, indent=1, ensure_ascii=False))
        return
    for note in report.notes:
        typer.echo(f"note: {note}", err=True)
    if report.unreadable:
        typer.echo(f"note: {len(report.unreadable)} images cannot be read and were skipped:", err=True)
        for path, reason in report.unreadable[:_SHOWN]:
            typer.echo(f"  {path}: {reason}", err=True)
        if len(report.unreadable) > _SHOWN:
            typer.echo(f"  and {len(report.unreadable) - _SHOWN} more (--json lists all)", err=True)
    if report.wide:
        typer.echo(
            f"note: {report.wide} images are wider than high; a gallery wants crops that show one person each: cut "
            "people out of whole frames first, with any person detector",
            err=True,
        )
    kept = report.images - report.embedded
    typer.echo(
        f"{index}: {report.images} images ({report.embedded} embedded, {kept} kept, {report.removed} removed), "
        f"{report.index_type} search"
    )


def _print_hits(hits: "list[PersonHit]", same_person: bool, as_json: bool) -> None:
    import json

    from ..search.gallery import group_by_person

    if as_json:
        found: list[dict[str, Any]] = [_as_json(rank, hit) for rank, hit in enumerate(hits, start=1)]
        if same_person:
            numbered = {entry["row"]: entry for entry in found}
            found = [
                {"person_id": group.person_id, "hits": [numbered[hit.row] for hit in group.hits]}
                for group in group_by_person(hits)
            ]
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False, default=str))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("rank", "score", "identity", "clothing", "image", "metadata")
    ranks = {hit.row: rank for rank, hit in enumerate(hits, start=1)}
    groups = [group.hits for group in group_by_person(hits)] if same_person else [hits]
    for group in groups:
        for hit in group:
            scores = (f"{value:.3f}" for value in (hit.score, hit.identity_score, hit.clothing_score))
            # Text: names and captions may hold what rich takes for markup.
            table.add_row(str(ranks[hit.row]), *scores, Text(hit.name), Text(_short(hit.metadata)))
        table.add_section()
    Console().print(table)


def _as_json(rank: int, hit: "PersonHit") -> dict[str, Any]:
    from dataclasses import asdict

    return {"rank": rank, **asdict(hit), "path": str(hit.path)}


def _short(metadata: dict[str, Any]) -> str:
    """What is short enough for a table: numbers, names, times."""
    told = {name: str(value) for name, value in metadata.items() if value not in (None, -1) and name != "captions"}
    return ", ".join(f"{name} {value}" for name, value in told.items() if len(value) <= 24)
