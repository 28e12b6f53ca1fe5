"""Hit sheet: the hits of a search as one image."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from modeling_bdam.files import atomic_path

from ..images import UnreadableImageError, open_image
from ..search.hits import PersonHit
from .contact_sheet import contained
from .sheet_text import font_for, wrap_text

_COLUMNS = 10
_WIDTH, _HEIGHT = 120, 240  # pixels of an image cell
_GAP, _LINE, _TITLE_LINE = 12, 16, 24
_QUIET, _FRAME = "#6b7280", "#d1d5db"


def hits_sheet(hits: Sequence[PersonHit], path: str | Path, title: str) -> Path:
    """Draws hits in rows of ten: rank and score above each image, its two partial scores and its person below.

    The cell of an unreadable image has the reason. The title is the query; `path` is a `.png`, written atomically.

    Raises:
        ValueError: there are no hits, or the name does not end in .png.
        OSError: the sheet cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"the sheet is written as .png, got {path.name}")
    if not hits:
        raise ValueError("there are no hits to draw")

    # Page size and title
    columns = min(_COLUMNS, len(hits))
    width = max(640, columns * (_WIDTH + _GAP) + _GAP)
    lines = wrap_text(title, width // 10, max_lines=4)
    top = _GAP + len(lines) * _TITLE_LINE + _GAP
    cell_height = _HEIGHT + 3 * _LINE + _GAP
    sheet = Image.new("RGB", (width, top + -(-len(hits) // columns) * cell_height + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    draw.multiline_text((_GAP, _GAP), "\n".join(lines), fill="black", font=_font(title, 18), spacing=4)

    # Hits
    font, small = ImageFont.load_default(13), ImageFont.load_default(11)
    for place, hit in enumerate(hits):
        left = _GAP + place % columns * (_WIDTH + _GAP)
        upper = top + place // columns * cell_height
        draw.text((left, upper), f"{place + 1}", fill=_QUIET, font=font)
        draw.text((left + _WIDTH, upper), f"{hit.score:.3f}", fill="black", font=font, anchor="ra")
        try:
            image = contained(open_image(hit.path, (_WIDTH, _HEIGHT)), _WIDTH, _HEIGHT)
        except UnreadableImageError as error:
            image = Image.new("RGB", (1, 1), "white")
            reason = textwrap.fill(str(error).rpartition(": ")[2], 18)
            draw.multiline_text((left + 4, upper + _LINE + 4), reason, fill=_QUIET, font=_font(reason, 11))
        corner = left + (_WIDTH - image.width) // 2, upper + _LINE + (_HEIGHT - image.height) // 2
        sheet.paste(image, corner)
        draw.rectangle((left, upper + _LINE, left + _WIDTH - 1, upper + _LINE + _HEIGHT - 1), outline=_FRAME)
        below = upper + _LINE + _HEIGHT + 2
        parts = f"body {hit.identity_score:.2f}  clothes {hit.clothing_score:.2f}"
        draw.text((left, below), parts, fill=_QUIET, font=small)
        label = _label(hit)
        draw.text((left, below + _LINE), label, fill=_QUIET, font=_font(label, 11))

    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")
    return path


def _font(text: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Returns the default font, or an installed one that has the letters of a text."""
    return ImageFont.load_default(size) if text.isascii() else ImageFont.truetype(font_for(text), size)


def _label(hit: PersonHit) -> str:
    person = hit.metadata.get("person_id")
    return f"person {person}" if person is not None and person != -1 else hit.name[-18:]
