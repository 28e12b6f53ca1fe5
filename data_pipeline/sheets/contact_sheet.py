"""A page of images with their captions: look at a data set before believing it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..images import UnreadableImageError, open_image, with_image_files
from .sheet_text import font_for, wrap_text

_FONT_SIZE, _LINE, _MARGIN = 10, 13, 6  # pixels
_TEXT_LINES = 12  # of one caption
_NARROW = 4  # pixels of a narrow letter
_WIDEST = 2  # a cell without captions is at most this many times as wide as high


def contact_sheet(
    dataset: Dataset, path: str | Path, rows: int = 3, columns: int = 8, captions: bool = True, image_height: int = 192
) -> Path:
    """Writes the first `rows * columns` images of a split, each above its captions, as one PNG.

    In the place of an image that cannot be read stands the reason.

    Args:
        dataset: a split with the columns of `PERSON_FEATURES`; select or shuffle it before to see other rows.
        path: the file to write; it appears complete or not at all.
        captions: whether to print person, camera, outfit, captions and descriptions below each image, and the
            `file_path` where the split has that column.
        image_height: height of an image on the sheet, in pixels.

    Returns:
        The path written.

    Raises:
        ValueError: the split is empty.
        OSError: the file cannot be written.
    """
    if len(dataset) == 0:
        raise ValueError("contact_sheet: the split has no rows to show")
    shown = list(with_image_files(dataset.select(range(min(len(dataset), rows * columns)))))
    inner_width = 200 - 2 * _MARGIN if captions else _WIDEST * image_height
    pictures = [_picture(row["image"], inner_width, image_height) for row in shown]
    if not captions:
        inner_width = max(picture.width for picture in pictures)
    texts = [_lines(_texts(row), inner_width) if captions else [] for row in shown]
    cell_width = inner_width + 2 * _MARGIN
    cell_height = image_height + max(map(len, texts)) * _LINE + 3 * _MARGIN
    sheet = Image.new("RGB", (columns * cell_width, -(-len(shown) // columns) * cell_height), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (picture, lines) in enumerate(zip(pictures, texts, strict=True)):
        x, y = index % columns * cell_width + _MARGIN, index // columns * cell_height + _MARGIN
        sheet.paste(picture, (x, y))
        for number, (line, font) in enumerate(lines):
            draw.text((x, y + image_height + _MARGIN + number * _LINE), line, fill="black", font=font)
    return _save(sheet, Path(path))


def _picture(source: Any, width: int, height: int) -> Image.Image:
    """The image of a row, at most `width` x `height`, or a card that says why there is none."""
    try:
        image = open_image(source, (width, height))
    except UnreadableImageError as error:
        card = Image.new("RGB", (min(width, height), height), "mistyrose")
        draw = ImageDraw.Draw(card)
        for number, (line, font) in enumerate(_lines([str(error)], card.width - 2 * _MARGIN)):
            draw.text((_MARGIN, _MARGIN + number * _LINE), line, fill="darkred", font=font)
        return card
    return ImageOps.contain(image, (width, height), Image.Resampling.LANCZOS)


def _texts(row: dict[str, Any]) -> list[str]:
    """What is written below the image of a row; what is not known is left out."""
    who = " · ".join(f"{what} {row[f'{what}_id']}" for what in ("person", "outfit", "camera") if row[f"{what}_id"] >= 0)
    described = [(half, row[f"{half}_description"]) for half in ("identity", "clothing")]
    texts = [row.get("file_path"), who, *(f"- {text}" for text in row["captions"] if text)]
    return [text for text in texts if text] + [f"{half}: {text}" for half, text in described if text]


def _lines(texts: Sequence[str], width: int) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """Texts as lines of at most some pixels, each with a font that has its letters."""
    lines = []
    for text in texts:
        font = ImageFont.truetype(str(font_for(text)), _FONT_SIZE)
        letters = width // _NARROW
        while any(font.getlength(line) > width for line in wrap_text(text, letters, _TEXT_LINES)):
            letters -= 1
        lines += [(line, font) for line in wrap_text(text, letters, _TEXT_LINES)]
    return lines


def _save(sheet: Image.Image, path: Path) -> Path:
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        sheet.save(unfinished, format="PNG")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path
