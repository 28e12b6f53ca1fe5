"""A page of hits, best first, to look at or to hand on."""

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..images import open_image
from ..search.gallery import PersonHit

_COLUMNS = 10
_WIDTH, _HEIGHT = 120, 240  # of an image's cell, pixels
_GAP, _LINE, _TITLE_LINE = 12, 16, 24
_QUIET, _FRAME = "#6b7280", "#d1d5db"


def hits_sheet(hits: Sequence[PersonHit], path: str | Path, title: str) -> Path:
    """Draws hits in rows of ten: rank and score above each image, the score's two parts and who it is below.

    Args:
        path: the `.png` to write; it appears complete or not at all.
        title: what was searched for.

    Raises:
        ValueError: there are no hits, or the name does not end in .png.
        OSError: an image is gone, or the sheet cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"the sheet is written as .png, got {path.name}")
    if not hits:
        raise ValueError("there are no hits to draw")
    columns = min(_COLUMNS, len(hits))
    width = max(640, columns * (_WIDTH + _GAP) + _GAP)
    lines = textwrap.wrap(title, width // 10, max_lines=4, placeholder=" …")
    top = _GAP + len(lines) * _TITLE_LINE + _GAP
    cell_height = _HEIGHT + 3 * _LINE + _GAP
    sheet = Image.new("RGB", (width, top + -(-len(hits) // columns) * cell_height + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    draw.multiline_text((_GAP, _GAP), "\n".join(lines), fill="black", font=ImageFont.load_default(18), spacing=4)
    font, small = ImageFont.load_default(13), ImageFont.load_default(11)
    for place, hit in enumerate(hits):
        left = _GAP + place % columns * (_WIDTH + _GAP)
        upper = top + place // columns * cell_height
        draw.text((left, upper), f"{place + 1}", fill=_QUIET, font=font)
        draw.text((left + _WIDTH, upper), f"{hit.score:.3f}", fill="black", font=font, anchor="ra")
        _paste(sheet, hit.path, left, upper + _LINE)
        draw.rectangle((left, upper + _LINE, left + _WIDTH - 1, upper + _LINE + _HEIGHT - 1), outline=_FRAME)
        below = upper + _LINE + _HEIGHT + 2
        parts = f"body {hit.identity_score:.2f}  clothes {hit.clothing_score:.2f}"
        draw.text((left, below), parts, fill=_QUIET, font=small)
        draw.text((left, below + _LINE), _who(hit), fill=_QUIET, font=small)

    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        sheet.save(unfinished, format="PNG")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _paste(sheet: Image.Image, file: Path, left: int, upper: int) -> None:
    """The whole image in its cell, unstretched."""
    image = open_image(file, (_WIDTH, _HEIGHT))
    scale = min(_WIDTH / image.width, _HEIGHT / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    image = image.resize(size, Image.Resampling.LANCZOS)
    sheet.paste(image, (left + (_WIDTH - image.width) // 2, upper + (_HEIGHT - image.height) // 2))


def _who(hit: PersonHit) -> str:
    person = hit.metadata.get("person_id")
    return f"person {person}" if person is not None and person != -1 else hit.name[-18:]
