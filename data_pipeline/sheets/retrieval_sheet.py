"""Retrieval sheet: queries beside their first results, with correct and wrong results marked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageOps

from modeling_bdam.evaluation.protocols import EncodedSplit
from modeling_bdam.files import atomic_path

from ..images import ImageFile, open_image
from .sheet_text import font_families_for, wrap_text

SHEET_QUERIES, SHEET_RESULTS = 8, 10
ImageSource = ImageFile | Image.Image
RIGHT, WRONG, QUIET = "#15803d", "#dc2626", "#6b7280"
# Inches
_MARGIN, _HEADER = 0.25, 0.75
_CAPTION_WIDTH, _CAPTION_CHARACTERS, _CAPTION_LINES = 2.55, 36, 10
_IMAGE_WIDTH, _IMAGE_HEIGHT, _GAP = 0.72, 1.44, 0.16
_LABEL = 0.24  # a line of text above or below an image
_FINEST = (432, 864)  # width and height that a larger image is shrunk to, in pixels


def spread(count: int, total: int) -> list[int]:
    """Returns `count` evenly spaced positions in `range(total)`, including both ends; fewer if it is shorter."""
    return np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()


def draw_retrieval(split: EncodedSplit, rows: Any, clothing_weight: float, path: Path) -> Path:
    """Draws eight evenly spaced queries of an encoded split with their top ten images, by the score with this β.

    `rows` is the split itself, with `image` and `captions`.
    """
    positions = spread(SHEET_QUERIES, len(split.queries))
    captions = [caption for texts in rows["captions"] for caption in texts]
    scores = split.weighted_queries(clothing_weight)[positions] @ split.gallery.T  # [8, G]
    best = scores.topk(min(SHEET_RESULTS, len(split.gallery)), dim=1)
    query_rows = split.query_rows[positions]
    correct = split.gallery_ids[best.indices] == split.gallery_ids[query_rows][:, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    return retrieval_sheet(
        path,
        queries=[captions[position] for position in positions],
        results=[[rows[index]["image"] for index in indices] for indices in best.indices.tolist()],
        correct=correct.tolist(),
        query_images=[rows[row]["image"] for row in query_rows.tolist()],
        scores=best.values.tolist(),
        protocol=f"standard protocol, β = {clothing_weight:g}",
    )


def retrieval_sheet(
    path: str | Path,
    queries: Sequence[str],
    results: Sequence[Sequence[ImageSource]],
    correct: Sequence[Sequence[bool]],
    query_images: Sequence[ImageSource] | None = None,
    scores: Sequence[Sequence[float]] | None = None,
    protocol: str = "",
) -> Path:
    """Draws one row per query: its caption and its results, best first, with a green tick or a red cross.

    Args:
        path: the `.png` or `.pdf` to write, atomically.
        queries: the captions.
        results: images of each query, best first, as accepted by `open_image`.
        correct: for each result, whether it shows the person described.
        query_images: the image that each caption describes, drawn between caption and results.
        scores: the score of each result, printed below it.
        protocol: name of the protocol, printed in the title.

    Raises:
        ValueError: there are no results, lengths differ, or the suffix is neither .png nor .pdf.
        UnreadableImageError: an image file cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".pdf"):
        raise ValueError(f"retrieval_sheet writes .png or .pdf, got {path.name!r}")
    _check_lengths(queries, query_images, {"results": results, "correct": correct, "scores": scores})

    # Page; one data unit is an inch, y points down
    columns = max(len(found) for found in results)
    results_left = _MARGIN + _CAPTION_WIDTH + (_IMAGE_WIDTH + 3 * _GAP if query_images is not None else _GAP)
    row_height = _LABEL + _IMAGE_HEIGHT + (_LABEL if scores is not None else 0) + _GAP
    width = results_left + columns * (_IMAGE_WIDTH + _GAP) - _GAP + _MARGIN
    height = _HEADER + len(queries) * row_height + _MARGIN
    figure = Figure(figsize=(width, height), facecolor="white")
    page = figure.add_axes((0, 0, 1, 1))
    page.set_axis_off()

    # Title and legend
    title = f"Text-to-image retrieval · {protocol}" if protocol else "Text-to-image retrieval"
    _write(page, _MARGIN, 0.3, title, size=13, weight="bold")
    _write(page, results_left, 0.58, "✓ the person described", size=9, color=RIGHT, weight="bold")
    _write(page, results_left + 1.85, 0.58, "✗ another person", size=9, color=WRONG, weight="bold")

    # Queries
    for row, caption in enumerate(queries):
        top = _HEADER + row * row_height
        page.plot([_MARGIN, width - _MARGIN], [top - 0.03] * 2, color="#e5e7eb", linewidth=0.8)
        image_top = top + _LABEL
        lines = wrap_text(caption, _CAPTION_CHARACTERS, _CAPTION_LINES)
        _write(page, _MARGIN, image_top, "\n".join(lines), size=8.5, va="top")
        if query_images is not None:
            left = _MARGIN + _CAPTION_WIDTH
            _write(page, left + _IMAGE_WIDTH / 2, top + 0.12, "described image", size=7, color=QUIET, ha="center")
            _draw(page, query_images[row], left, image_top, edgecolor=QUIET, linestyle="dashed", linewidth=1)
        for rank, (image, hit) in enumerate(zip(results[row], correct[row], strict=True)):
            left = results_left + rank * (_IMAGE_WIDTH + _GAP)
            color, mark = (RIGHT, "✓") if hit else (WRONG, "✗")
            _write(page, left, top + 0.12, f"{rank + 1}", size=8.5, color=QUIET)
            _write(page, left + _IMAGE_WIDTH, top + 0.12, mark, size=12, color=color, weight="bold", ha="right")
            _draw(page, image, left, image_top, edgecolor=color, linewidth=3.5)
            if scores is not None:
                middle, below = left + _IMAGE_WIDTH / 2, image_top + _IMAGE_HEIGHT + 0.13
                _write(page, middle, below, f"{scores[row][rank]:.3f}", size=7, color=QUIET, ha="center")
    page.set_xlim(0, width)  # set last, because imshow changes the limits
    page.set_ylim(height, 0)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)
    return path


def _check_lengths(
    queries: Sequence[str], query_images: Sequence[Any] | None, lists: dict[str, Sequence[Sequence[Any]] | None]
) -> None:
    results = lists["results"] or []
    if not any(len(found) for found in results):
        raise ValueError("retrieval_sheet: there are no results to show")
    for name, values in {**lists, "query_images": query_images}.items():
        if values is not None and len(values) != len(queries):
            raise ValueError(f"retrieval_sheet: {len(queries)} queries but {len(values)} {name}: give one per query")
    for name, rows in lists.items():
        for query, (found, row) in enumerate(zip(results, rows or results, strict=True)):
            if len(found) != len(row):
                raise ValueError(f"retrieval_sheet: query {query} has {len(found)} results but {len(row)} {name}")


def _write(page: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Writes text at (x, y) in inches, without parsing $ as math."""
    style = {"va": "center", "linespacing": 1.25, **style}
    page.text(x, y, text, fontfamily=font_families_for(text), parse_math=False, **style)


def _draw(page: Axes, source: ImageSource, left: float, top: float, **frame: Any) -> None:
    """Draws the whole image in its cell, with its aspect ratio, and a frame around the cell (line width in points)."""
    image = open_image(source, _FINEST)
    if image.width > _FINEST[0] or image.height > _FINEST[1]:
        image = ImageOps.contain(image, _FINEST)
    scale = min(_IMAGE_WIDTH / image.width, _IMAGE_HEIGHT / image.height)
    x = left + (_IMAGE_WIDTH - scale * image.width) / 2
    y = top + (_IMAGE_HEIGHT - scale * image.height) / 2
    extent = (x, x + scale * image.width, y + scale * image.height, y)
    page.imshow(np.asarray(image), extent=extent, aspect="auto", interpolation="lanczos")
    page.add_patch(Rectangle((left, top), _IMAGE_WIDTH, _IMAGE_HEIGHT, fill=False, **frame))
