"""`bdam index`: embed a gallery of person images."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .gallery_options import AsJson, Device, gallery_errors, quiet_transformers

if TYPE_CHECKING:
    from datasets import Dataset

    from ..search import IndexReport
    from ..search.index.sources import GallerySource

app = typer.Typer()

_SHOWN = 10  # unreadable images that are listed


@app.command()
def index(
    model: Annotated[str, typer.Option(help="A trained model: folder or Hub name.")],
    images: Annotated[
        str,
        typer.Option(
            help="A folder of person crops, with an optional metadata.csv, .jsonl or .parquet; the name of a data set "
            "(`synthetic`, `rstpreid`, `hub:OWNER/NAME`, ...); or, with --detector, videos and whole frames."
        ),
    ],
    index: Annotated[Path, typer.Option(help="Folder of the index; an existing index is updated.")],
    detector: Annotated[
        str | None,
        typer.Option(
            help="Crops the people in videos and whole frames first, with this object-detection model, into the folder "
            "INDEX-crops; `bdam crop` has more options."
        ),
    ] = None,
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
    with_tokens: Annotated[
        bool | None,
        typer.Option(
            "--with-tokens/--without-tokens",
            help="Store the image tokens that the model's matching head reads, for `bdam search --rerank`.",
            show_default="that of the index",
        ),
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
    with gallery_errors():
        quiet_transformers()
        from ..search.index.indexing import build_index

        is_folder = _is_folder(images)
        files: dict[str, Any] = {"exclude": exclude or (), "follow_links": follow_links}
        source: Any = Path(images).expanduser()
        if detector is not None:
            if add or dry_run or int(os.environ.get("WORLD_SIZE", "1")) > 1:
                raise ValueError("--detector fits neither --add, --dry-run nor torchrun: run `bdam crop` first")
            from ..search.embedder import Embedder

            embedder = Embedder.load(model, device)  # a wrong model is an error before hours of cropping
            source = _crops(source, detector, index, descriptions, device, allow_removals, files)
        elif not is_folder:
            source = _dataset(images, data_dir, split, descriptions, files)
        else:
            _check_images(source)
        report = build_index(
            index,
            source,
            model if detector is None else embedder,
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
            with_tokens=with_tokens,
            batch_size=batch_size,
            workers=workers,
            device=device,
        )
    if os.environ.get("RANK", "0") == "0":
        _print_report(index, report if detector is None else replace(report, shapes={}), as_json)


def _crops(
    images: Path,
    detector: str,
    index: Path,
    descriptions: str | None,
    device: str | None,
    allow_removals: bool,
    files: dict[str, Any],
) -> "GallerySource":
    """Crops the people in videos and frames to a folder beside the index, and lists the crops."""
    from ..detection.crops import crop_people
    from ..detection.detector import PersonDetector
    from ..search.index.sources import images_in_folder

    output = index.with_name(f"{index.name}-crops")
    loaded = PersonDetector.load(detector, device)
    report = crop_people(images, loaded, output, allow_removals=allow_removals, **files)
    if not report.crops:
        reasons = "; ".join(["", *report.notes])
        raise ValueError(f"{images}: no person found by {detector} in {report.sources} videos and images{reasons}")
    source = images_in_folder(output, None if descriptions is None else Path(descriptions))
    source.notes[:] = [f"{report.crops} crops of {report.tracks} tracks are in {output}", *report.notes]
    return source


def _check_images(images: Path) -> None:
    """Raises `ValueError` for a video, or a folder that has only videos."""
    from ..detection.frames import is_video
    from ..images import readable_suffixes

    files = [images] if images.is_file() else images.rglob("*")
    found = False
    for file in files:  # ends at the first image
        if file.name.lower().endswith(readable_suffixes()):
            return
        found = found or is_video(file.name)
    if found:
        raise ValueError(f"{images}: videos and no images; add --detector MODEL, which crops the people in them")


def _is_folder(images: str) -> bool:
    """Whether `--images` is a folder, and not the name of a data set."""
    if Path(images).expanduser().exists() or images.startswith((".", "~", "/", "\\")):
        return True
    return ("/" in images or "\\" in images) and not images.startswith("hub:")


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
            f"note: the index has {shapes}; a gallery should contain crops of one person each: --detector MODEL crops "
            "the people from whole frames"
        )
    for line in lines:
        typer.echo(line, err=True)
    kept = report.images - report.embedded
    kind = f"{report.index_type} search"
    if report.token_bytes:
        size = report.token_bytes
        kind += f", {f'{size / 1e6:,.1f} MB' if size >= 1e6 else f'{size / 1e3:.0f} kB'} of image tokens"
    if report.is_planned:
        typer.echo(
            f"{index}: a run would index {report.images} images ({report.embedded} to embed, {kept} to keep, "
            f"{report.removed} to remove), {kind}; nothing was written"
        )
        for path in report.lost[:_SHOWN]:
            typer.echo(f"  would lose {path}")
        if len(report.lost) > _SHOWN:
            typer.echo(f"  and {len(report.lost) - _SHOWN} more (--json lists all)")
        return
    typer.echo(
        f"{index}: {report.images} images ({report.embedded} embedded, {kept} kept, {report.removed} removed), {kind}"
    )
