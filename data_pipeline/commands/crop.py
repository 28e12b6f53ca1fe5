"""`bdam crop`: crop the people in videos and whole frames."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from .gallery_options import Device, gallery_errors, quiet_transformers

app = typer.Typer()

Detector = Annotated[
    str, typer.Option(help="An object-detection model of transformers: folder or Hub name, such as hustvl/yolos-small.")
]


@app.command()
def crop(
    images: Annotated[Path, typer.Argument(help="A video, an image, or a folder of videos and images.")],
    detector: Detector,
    output: Annotated[Path, typer.Option(help="Folder of the crops; `bdam index --images` reads it.")],
    person_label: Annotated[str, typer.Option(help="The model's label for people.")] = "person",
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Score from which a box is a person.")] = 0.5,
    min_height: Annotated[int, typer.Option(min=1, help="Smallest height of a person in pixels.")] = 64,
    per_second: Annotated[float, typer.Option(help="Frames of a video that are searched, per second.")] = 5.0,
    crops_per_track: Annotated[int, typer.Option(min=1, help="Crops of one walk past a camera.")] = 3,
    camera: Annotated[
        str | None, typer.Option(help="Value of `camera_id`.", show_default="the folder of each file")
    ] = None,
    start_time: Annotated[
        str | None,
        typer.Option(
            help="Time of the first frame, such as 2026-05-02T10:00:00+02:00; for one video.",
            show_default="the creation time in the file",
        ),
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Pattern of files and folders to pass over.")] = None,
    allow_removals: Annotated[
        bool,
        typer.Option("--allow-removals", help="Delete the crops of more than a fifth of the files: they are gone."),
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Frames per forward pass.")] = 8,
    device: Device = None,
) -> None:
    """Crops the people in videos and images, with source, frame, time, camera, box and track as metadata.

    Run it again after changes: unchanged files are not read again, and an interrupted run resumes.
    """
    with gallery_errors():
        quiet_transformers()
        from ..detection.crops import CropOptions, crop_people
        from ..detection.detector import PersonDetector

        options = CropOptions(per_second, crops_per_track, camera, _time(start_time))
        loaded = PersonDetector.load(detector, device, label=person_label, threshold=threshold, min_height=min_height)
        report = crop_people(
            images,
            loaded,
            output,
            options,
            exclude=exclude or (),
            allow_removals=allow_removals,
            batch_size=batch_size,
        )
    for note in report.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(
        f"{output}: {report.crops} crops, {report.tracks} tracks, {report.sources} sources ({report.read} read, "
        f"{report.sources - report.read} unchanged)"
    )


def _time(text: str | None) -> datetime | None:
    try:
        return None if text is None else datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise ValueError(f"--start-time {text}: no time; give one such as 2026-05-02T10:00:00+02:00") from None
