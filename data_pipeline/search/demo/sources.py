"""The frame or the video that a hit was cropped from, and the route that serves the video."""

import hashlib
import math
import mimetypes
import os
import secrets
import threading
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from ...detection.frames import is_video, read_frame
from ...detection.source_files import source_file
from ...images import UnreadableImageError, open_image
from ..hits import PersonHit
from .pictures import small_picture

_AROUND = 3.0  # seconds of the video before and after the hit
_FRAME = (1280, 960)  # largest width and height, pixels
_CLIPS = 1000  # videos with an address
_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


@dataclass(frozen=True)
class Source:
    """The source of a hit for the detail view.

    Attributes:
        name: path of the video or image in the folder that was cropped.
        seconds: time of the frame in the video; None for an image.
        frame: `data:` URL of the frame with the box of the person, or None.
        clip: URL of the seconds of the video around the frame, or None.
        note: the reason why something is not shown, or "".
    """

    name: str
    seconds: float | None
    frame: str | None = None
    clip: str | None = None
    note: str = ""


class Sources:
    """Reads the sources of hits. A video has an address only after a hit of it was opened.

    An address has a random token and no path, so a visitor cannot name a file (path traversal), and needs no login of
    its own: only visitors who are logged in open hits.
    """

    def __init__(self) -> None:
        self.route = Route("/clip/{token}", self._serve)
        self._secret = secrets.token_bytes(32)
        self._clips: dict[str, tuple[Path, str]] = {}  # crop and source by token
        self._changing = threading.Lock()

    def of(self, hit: PersonHit) -> Source | None:
        """Returns the source of a hit; None for an image that is no crop of `bdam crop`."""
        name, given = hit.metadata.get("source"), hit.metadata.get("seconds")
        box = [hit.metadata.get(f"box_{side}") for side in "xywh"]
        seconds = float(given) if given is not None and _is_number(given) else None
        try:
            file = source_file(hit.path, name)
            if file is None or not all(map(_is_number, box)):
                return None
        except FileNotFoundError as error:
            return Source(str(name), seconds, note=str(error))
        x, y, width, height = map(float, box)  # type: ignore[arg-type]
        clip, frame, note = None, None, ""
        try:
            if is_video(file.name) and seconds is not None:
                start, end = max(0.0, seconds - _AROUND), seconds + _AROUND
                clip = f"clip/{self._token(hit.path, str(name))}#t={start:.2f},{end:.2f}"
                image = read_frame(file, seconds)
            else:
                image = open_image(file)
            frame = small_picture(with_box(image, x, y, x + width, y + height), _FRAME)
        except ModuleNotFoundError:
            note = "the frame of a video needs PyAV: pip install -e '.[video]'"
        except UnreadableImageError as error:
            note = str(error).replace(str(file), str(name))
        return Source(str(name), seconds, frame, clip, note)

    def _token(self, crop: Path, source: str) -> str:
        """Returns the token in the address of a video, the same one each time."""
        token = hashlib.sha256(self._secret + os.fsencode(f"{crop}\0{source}")).hexdigest()
        with self._changing:
            self._clips[token] = crop, source
            while len(self._clips) > _CLIPS:
                self._clips.pop(next(iter(self._clips)))
        return token

    def _serve(self, request: Request) -> Response:
        """Sends the video of a token, or a part of it (Range); the folder is checked again."""
        found = self._clips.get(request.path_params["token"])
        try:
            file = None if found is None else source_file(*found)
        except FileNotFoundError:
            file = None
        if file is None or not is_video(file.name):
            return PlainTextResponse("there is no such video", 404, _HEADERS)
        return FileResponse(file, media_type=mimetypes.guess_type(file.name)[0] or "video/mp4", headers=_HEADERS)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def with_box(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    """Draws a box that is visible on light and dark ground, on a copy that is shrunk to the size of the page."""
    drawn = image.copy()
    drawn.thumbnail(_FRAME)
    scale = drawn.width / image.width
    corners = [scale * side for side in (left, top, max(left, right), max(top, bottom))]
    draw = ImageDraw.Draw(drawn)
    width = max(1, round(max(drawn.size) / 200))  # pixels
    for color, margin in (("black", 2 * width), ("#facc15", width)):
        outer = (corners[0] - margin, corners[1] - margin, corners[2] + margin, corners[3] + margin)
        draw.rectangle(outer, outline=color, width=width if color != "black" else 3 * width)
    return drawn
