"""Reads frames: of video files with PyAV, a number of times per second."""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ..benchmarks.image_listing import list_images
from ..images import UnreadableImageError, readable_suffixes

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"),
    *(".wmv", ".asf", ".flv", ".3gp", ".ogv", ".h264", ".h265", ".dav"),
)
"""Suffixes of video files, in lower case."""
_SAME_FRAME = 0.001  # seconds; metadata has milliseconds
_EARLIEST = 1990  # year; cameras without a clock write 1904 or 1970
_CUT_SHORT = 2.0  # seconds between last frame and stated duration from which a video is reported as truncated


@dataclass(frozen=True)
class Frame:
    """An upright RGB frame, its number among all frames of the video, and the seconds since the first one."""

    image: Image.Image
    number: int
    seconds: float


class Video:
    """A video file. Its frames are decoded as a stream, so that memory does not grow with its length.

    Attributes:
        created: time of the first frame by the container, with its offset; known once frames are read.
        problem: after the last frame, the reason why frames are missing, or "".
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.created: datetime | None = None
        self.problem = ""

    def frames(self, per_second: float) -> Iterator[Frame]:
        """Yields at most `per_second` frames of each second.

        Damaged frames are left out, and a video that breaks in the middle ends there, with the reason in `problem`.
        """
        import av

        slot, start, seconds, duration, damaged = -1, None, -1.0, 0.0, 0
        try:
            with av.open(self.path, metadata_errors="replace") as container:
                if not container.streams.video:
                    self.problem = "no video stream"
                    return
                self.created, duration = _creation_time(container), _duration(container)
                for number, frame in enumerate(_decoded(container)):
                    if frame is None or frame.is_corrupt:
                        damaged += 1
                        continue
                    time = _seconds(frame, number)
                    start = time if start is None else start
                    seconds = time - start
                    if math.floor(seconds * per_second + 1e-6) != slot:
                        slot = math.floor(seconds * per_second + 1e-6)
                        yield Frame(_upright(frame), number, seconds)
        except av.FFmpegError as error:
            self.problem = str(error.strerror) + (f" after {seconds:.1f} s" if seconds >= 0 else "")
            return
        if damaged:
            self.problem = f"{damaged} frames are damaged and were left out"
        elif seconds < 0:
            self.problem = "no frame can be decoded"
        elif duration - seconds > _CUT_SHORT:
            self.problem = f"it ends after {seconds:.1f} of {duration:.1f} s; the file may be truncated"


def read_frame(path: Path, seconds: float) -> Image.Image:
    """Decodes the upright RGB frame at a number of seconds after the first frame of a video.

    Reading starts at the key frame before it; a file without an index, or that lands behind it, is read from the start.

    Raises:
        UnreadableImageError: there is no such frame, or the video cannot be decoded.
        ModuleNotFoundError: PyAV is not installed.
    """
    import av

    for is_sought in (True, False):
        with suppress(av.FFmpegError, StopIteration, IndexError), av.open(path, metadata_errors="replace") as container:
            stream, frames = container.streams.video[0], enumerate(_decoded(container))
            number, first = next((number, frame) for number, frame in frames if frame is not None)
            wanted = _seconds(first, number) + seconds - _SAME_FRAME
            if is_sought and first.time is not None and stream.time_base is not None:
                container.seek(int(wanted / stream.time_base), stream=stream)
                frames = enumerate(_decoded(container))
            elif seconds <= 0:
                return _upright(first)
            for number, frame in frames:
                if frame is not None and _seconds(frame, number) >= wanted:
                    if is_sought and _seconds(frame, number) > wanted + 2 * _SAME_FRAME:
                        break
                    return _upright(frame)
    raise UnreadableImageError(f"{path}: no frame at {seconds:.3f} s can be decoded")


def list_sources(
    images: Path, exclude: Sequence[str] = (), follow_links: bool = False
) -> tuple[Path, list[str], list[str]]:
    """Lists the videos and images of a folder, or one file.

    Returns the folder, the paths relative to it, and notes on files that are passed over. Raises `FileNotFoundError`
    if there are none.
    """
    known = VIDEO_SUFFIXES + readable_suffixes()
    if images.is_file():
        if not images.name.lower().endswith(known):
            raise ValueError(f"{images}: neither a video nor an image by its suffix; rename it, or convert it to .mp4")
        return images.resolve().parent, [images.name], []
    if not images.is_dir():
        raise FileNotFoundError(f"{images}: there is no such file or folder")
    listing = list_images(images, exclude, follow_links)
    paths = [path for path in listing.files if path.lower().endswith(known)]
    if not paths:
        raise FileNotFoundError(f"{images}: there are no videos and no images in it (.mp4, .mkv, .jpg, ...)")
    notes = listing.notes([path for path in paths if is_video(path)])
    if unnamed := [path for path in paths if path != path.encode("utf-8", "replace").decode()]:
        notes.append(f"{images}: {len(unnamed)} files are passed over, since their names are not UTF-8; rename them")
    return listing.root, [path for path in paths if path not in unnamed], notes


def is_video(path: str) -> bool:
    """Whether the suffix is that of a video file."""
    return path.lower().endswith(VIDEO_SUFFIXES)


def _decoded(container: "InputContainer") -> "Iterator[VideoFrame | None]":
    """Decodes the first video stream; None for a packet that cannot be decoded."""
    import av

    stream = container.streams.video[0]
    if not stream.codec_context.is_open:
        stream.thread_type = "AUTO"
    for packet in container.demux(stream):
        try:
            yield from stream.decode(packet)
        except av.InvalidDataError:
            yield None


def _seconds(frame: "VideoFrame", number: int) -> float:
    """Returns the time of a frame in the video; from its number in a raw stream, assuming 25 frames per second."""
    return number / 25 if frame.time is None else frame.time


def _upright(frame: "VideoFrame") -> Image.Image:
    """Converts a frame to RGB, rotated as its display matrix says (videos of phones)."""
    image = frame.to_image()
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image


def _duration(container: "InputContainer") -> float:
    """Returns the duration of the video in seconds by its container; 0 if it is unknown."""
    stream = container.streams.video[0]
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6


def _creation_time(container: "InputContainer") -> datetime | None:
    try:
        created = datetime.fromisoformat(container.metadata["creation_time"].replace("Z", "+00:00"))
    except (KeyError, ValueError):
        return None
    return created if created.year >= _EARLIEST else None
