"""`bdam search`: find the images that match a sentence or a picture, or each query of a table."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .gallery_options import AsJson, Device, IndexFolder, Model, gallery_errors, quiet_transformers

if TYPE_CHECKING:
    from ..search import PersonGallery, PersonHit

app = typer.Typer()

_COLUMNS = ["rank", "likelihood", "score", "identity", "clothing", "image", "metadata"]  # of the table of hits


@app.command()
def search(
    index: IndexFolder,
    sentence: Annotated[str | None, typer.Argument(help="Description of the person.")] = None,
    image: Annotated[
        Path | None, typer.Option(help="Search by a picture of one person; with a sentence, by both.")
    ] = None,
    identity_from: Annotated[
        Literal["image", "text"],
        typer.Option(help="Source of the identity of a picture and a sentence; the other one is that of the clothes."),
    ] = "image",
    without: Annotated[str | None, typer.Option(help='Words that hits should not match, such as "a backpack".')] = None,
    include_self: Annotated[
        bool, typer.Option("--include-self", help="Show images with the content of the picture as well.")
    ] = False,
    queries: Annotated[
        Path | None,
        typer.Option(
            help="Search by each row of this .csv, .tsv, .jsonl or .parquet instead; its columns are `sentence`, "
            "`image` or both, and optionally `id`."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the hits of --queries to this .jsonl or .parquet; else JSON lines.")
    ] = None,
    top_k: Annotated[int, typer.Option(help="Number of hits.")] = 20,
    offset: Annotated[int, typer.Option(min=0, help="Leave out the best N hits, for paging.")] = 0,
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
    min_likelihood: Annotated[
        float | None, typer.Option(min=0, max=1, help="Leave out hits that are less likely, such as 0.5.")
    ] = None,
    rerank: Annotated[
        int,
        typer.Option(min=0, help="Order the first K images again by the model's matching head; needs a sentence."),
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
    """Finds the images that match a sentence, a picture, or a picture in the clothes of a sentence."""
    with gallery_errors():
        from ..search.composition import describe_query
        from ..search.gallery import PersonGallery
        from ..search.hits import absence_note, likely_hits

        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        quiet_transformers()
        if queries is not None:
            if sentence is not None or image is not None or same_person or sheet or export or as_json:
                raise ValueError("--queries excludes a sentence, --image and options for the hits of one query")
            if without is not None:
                raise ValueError("--queries excludes --without")
            search = (top_k, offset, clothing_weight, where, identity_from, include_self, rerank, min_likelihood)
            _search_table(index, queries, output, search, model, device)
            return
        if output is not None:
            raise ValueError("--output needs --queries; for one query there are --json and --export")
        if offset and (sheet is not None or export is not None):
            raise ValueError("a sheet and an export begin with the best hit: leave out --offset")
        if sentence is None and image is None:
            raise ValueError("give a sentence, a picture with --image, or both")
        for path, suffix in ((sheet, ".png"), (export, ".zip")):
            _check_output(path, suffix)
        with PersonGallery.open(index, model, device) as gallery:
            wanted = max(top_k + offset, rerank)  # the likely ones of these are shown
            options: dict[str, Any] = {"identity_from": identity_from, "without": without}
            options |= {"include_self": include_self, "rerank": rerank}
            hits = gallery.search_composed(image, sentence, wanted, clothing_weight, where, **options)
            notes = [] if image is None else gallery.picture_remarks(image)
            notes += [] if sentence is None else gallery.remarks(sentence)
            notes += _notes_on_hits(gallery, hits, top_k + offset, where)
            for note in notes:
                typer.echo(f"note: {note}", err=True)
            if note := absence_note(hits):
                typer.echo(note, err=True)
            hits = likely_hits(hits, min_likelihood)[: top_k + offset]
            title = describe_query(image, sentence, identity_from, without)
            if sheet is not None:
                from ..sheets.hits_sheet import hits_sheet

                hits_sheet(hits, sheet, title if image is None else f"like {title}")
            if export is not None:
                from ..search.hits_export import export_hits

                record = gallery.record(image or title, where, clothing_weight, top_k, title)
                export_hits(hits, replace(record, rerank=rerank), export)
        _print_hits(hits[offset:], same_person, as_json, offset + 1)


def _search_table(
    index: Path,
    queries: Path,
    output: Path | None,
    search: tuple[int, int, float | None, list[str] | None, Literal["image", "text"], bool, int, float | None],
    model: str | None,
    device: str | None,
) -> None:
    """Searches by each row of a table; `search` are the arguments of `search_queries`."""
    from ..search.gallery import PersonGallery
    from ..search.query_file import check_output, read_queries, search_queries, write_results

    if output is not None:
        check_output(output)
    with PersonGallery.open(index, model, device) as gallery:
        notes: list[str] = []
        rows = read_queries(queries, gallery.embedder, notes)
        for note in notes:
            typer.echo(f"note: {note}", err=True)
        write_results(search_queries(gallery, rows, *search), output, offset=search[1])
    if output is not None:
        typer.echo(f"{output}: the hits of {len(rows)} queries")


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


def _print_hits(hits: "list[PersonHit]", same_person: bool, as_json: bool, first_rank: int) -> None:
    from ..search.hits import group_by_person, hit_entry

    groups = group_by_person(hits) if same_person else []
    if as_json:
        entries = {hit.row: hit_entry(rank, hit) for rank, hit in enumerate(hits, first_rank)}
        found: list[dict[str, Any]] = list(entries.values())
        if same_person:
            found = [{"person_id": group.person_id, "hits": [entries[h.row] for h in group.hits]} for group in groups]
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False, default=str))
        return
    ranks = {hit.row: rank for rank, hit in enumerate(hits, first_rank)}
    sections = [group.hits for group in groups] if same_person else [hits]
    rows = [[_cells(ranks[hit.row], hit) for hit in section] for section in sections]
    columns = [name for name in _COLUMNS if name != "likelihood" or any(hit.likelihood is not None for hit in hits)]
    if not sys.stdout.isatty():  # a file or a pipe: whole values, for other programs
        for cells in [dict(zip(columns, columns, strict=True)), *(cells for section in rows for cells in section)]:
            typer.echo("\t".join(cells[name] for name in columns))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for name in columns:
        table.add_column(name, overflow="fold" if name in ("image", "metadata") else "ellipsis")
    for section in rows:
        for cells in section:
            table.add_row(
                *(Text(cells[name]) for name in columns)
            )  # Text() prevents rich from parsing names and captions as markup
        table.add_section()
    Console().print(table)


def _cells(rank: int, hit: "PersonHit") -> dict[str, str]:
    """Returns the cells of a row of the table of hits by column, without tabs and line breaks."""
    from ..search.hits import likelihood_in_words

    likelihood = "" if hit.likelihood is None else likelihood_in_words(hit.likelihood)
    scores = (f"{value:.3f}" for value in (hit.score, hit.identity_score, hit.clothing_score))
    values = [f"{name} {value}" for name, value in hit.metadata.items() if value not in (None, -1)]
    if hit.copies:
        values.append(f"{1 + len(hit.copies)} equal files")
    cells = (str(rank), likelihood, *scores, str(hit.path), ", ".join(values))
    return {name: " ".join(cell.split()) for name, cell in zip(_COLUMNS, cells, strict=True)}
