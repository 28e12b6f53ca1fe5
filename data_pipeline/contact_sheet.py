"""A page of images with their captions: look at a data set before believing it."""

import textwrap
from pathlib import Path
from typing import Any

from datasets import Dataset
from PIL import Image, ImageDraw, ImageFont

_LINE = 11
_MARGIN = 6


def contact_sheet(
    dataset: Dataset, path: str | Path, rows: int = 3, columns: int = 8, captions: bool = True, image_height: int = 192
) -> Path:
    """Writes the first `rows * columns` images of a split, each above its captions, as one PNG.

    Args:
        dataset: a split with the columns of `PERSON_FEATURES`; select or shuffle it before to see other rows.
        path: the file to write.
        captions: whether to print person, camera, outfit and captions below each image.
        image_height: height of an image on the sheet, in pixels.

    Returns:
        The path written.

    Raises:
        ValueError: the split is empty.
    """
    if len(dataset) == 0:
        raise ValueError("contact_sheet: the split has no rows to show")
    shown = [dataset[index] for index in range(min(len(dataset), rows * columns))]
    font = ImageFont.load_default(10)
    cell_width = 200 if captions else max(_scaled_width(row["image"], image_height) for row in shown) + 2 * _MARGIN
    texts = [_lines(row, (cell_width - 2 * _MARGIN) // 5) if captions else [] for row in shown]
    line_count = max(len(lines) for lines in texts)
    cell_height = image_height + line_count * _LINE + 3 * _MARGIN
    used_rows = -(-len(shown) // columns)
    sheet = Image.new("RGB", (columns * cell_width, used_rows * cell_height), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (row, lines) in enumerate(zip(shown, texts, strict=True)):
        x, y = index % columns * cell_width + _MARGIN, index // columns * cell_height + _MARGIN
        image = row["image"].convert("RGB")
        sheet.paste(image.resize((_scaled_width(image, image_height), image_height), Image.Resampling.LANCZOS), (x, y))
        draw.multiline_text((x, y + image_height + _MARGIN), "\n".join(lines), fill="black", font=font, spacing=1)
    path = Path(path)
    sheet.save(path, format="PNG")
    return path


def _scaled_width(image: Image.Image, height: int) -> int:
    return max(1, round(image.width * height / image.height))


def _lines(row: dict[str, Any], width: int) -> list[str]:
    lines = [f"person {row['person_id']} · outfit {row['outfit_id']} · camera {row['camera_id']}"]
    for text in [*row["captions"], row["identity_description"], row["clothing_description"]]:
        if text:
            lines += textwrap.wrap(text, width, initial_indent="- ")
    return lines
