"""Contact sheet: images of a data set with their captions, for a visual check."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from PIL import Image, ImageDraw, ImageFont

from modeling_bdam.files import atomic_path

from ..images import UnreadableImageError, open_image, with_image_files
from .sheet_text import font_for, wrap_text

_FONT_SIZE, _LINE, _MARGIN = 10, 13, 6  # pixels
_TEXT_LINES = 12  # per caption
_NARROW = 4  # pixels of a narrow letter
_WIDEST = 2  # largest ratio of width to height of a cell without captions


def contact_sheet(
    dataset: Dataset, path: str | Path, rows: int = 3, columns: int = 8, captions: bool = True, image_height: int = 192
) -> Path:
    """Draws the first `rows * columns` images of a split above their captions, as one PNG.

    An unreadable image is replaced by a card with the reason. The write is atomic.

    Args:
        dataset: a split with the columns of `PERSON_FEATURES`; select or shuffle it before to see other rows.
        path: the file to write.
        captions: whether to print person, camera, outfit, captions, descriptions and, if the column exists,
            `file_path` below each image.
        image_height: height of an image on the sheet, in pixels.

    Raises:
        ValueError: the split is empty.
        OSError: the file cannot be written.
    """
    if len(dataset) == 0:
        raise ValueError("contact_sheet: the split has no rows to show")

    # Images, and text lines that fit the cell width
    shown = list(with_image_files(dataset.select(range(min(len(dataset), rows * columns)))))
    inner_width = 200 - 2 * _MARGIN if captions else _WIDEST * image_height
    pictures = [_picture(row["image"], inner_width, image_height) for row in shown]
    if not captions:
        inner_width = max(picture.width for picture in pictures)
    texts = [_lines(_texts(row), inner_width) if captions else [] for row in shown]

    # Cells
    cell_width = inner_width + 2 * _MARGIN
    cell_height = image_height + max(map(len, texts)) * _LINE + 3 * _MARGIN
    sheet = Image.new("RGB", (columns * cell_width, -(-len(shown) // columns) * cell_height), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (picture, lines) in enumerate(zip(pictures, texts, strict=True)):
        x, y = index % columns * cell_width + _MARGIN, index // columns * cell_height + _MARGIN
        sheet.paste(picture, (x, y))
        _write(draw, lines, x, y + image_height + _MARGIN, "black")
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")
    return Path(path)


def _picture(source: Any, width: int, height: int) -> Image.Image:
    """Returns the image, shrunk to at most `width` x `height`, or a card with the reason why it is unreadable."""
    try:
        image = open_image(source, (width, height))
    except UnreadableImageError as error:
        card = Image.new("RGB", (min(width, height), height), "mistyrose")
        _write(ImageDraw.Draw(card), _lines([str(error)], card.width - 2 * _MARGIN), _MARGIN, _MARGIN, "darkred")
        return card
    return contained(image, width, height)


def contained(image: Image.Image, width: int, height: int) -> Image.Image:
    """Resizes an image to fit `width` x `height`, like `ImageOps.contain`, which fails for sides below half a pixel."""
    scale = min(width / image.width, height / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def _texts(row: dict[str, Any]) -> list[str]:
    """Returns the known labels and texts of a row."""
    labels = [f"{name} {row[f'{name}_id']}" for name in ("person", "outfit", "camera") if row[f"{name}_id"] >= 0]
    texts = [row.get("file_path"), " · ".join(labels), *(f"- {text}" for text in row["captions"] if text)]
    halves = [(half, row[f"{half}_description"]) for half in ("identity", "clothing")]
    return [text for text in texts if text] + [f"{half}: {text}" for half, text in halves if text]


def _lines(texts: Sequence[str], width: int) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """Wraps texts to a width in pixels; each line has a font that contains its letters."""
    lines = []
    for text in texts:
        font = ImageFont.truetype(str(font_for(text)), _FONT_SIZE)
        letters = width // _NARROW
        while any(font.getlength(line) > width for line in wrap_text(text, letters, _TEXT_LINES)):
            letters -= 1
        lines += [(line, font) for line in wrap_text(text, letters, _TEXT_LINES)]
    return lines


def _write(
    draw: ImageDraw.ImageDraw, lines: Sequence[tuple[str, ImageFont.FreeTypeFont]], x: int, y: int, color: str
) -> None:
    for number, (line, font) in enumerate(lines):
        draw.text((x, y + number * _LINE), line, fill=color, font=font)
