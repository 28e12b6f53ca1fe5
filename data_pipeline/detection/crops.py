"""Writes crops of the people in videos and images, with a metadata file that `bdam index` reads."""

import hashlib
import json
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from modeling_bdam.files import atomic_folder, write_json_lines

from ..benchmarks.text_files import first_of
from ..descriptions.jsonl import JsonLinesFile, single_writer
from ..images import UnreadableImageError, open_image
from .detector import Boxes, PersonDetector
from .frames import Video, is_video, list_sources
from .source_files import record_root
from .tracks import LOW_SCORE, BestMoments, Tracker

FINISHED = ".sources.jsonl"  # one line for each finished source
METADATA = "metadata.jsonl"
_MARGIN = 0.05  # of width and height, at each side
_QUALITY = 92  # of JPEG
_LARGEST_LOSS = 0.2  # share of the sources

Row = dict[str, Any]


@dataclass(frozen=True)
class CropOptions:
    """How videos are read.

    Attributes:
        per_second: frames of a video that are searched, per second.
        crops_per_track: crops that are kept of one walk past a camera.
        camera: value of the column `camera_id`; by default the name of the folder of each source.
        start_time: time of the first frame; by default the creation time in the video file, if there is one.
    """

    per_second: float = 5.0
    crops_per_track: int = 3
    camera: str | None = None
    start_time: datetime | None = None

    def __post_init__(self) -> None:
        if self.per_second <= 0 or self.crops_per_track < 1:
            raise ValueError("frames per second must be above 0 and crops per track at least 1")


@dataclass(frozen=True)
class CropReport:
    """The outcome of a run: numbers of crops, tracks, sources and newly read sources, and notes for the user."""

    crops: int
    tracks: int
    sources: int
    read: int
    notes: list[str]


def crop_people(
    images: str | Path,
    detector: PersonDetector,
    output: str | Path,
    options: CropOptions | None = None,
    *,
    exclude: Sequence[str] = (),
    follow_links: bool = False,
    allow_removals: bool = False,
    batch_size: int = 8,
    show_progress: bool = True,
) -> CropReport:
    """Crops the people in a video, an image or a folder of them; `output` then mirrors the present sources.

    Each source has a folder of crops, which is replaced atomically. A source with the size, time and options of
    the last run is not read again, so an interrupted run resumes with the next source.

    Args:
        images: a video, an image, or a folder, in which all videos and images are sources.
        detector: the detector.
        output: folder of the crops and their metadata file.
        options: frames per second, crops per track, camera and start time.
        exclude: patterns of files and folders to pass over, see `list_images`.
        follow_links: follows symbolic links that lead out of the folder.
        allow_removals: allows to delete the crops of more than a fifth of the sources, because they are gone.
        batch_size: frames per forward pass.
        show_progress: whether to show a progress bar in a terminal.

    Raises:
        ValueError: most sources of the last run are gone, or the folder of the crops is inside that of the sources.
        OSError: files cannot be read or written, or another run writes to the folder.
        ModuleNotFoundError: there are videos, but PyAV is not installed.
    """
    options = options or CropOptions()
    output = Path(output)
    root, sources, notes = list_sources(Path(images).expanduser(), exclude, follow_links)
    if Path(images).is_dir() and output.resolve().is_relative_to(root):
        raise ValueError(f"{output}: the crops would be sources of the next run; choose a folder outside {root}")
    if output.is_dir() and any(output.iterdir()) and not (output / FINISHED).exists():
        raise ValueError(f"{output}: the folder contains other files; choose a new folder for the crops")
    if options.start_time is not None and len(sources) > 1:
        raise ValueError(f"--start-time is the time of one video, but {images} has {len(sources)} files; name one")
    if any(map(is_video, sources)):
        import av  # noqa: F401  # before hours of work on images

    settings = json.dumps([detector.identity, asdict(options)], default=str)
    digest = hashlib.sha256(settings.encode()).hexdigest()[:16]
    states = {path: _state(root / path, digest) for path in sources}
    with single_writer(output / FINISHED), JsonLinesFile(output / FINISHED) as file:
        record_root(output, root)
        finished = {record["source"]: record for _, record in file.lines()}
        _clean_up(output, finished, states, allow_removals, notes)
        pending = [path for path in sources if not _is_finished(output, finished.get(path), states[path])]
        cropper = _Cropper(root, output, detector, options, batch_size)
        is_shown = show_progress and pending
        with tqdm(total=len(pending), desc="cropping", unit="file", disable=None if is_shown else True) as bar:
            for record in cropper.records(pending):
                finished[record["source"]] = record | {"state": states[record["source"]]}
                file.append(finished[record["source"]])
                bar.update()
        records = [finished[path] for path in sources]
        rows = [row for record in records for row in record["rows"]]
        if rows:
            write_json_lines(output / METADATA, rows)
        else:
            (output / METADATA).unlink(missing_ok=True)
        file.replace(records)
    notes += [f"{record['source']}: {record['problem']}" for record in records if record["problem"]]
    tracks = {row["track_id"] for row in rows if "track_id" in row}
    return CropReport(len(rows), len(tracks), len(sources), len(pending), notes)


@dataclass(frozen=True)
class _Moment:
    """One person in one frame of a video, or in an image (without frame number and seconds)."""

    crop: Image.Image
    box: tuple[int, int, int, int]  # left, top, right, bottom
    score: float
    frame: int | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, image: Image.Image, box: Boxes, score: float, *place: Any) -> "_Moment":
        """Cuts the box out of a frame, with a margin, clipped to the frame."""
        x, y = _MARGIN * (box[2] - box[0]), _MARGIN * (box[3] - box[1])
        left, top, right, bottom = (box + np.array([-x, -y, x, y])).round().astype(int).tolist()
        crop = image.crop((max(0, left), max(0, top), min(image.width, right), min(image.height, bottom)))
        return cls(crop, tuple(box.round().astype(int).tolist()), float(score), *place)

    @property
    def quality(self) -> float:
        """Score times area of the box."""
        left, top, right, bottom = self.box
        return self.score * (right - left) * (bottom - top)


class _Cropper:
    """Reads sources and writes the folder of crops of each."""

    def __init__(
        self, root: Path, output: Path, detector: PersonDetector, options: CropOptions, batch_size: int
    ) -> None:
        self.root, self.output, self.detector, self.options = root, output, detector, options
        self.batch_size = batch_size

    def records(self, sources: Sequence[str]) -> Iterator[Row]:
        """Yields for each source, images first: its number of frames, the rows of its crops, and a problem or ""."""
        stills = [path for path in sources if not is_video(path)]
        for start in range(0, len(stills), self.batch_size):
            yield from self._stills(stills[start : start + self.batch_size])
        for path in filter(is_video, sources):
            yield self._video(path)

    def _stills(self, paths: Sequence[str]) -> Iterator[Row]:
        images = {}
        for path in paths:
            try:
                images[path] = open_image(self.root / path)
            except UnreadableImageError as error:
                yield _record(path, 0, [], str(error).removeprefix(f"{self.root / path}: "))
        found = self.detector.detect([*images.values()])
        for (path, image), (boxes, scores) in zip(images.items(), found, strict=True):
            with self._folder(path) as folder:
                rows = [
                    self._save(folder, f"{number:03d}", path, _Moment.of(image, box, score))
                    for number, (box, score) in enumerate(zip(boxes, scores, strict=True), start=1)
                ]
            yield _record(path, 1, rows, "")

    def _video(self, path: str) -> Row:
        """Follows the people in a video; the crops of a track are written when it ends."""
        video, threshold, per_second = Video(self.root / path), self.detector.threshold, self.options.per_second
        tracker = Tracker(threshold, patience=max(2.0, 2.0 / per_second))
        best: dict[int, BestMoments[_Moment]] = {}
        rows: list[Row] = []
        count = 0

        def save(folder: Path, numbers: Collection[int]) -> None:
            for number in sorted(numbers):
                for moment in best.pop(number).best():
                    name = f"{number:05d}-{moment.frame:07d}"
                    rows.append(self._save(folder, name, path, moment, video.created, f"{path}#{number}"))

        frames = video.frames(per_second)
        with self._folder(path) as folder:
            while batch := list(islice(frames, self.batch_size)):
                found = self.detector.detect([frame.image for frame in batch], min(LOW_SCORE, threshold))
                for frame, (boxes, scores) in zip(batch, found, strict=True):
                    numbers = tracker.update(frame.seconds, boxes, scores).tolist()
                    for number, box, score in zip(numbers, boxes, scores, strict=True):
                        if score >= threshold:
                            moment = _Moment.of(frame.image, box, score, frame.number, frame.seconds)
                            moments = best.setdefault(number, BestMoments(self.options.crops_per_track))
                            moments.offer(frame.seconds, moment.quality, moment)
                count += len(batch)
                save(folder, best.keys() - tracker.live)
            save(folder, best.keys())
        return _record(path, count, sorted(rows, key=lambda row: row["file_name"]), video.problem)

    def _save(
        self,
        folder: Path,
        name: str,
        source: str,
        moment: _Moment,
        created: datetime | None = None,
        track_id: str | None = None,
    ) -> Row:
        """Writes a crop and returns its row of the metadata file, without empty values."""
        moment.crop.save(folder / f"{name}.jpg", quality=_QUALITY)
        start = self.options.start_time or created
        time = None if start is None or moment.seconds is None else start + timedelta(seconds=moment.seconds)
        left, top, right, bottom = moment.box
        row = {
            "file_name": f"{source}/{name}.jpg",
            "source": source,
            "frame": moment.frame,
            "seconds": None if moment.seconds is None else round(moment.seconds, 3),
            "time": None if time is None else time.isoformat(timespec="milliseconds"),
            "camera_id": self.options.camera or (self.root / source).parent.name,
            "track_id": track_id,
            **{"box_x": left, "box_y": top, "box_w": right - left, "box_h": bottom - top},
            "score": round(moment.score, 3),
        }
        return {key: value for key, value in row.items() if value is not None}

    @contextmanager
    def _folder(self, source: str) -> Iterator[Path]:
        """Yields an empty folder that replaces the folder of crops of a source; without crops there is none."""
        target = self.output / source
        with atomic_folder(target) as draft:
            yield draft
            shutil.rmtree(target, ignore_errors=True)
        if not any(target.iterdir()):
            target.rmdir()


def _record(source: str, frames: int, rows: list[Row], problem: str) -> Row:
    return {"source": source, "frames": frames, "rows": rows, "problem": problem}


def _state(file: Path, digest: str) -> list[Any]:
    """Returns size, modification time and digest of the options; a source with an equal state is not read again."""
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, digest]


def _is_finished(output: Path, record: Row | None, state: list[Any]) -> bool:
    """Whether a source was read, is unchanged, and has all its crops."""
    if record is None or record["state"] != state or not record["frames"]:
        return False
    return all((output / row["file_name"]).is_file() for row in record["rows"])


def _clean_up(
    output: Path, finished: dict[str, Row], present: Collection[str], may_remove: bool, notes: list[str]
) -> None:
    """Deletes the crops of sources that are gone, and unfinished folders of a killed run."""
    gone = sorted(finished.keys() - present)
    if len(gone) > _LARGEST_LOSS * len(finished) and not may_remove:
        raise ValueError(
            f"{output}: this run would delete the crops of {len(gone)} of {len(finished)} sources, which are gone "
            f"({first_of(gone, 3)}); check the folder of the sources, choose another folder for the crops, or confirm "
            "with --allow-removals (allow_removals=True)"
        )
    if gone:
        notes.append(f"{len(gone)} sources are gone, so their crops are deleted: {first_of(gone, 3)}")
    for folder in [*(output / path for path in gone), *output.rglob(".*.part")]:
        shutil.rmtree(folder, ignore_errors=True)
