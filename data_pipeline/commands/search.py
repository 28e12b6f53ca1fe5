"""`bdam index`, `bdam search`, `bdam demo`: index a gallery of person images, search it, serve a search page."""

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from modeling_bdam.files import install_command

from .errors import one_line_errors

if TYPE_CHECKING:
    from datasets import Dataset

    from ..search import IndexReport, PersonGallery, PersonHit

app = typer.Typer(no_args_is_help=True, help="Index a gallery of person images, search it, serve a search page.")

_SHOWN = 10  # unreadable images that are listed
_COLUMNS = ["rank", "score", "identity", "clothing", "image", "metadata"]  # of the table of hits


IndexFolder = Annotated[Path, typer.Option(help="Folder of the index.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Device = Annotated[str | None, typer.Option(help="Device of the model: cpu, cuda, ...", show_default="the best")]
Model = Annotated[str | None, typer.Option(help="The model, if it was moved since the index was built.")]


@app.command()
def index(
    model: Annotated[str, typer.Option(help="A trained model: folder or Hub name.")],
    images: Annotated[
        str,
        typer.Option(
            help="A folder of person crops, with an optional metadata.csv, .jsonl or .parquet; or the name of a data "
            "set (`synthetic`, `rstpreid`, `hub:OWNER/NAME`, ...)."
        ),
    ],
    index: Annotated[Path, typer.Option(help="Folder of the index; an existing index is updated.")],
    data_dir: Annotated[Path | None, typer.Option(help="Folder of a data set given by name.")] = None,
    split: Annotated[str, typer.Option(help="Split of a data set given by name.")] = "test",
    descriptions: Annotated[
        str | None,
        typer.Option(
            help="Fuses each image with its description: a file of `bdam describe`, or `own` for a data set's."
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            help="Pattern of files and folders to pass over, such as '*_mask.png' or 'old/*'; can be repeated. Hidden "
            "and system folders are always passed over."
        ),
    ] = None,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Follow symbolic links that lead out of the folder.")
    ] = False,
    moved_from: Annotated[
        Path | None,
        typer.Option(
            help="Former folder of the images: their rows keep their vectors. Only needed for an index of an earlier "
            "version, or to skip the comparison of the contents."
        ),
    ] = None,
    add: Annotated[
        bool, typer.Option("--add", help="Keep the other images of the index: adds a second folder to it.")
    ] = False,
    allow_removals: Annotated[
        bool,
        typer.Option(
            "--allow-removals", help="Allow to remove more than a fifth of the images, or those of another folder."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only report which images would be embedded and removed.")
    ] = False,
    time_zone: Annotated[
        str | None,
        typer.Option(
            help="Zone in which times with an offset are shown and compared, such as Europe/Berlin.",
            show_default="that of the index, or UTC",
        ),
    ] = None,
    index_type: Annotated[
        Literal["exact", "hnsw", "int8"] | None,
        typer.Option(
            help="exact: scans all vectors; hnsw: graph search, faster; int8: a quarter of the memory.",
            show_default="exact up to a million images, then hnsw",
        ),
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="Milvus cluster for the vectors, http://HOST:19530; its token is $MILVUS_TOKEN.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 64,
    workers: Annotated[int | None, typer.Option(min=1, help="Decoding threads.", show_default="one per core")] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Embeds a folder of person images, or a data set, for `bdam search`.

    Updates are incremental: only images with new contents are embedded, deleted images are removed, and an interrupted
    run resumes. `torchrun --nproc_per_node N -m data_pipeline.commands.main index ...` divides the images among
    processes.
    """
    with _errors():
        _quiet()
        from ..search.index.indexing import build_index

        is_folder = _is_folder(images)
        files: dict[str, Any] = {"exclude": exclude or (), "follow_links": follow_links}
        report = build_index(
            index,
            Path(images).expanduser() if is_folder else _dataset(images, data_dir, split, descriptions, files),
            model,
            descriptions=descriptions if is_folder else None,
            fuse_descriptions=descriptions is not None,
            **(files if is_folder else {}),
            moved_from=moved_from,
            add=add,
            allow_removals=allow_removals,
            dry_run=dry_run,
            time_zone=time_zone,
            index_type=index_type,
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
    sentence: Annotated[str | None, typer.Argument(help="Description of the person.")] = None,
    image: Annotated[Path | None, typer.Option(help="Search by a picture of one person instead.")] = None,
    top_k: Annotated[int, typer.Option(help="Number of hits.")] = 20,
    clothing_weight: Annotated[
        float | None,
        typer.Option(help="Clothing weight β; 0 if the clothes may have changed.", show_default="the model's"),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            help='SQL filter over the metadata columns of the index, such as "camera_id == 3" for a data set or '
            "\"camera == 3 and time > '2026-05-01'\" for such a metadata.csv; if it is repeated, all must hold."
        ),
    ] = None,
    rerank: Annotated[
        int, typer.Option(help="Order the first K images again by the model's matching head; only for a sentence.")
    ] = 0,
    same_person: Annotated[bool, typer.Option("--same-person", help="Group the hits by person_id.")] = False,
    sheet: Annotated[Path | None, typer.Option(help="Draw the hits to this .png.")] = None,
    export: Annotated[
        Path | None, typer.Option(help="Write the hits and the facts of the search to this .zip.")
    ] = None,
    model: Model = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Finds the images that match a sentence or a picture."""
    with _errors():
        from ..search.gallery import PersonGallery

        if (sentence is None) == (image is None):
            raise ValueError("give a sentence, or a picture with --image, and not both")
        for path, suffix in ((sheet, ".png"), (export, ".zip")):
            _check_output(path, suffix)
        _quiet()
        with PersonGallery.open(index, model, device) as gallery:
            search = (top_k, clothing_weight, where)
            if sentence is not None:
                hits, notes = gallery.search_text(sentence, *search, rerank), gallery.remarks(sentence)
            elif rerank:
                raise ValueError("--rerank needs a sentence: a picture has no text to match")
            else:
                assert image is not None
                hits, notes = gallery.search_image(image, *search), gallery.picture_remarks(image)
            notes += _notes_on_hits(gallery, hits, top_k, where)
            for note in notes:
                typer.echo(f"note: {note}", err=True)
            query = sentence if image is None else image
            if sheet is not None:
                from ..sheets.hits_sheet import hits_sheet

                hits_sheet(hits, sheet, query if isinstance(query, str) else f"like {image}")
            if export is not None:
                from ..search.hits_export import export_hits

                export_hits(hits, gallery.record(query or "", where, clothing_weight, top_k), export)
        _print_hits(hits, same_person, as_json)


@app.command()
def demo(
    index: IndexFolder,
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port of the page; 0 for a free one.")] = 7860,
    auth: Annotated[
        str | None, typer.Option(help="Require the login USER:PASSWORD.", envvar="BDAM_DEMO_AUTH", show_envvar=True)
    ] = None,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Accept connections from other machines; requires --auth.")
    ] = False,
    model: Model = None,
    device: Device = None,
) -> None:
    """Serves a search page for an index, on loopback only by default."""
    with _errors():
        _quiet()
        from ..search.demo.server import serve_demo
        from ..search.gallery import PersonGallery

        user, colon, password = (auth or "").partition(":")
        if auth is not None and not (user and colon and password):
            raise ValueError("--auth must be USER:PASSWORD")
        with (
            PersonGallery.open(index, model, device) as gallery,
            serve_demo(gallery, port, None if auth is None else (user, password), allow_remote) as address,
        ):
            typer.echo(f"{index}: {len(gallery)} images at {address} (Ctrl-C ends)")
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # uploads are deleted on SIGTERM as well
            with suppress(KeyboardInterrupt):
                threading.Event().wait()


@contextmanager
def _errors() -> Iterator[None]:
    """Prints errors of input and files, and a missing extra, as one line."""
    with one_line_errors():
        try:
            yield
        except ModuleNotFoundError as error:
            extra = {"faiss": "search", "duckdb": "search", "gradio": "demo"}.get(error.name or "")
            if extra is None:
                raise
            raise ValueError(f"{error.name} is not installed: {install_command(extra)}") from None


def _quiet() -> None:
    """Disables the progress bars and warnings of transformers; a search of a sentence does not import it."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if "transformers" in sys.modules:  # it reads the variables when it is imported
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()


def _is_folder(images: str) -> bool:
    """Whether `--images` is a folder, and not the name of a data set."""
    if Path(images).expanduser().exists() or images.startswith((".", "~", "/", "\\")):
        return True
    return ("/" in images or "\\" in images) and not images.startswith("hub:")


def _check_output(path: Path | None, suffix: str) -> None:
    """Raises `ValueError` before the search if its result could not be written."""
    if path is None:
        return
    if path.suffix.lower() != suffix:
        what = "sheet" if suffix == ".png" else "export"
        raise ValueError(f"the {what} is written as {suffix}, got {path.name}")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}; create it first")


def _notes_on_hits(gallery: "PersonGallery", hits: "list[PersonHit]", top_k: int, where: list[str] | None) -> list[str]:
    notes = []
    if len(hits) < top_k:
        within = f" within {' and '.join(where)!r}" if where else ""
        distinct = "different images" if any(hit.copies for hit in hits) else "images"
        notes.append(f"asked for {top_k} images; there are {len(hits)} {distinct}{within}")
    if gallery.has_zones:
        notes.append(f"times with an offset are shown and compared in the zone {gallery.time_zone}")
    return notes


def _dataset(
    name: str, data_dir: Path | None, split: str, descriptions: str | None, files: dict[str, Any]
) -> "Dataset":
    """Loads a split of a data set given by name; missing images are left out with a note."""
    from datasets import disable_progress_bars

    from ..benchmarks.loading import load_person_dataset

    disable_progress_bars()
    file = None if descriptions == "own" else descriptions
    options = {"descriptions": file, "check_images": False, **files}  # indexing checks the images
    try:
        splits = load_person_dataset(name, data_dir, **options)
    except ValueError as error:
        if not str(error).startswith("unknown data set"):
            raise
        raise ValueError(f"{name}: there is no such folder, and no data set of this name: {error}") from None
    except FileNotFoundError:  # images may be missing; index the others
        splits = load_person_dataset(name, data_dir, skip_unreadable=True, **options)
    if split not in splits:
        raise ValueError(f"{name} has no split {split!r}; it has {', '.join(splits)}")
    return splits[split]


def _print_report(index: Path, report: "IndexReport", as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"index": str(index), **asdict(report)}, indent=1, ensure_ascii=False))
        return
    lines = [f"note: {note}" for note in report.notes]
    if report.unreadable:
        lines.append(f"note: {len(report.unreadable)} images cannot be read and were skipped:")
        lines += [f"  {path}: {reason}" for path, reason in report.unreadable[:_SHOWN]]
        if len(report.unreadable) > _SHOWN:
            lines.append(f"  and {len(report.unreadable) - _SHOWN} more (--json lists all)")
    if report.shapes:
        shapes = ", ".join(f"{count} {name}" for name, count in report.shapes.items())
        lines.append(
            f"note: the index has {shapes}; a gallery should contain crops of one person each: crop the people from "
            "whole frames with a person detector"
        )
    for line in lines:
        typer.echo(line, err=True)
    kept = report.images - report.embedded
    if report.is_planned:
        typer.echo(
            f"{index}: a run would index {report.images} images ({report.embedded} to embed, {kept} to keep, "
            f"{report.removed} to remove), {report.index_type} search; nothing was written"
        )
        for path in report.lost[:_SHOWN]:
            typer.echo(f"  would lose {path}")
        if len(report.lost) > _SHOWN:
            typer.echo(f"  and {len(report.lost) - _SHOWN} more (--json lists all)")
        return
    typer.echo(
        f"{index}: {report.images} images ({report.embedded} embedded, {kept} kept, {report.removed} removed), "
        f"{report.index_type} search"
    )


def _print_hits(hits: "list[PersonHit]", same_person: bool, as_json: bool) -> None:
    from ..search.hits import group_by_person

    groups = group_by_person(hits) if same_person else []
    if as_json:
        entries = {
            hit.row: {"rank": rank, **asdict(hit), "path": str(hit.path)} for rank, hit in enumerate(hits, start=1)
        }
        found: list[dict[str, Any]] = list(entries.values())
        if same_person:
            found = [{"person_id": group.person_id, "hits": [entries[h.row] for h in group.hits]} for group in groups]
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False, default=str))
        return
    ranks = {hit.row: rank for rank, hit in enumerate(hits, start=1)}
    sections = [group.hits for group in groups] if same_person else [hits]
    rows = [[_cells(ranks[hit.row], hit) for hit in section] for section in sections]
    if not sys.stdout.isatty():  # a file or a pipe: whole values, for other programs
        for cells in [_COLUMNS, *(cells for section in rows for cells in section)]:
            typer.echo("\t".join(cells))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*_COLUMNS[:4])
    for name in _COLUMNS[4:]:
        table.add_column(name, overflow="fold")
    for section in rows:
        for cells in section:
            table.add_row(*map(Text, cells))  # Text() prevents rich from parsing names and captions as markup
        table.add_section()
    Console().print(table)


def _cells(rank: int, hit: "PersonHit") -> list[str]:
    """Returns the cells of a row of the table of hits, without tabs and line breaks."""
    scores = (f"{value:.3f}" for value in (hit.score, hit.identity_score, hit.clothing_score))
    values = [f"{name} {value}" for name, value in hit.metadata.items() if value not in (None, -1)]
    if hit.copies:
        values.append(f"{1 + len(hit.copies)} equal files")
    return [" ".join(cell.split()) for cell in (str(rank), *scores, str(hit.path), ", ".join(values))]
