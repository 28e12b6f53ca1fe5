"""`bdam data`: inspects, converts and pushes data sets."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import one_line_errors

if TYPE_CHECKING:
    from datasets import DatasetDict

    from ..benchmarks.inspection import BadImage, SplitInspection, Spread

app = typer.Typer(no_args_is_help=True, help="Inspect, convert and push data sets.")

LISTED = 10  # largest number of unreadable images in the output
SHEET_IMAGES, SHEET_COLUMNS = 24, 8

Name = Annotated[str, typer.Argument(help="A data set, see `bdam data list`.")]
DataDir = Annotated[Path | None, typer.Option(help="The folder of the data set.")]
Descriptions = Annotated[Path | None, typer.Option(help="A JSON Lines file of descriptions.")]
Outfits = Annotated[Path | None, typer.Option(help="A JSON file {file_path: outfit}.")]
SplitFile = Annotated[Path | None, typer.Option(help="A JSON file {split: person ids}.")]
SkipUnreadable = Annotated[
    bool, typer.Option("--skip-unreadable", help="Leave out images that are missing or cannot be read.")
]
Exclude = Annotated[
    list[str] | None, typer.Option(help="Pattern of files and folders to leave out, such as 'old/*'; can be repeated.")
]
FollowLinks = Annotated[bool, typer.Option("--follow-links", help="Follow symbolic links out of the image folder.")]
CacheDir = Annotated[str | None, typer.Option(help="Folder of the cache.", show_default="the cache of `datasets`")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command()
def inspect(
    name: Name,
    data_dir: DataDir = None,
    descriptions: Descriptions = None,
    outfits: Outfits = None,
    split_file: SplitFile = None,
    skip_unreadable: SkipUnreadable = False,
    exclude: Exclude = None,
    follow_links: FollowLinks = False,
    sheet: Annotated[Path | None, typer.Option(help="Draw some images with their captions to this PNG.")] = None,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
) -> None:
    """Counts people, images, captions and descriptions of each split, and decodes every image.

    The exit status is 1 if images are missing or cannot be read, unless --skip-unreadable leaves them out.
    """
    import json

    from rich.console import Console

    with one_line_errors():
        from ..benchmarks.inspection import inspect_splits, left_out_images, loader_notes
        from ..benchmarks.loading import load_person_dataset

        options: dict[str, Any] = {"descriptions": descriptions, "outfits": outfits, "split_file": split_file}
        options |= {"check_images": False, "exclude": exclude or (), "follow_links": follow_links}
        options["cache_dir"] = cache_dir
        with loader_notes() as notes:
            try:
                splits = load_person_dataset(name, data_dir, skip_unreadable=skip_unreadable, **options)
            except FileNotFoundError:  # images may be missing; inspect the others
                splits = load_person_dataset(name, data_dir, skip_unreadable=True, **options)
        found, unreadable = inspect_splits(splits, progress=Console(stderr=True).is_terminal)
        unreadable += left_out_images(splits)
        if sheet is not None:
            _draw(splits, sheet)
    if as_json:
        document = {
            "name": name,
            "splits": {split: asdict(inspection) for split, inspection in found.items()},
            "unreadable": [asdict(image) for image in unreadable],
            "notes": notes,
        }
        typer.echo(json.dumps(document, indent=1, ensure_ascii=False))
    else:
        _print(name, found, unreadable, notes)
        if sheet is not None:
            typer.echo(f"contact sheet: {sheet}")
    if unreadable and not skip_unreadable:
        raise typer.Exit(1)


@app.command("list")
def list_data_sets(as_json: AsJson = False) -> None:
    """Lists the data sets with their source and the layout of their folder."""
    import json

    from ..benchmarks.loading import BENCHMARKS, OTHER_SETS

    fields = ("title", "origin", "layout")
    known = {name: {field: getattr(benchmark, field) for field in fields} for name, benchmark in BENCHMARKS.items()}
    known |= OTHER_SETS
    if as_json:
        typer.echo(json.dumps(known, indent=1, ensure_ascii=False))
        return
    for name, entry in known.items():
        typer.echo(f"{name}: {entry['title']}, from {entry['origin']}\n    its folder contains {entry['layout']}")


@app.command()
def convert(
    name: Name,
    to_parquet: Annotated[Path, typer.Option(help="A new folder, for `load_dataset` and the name `parquet`.")],
    data_dir: DataDir = None,
    descriptions: Descriptions = None,
    outfits: Outfits = None,
    split_file: SplitFile = None,
    skip_unreadable: SkipUnreadable = False,
    exclude: Exclude = None,
    follow_links: FollowLinks = False,
    cache_dir: CacheDir = None,
) -> None:
    """Writes a data set as Parquet files, with images, captions and descriptions, and its card."""
    with one_line_errors():
        from ..benchmarks.loading import load_person_dataset
        from ..benchmarks.parquet import save_parquet
        from ..hub import dataset_card

        files: dict[str, Any] = {"descriptions": descriptions, "outfits": outfits, "split_file": split_file}
        files |= {"exclude": exclude or (), "follow_links": follow_links}
        splits = load_person_dataset(name, data_dir, **files, skip_unreadable=skip_unreadable, cache_dir=cache_dir)
        save_parquet(splits, to_parquet, card=dataset_card(splits, f"OWNER/{to_parquet.name}", name, {}))
    images = ", ".join(f"{len(split)} {split_name}" for split_name, split in splits.items())
    typer.echo(f"{to_parquet}: {images} images; load them as `parquet` with --data-dir {to_parquet}")


@app.command()
def push(
    name: Name,
    repo_id: Annotated[str, typer.Argument(help="OWNER/NAME on the Hub; created if it does not exist.")],
    data_dir: DataDir = None,
    descriptions: Descriptions = None,
    outfits: Outfits = None,
    split_file: SplitFile = None,
    skip_unreadable: SkipUnreadable = False,
    exclude: Exclude = None,
    follow_links: FollowLinks = False,
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository public. Most licenses forbid redistribution.")
    ] = False,
    cache_dir: CacheDir = None,
) -> None:
    """Pushes a data set to the Hub, with images, captions and descriptions, and its card."""
    with one_line_errors():
        from ..benchmarks.loading import load_person_dataset
        from ..hub import push_person_dataset

        files: dict[str, Any] = {"descriptions": descriptions, "outfits": outfits, "split_file": split_file}
        files |= {"exclude": exclude or (), "follow_links": follow_links}
        splits = load_person_dataset(name, data_dir, **files, skip_unreadable=skip_unreadable, cache_dir=cache_dir)
        push_person_dataset(splits, repo_id, name, private=not public)
    typer.echo(f"{repo_id}: pushed; load it as hub:{repo_id}")


def _draw(splits: "DatasetDict", file: Path) -> None:
    """Draws evenly spaced rows of the first split that is not empty."""
    from ..sheets.contact_sheet import contact_sheet

    split = next(split for split in splits.values() if len(split))
    count = min(len(split), SHEET_IMAGES)
    chosen = split.select([position * len(split) // count for position in range(count)])
    contact_sheet(chosen, file, rows=-(-count // SHEET_COLUMNS), columns=SHEET_COLUMNS)


def _print(name: str, found: "dict[str, SplitInspection]", unreadable: "list[BadImage]", notes: list[str]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    table = Table("", *found, title=name, caption="a … b … c: minimum, median and maximum")
    for column in table.columns[1:]:
        column.justify = "right"
    rows = [_cells(inspection) for inspection in found.values()]
    for label in rows[0]:
        table.add_row(label, *(cells[label] for cells in rows))
    console.print(table)
    for note in notes:
        console.print(f"[yellow]note:[/] {escape(note)}", soft_wrap=True)
    if not unreadable:
        console.print("every image can be read")
        return
    console.print(f"[red]{len(unreadable)} images cannot be read[/], a run leaves them out with --skip-unreadable:")
    for image in unreadable[:LISTED]:
        console.print(f"  {escape(image.file)}: {escape(image.reason)}", soft_wrap=True)
    if len(unreadable) > LISTED:
        console.print(f"  … {len(unreadable) - LISTED} more; --json lists them all")


def _cells(split: "SplitInspection") -> dict[str, str]:
    """Returns the cells of a split's column, by row label."""

    def share(count: int) -> str:
        return f"{count} ({count / split.images:.1%})"

    def known(count: int, images_without: int) -> str:
        return "unknown" if not count else f"{count}, {images_without} images without" if images_without else str(count)

    return {
        "people": str(split.ids),
        "images": str(split.images),
        "images per person": _spread(split.images_a_person),
        "captions": str(split.captions),
        "images with captions": share(split.captioned_images),
        "words per caption": _spread(split.words),
        "width": _spread(split.width),
        "height": _spread(split.height),
        "cameras": known(split.cameras, split.without_camera),
        "outfits of people": known(split.outfits, split.without_outfit),
        "captions of several people": str(split.shared_captions),
        "images with a shared caption": share(split.images_with_shared_captions),
        "images with descriptions": share(split.described_images),
        "images with styled captions": share(split.styled_images),
        "unreadable images": str(split.unreadable),
    }


def _spread(spread: "Spread | None") -> str:
    if spread is None:
        return "-"
    if spread.smallest == spread.largest:
        return f"{spread.median:g}"
    return f"{spread.smallest:g} … {spread.median:g} … {spread.largest:g}"
