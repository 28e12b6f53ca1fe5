"""A picture of a search: every query in words, beside the images it found first, right and wrong ones told apart."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageOps

from modeling_bdam.evaluation.protocols import EncodedSplit

from ..images import ImageFile, open_image
from .sheet_text import font_families_for, wrap_text

SHEET_QUERIES, SHEET_RESULTS = 8, 10
ImageSource = ImageFile | Image.Image
RIGHT, WRONG, QUIET = "#15803d", "#dc2626", "#6b7280"
# Inches.
_MARGIN, _HEADER = 0.25, 0.75
_CAPTION_WIDTH, _CAPTION_CHARACTERS, _CAPTION_LINES = 2.55, 36, 10
_IMAGE_WIDTH, _IMAGE_HEIGHT, _GAP = 0.72, 1.44, 0.16
_LABEL = 0.24  # a line of text above or below an image
_FINEST = (432, 864)  # pixels of an image, width and height: four times what its cell has on a screen


def spread(count: int, total: int) -> list[int]:
    """`count` positions evenly spaced over `total`, first and last included; fewer if `total` is smaller."""
    return np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()


def draw_retrieval(split: EncodedSplit, rows: Any, clothing_weight: float, path: Path) -> Path:
    """Draws queries that are evenly spaced over an encoded split, each with its top ten images.

    Args:
        split: the encoded rows.
        rows: the rows, with `image` and `captions`.
        clothing_weight: β of the score.
        path: the `.png` to write.
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
    """Draws one row a query: its caption, then its results, best first, framed green and ticked or red and crossed.

    Args:
        path: the `.png` or `.pdf` to write; it appears complete or not at all.
        queries: the captions searched for.
        results: what each query found, best first: images, or image files as of `open_image`, of any size.
        correct: for each result, whether it shows the person meant.
        query_images: the image that each caption was written for, drawn apart from the results and labeled so.
        scores: the score of each result, printed below it.
        protocol: name of the protocol, printed in the title.

    Returns:
        The path written.

    Raises:
        ValueError: there are no queries, the lists do not fit each other, or the suffix is neither .png nor .pdf.
        UnreadableImageError: an image file that cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".pdf"):
        raise ValueError(f"retrieval_sheet writes .png or .pdf, got {path.name!r}")
    _check_lengths(queries, results, correct, query_images, scores)

    columns = max(len(found) for found in results)
    results_left = _MARGIN + _CAPTION_WIDTH + (_IMAGE_WIDTH + 3 * _GAP if query_images is not None else _GAP)
    row_height = _LABEL + _IMAGE_HEIGHT + (_LABEL if scores is not None else 0) + _GAP
    width = results_left + columns * (_IMAGE_WIDTH + _GAP) - _GAP + _MARGIN
    height = _HEADER + len(queries) * row_height + _MARGIN
    figure = Figure(figsize=(width, height), facecolor="white")
    page = figure.add_axes((0, 0, 1, 1))  # one data unit is an inch, y runs downward
    page.set_axis_off()

    title = f"Text-to-image retrieval · {protocol}" if protocol else "Text-to-image retrieval"
    _write(page, _MARGIN, 0.3, title, size=13, weight="bold")
    _write(page, results_left, 0.58, "✓ the person described", size=9, color=RIGHT, weight="bold")
    _write(page, results_left + 1.85, 0.58, "✗ somebody else", size=9, color=WRONG, weight="bold")
    for row, caption in enumerate(queries):
        top = _HEADER + row * row_height
        page.plot([_MARGIN, width - _MARGIN], [top - 0.03] * 2, color="#e5e7eb", linewidth=0.8)
        image_top = top + _LABEL
        lines = wrap_text(caption, _CAPTION_CHARACTERS, _CAPTION_LINES)
        _write(page, _MARGIN, image_top, "\n".join(lines), size=8.5, vertical="top")
        if query_images is not None:
            left = _MARGIN + _CAPTION_WIDTH
            _write(page, left + _IMAGE_WIDTH / 2, top + 0.12, "described image", size=7, color=QUIET, align="center")
            _draw(page, query_images[row], left, image_top, color=QUIET, linewidth=1, dashed=True)
        for rank, (image, hit) in enumerate(zip(results[row], correct[row], strict=True)):
            left = results_left + rank * (_IMAGE_WIDTH + _GAP)
            color, mark = (RIGHT, "✓") if hit else (WRONG, "✗")
            _write(page, left, top + 0.12, f"{rank + 1}", size=8.5, color=QUIET)
            _write(page, left + _IMAGE_WIDTH, top + 0.12, mark, size=12, color=color, weight="bold", align="right")
            _draw(page, image, left, image_top, color=color, linewidth=3.5)
            if scores is not None:
                middle, below = left + _IMAGE_WIDTH / 2, image_top + _IMAGE_HEIGHT + 0.13
                _write(page, middle, below, f"{scores[row][rank]:.3f}", size=7, color=QUIET, align="center")
    page.set_xlim(0, width)
    page.set_ylim(height, 0)

    unfinished = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        figure.savefig(unfinished, dpi=150)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _check_lengths(
    queries: Sequence[str],
    results: Sequence[Sequence[ImageSource]],
    correct: Sequence[Sequence[bool]],
    query_images: Sequence[ImageSource] | None,
    scores: Sequence[Sequence[float]] | None,
) -> None:
    if not any(len(found) for found in results):
        raise ValueError("retrieval_sheet: there are no results to show")
    lists: dict[str, Sequence[Any] | None] = {"results": results, "correct": correct, "scores": scores}
    for name, values in (lists | {"query_images": query_images}).items():
        if values is not None and len(values) != len(queries):
            raise ValueError(f"retrieval_sheet: {len(queries)} queries but {len(values)} {name}: give one a query")
    for name, values in lists.items():
        for query, (found, row) in enumerate(zip(results, results if values is None else values, strict=True)):
            if len(found) != len(row):
                raise ValueError(f"retrieval_sheet: query {query} has {len(found)} results but {len(row)} {name}")


def _write(
    page: Axes,
    x: float,
    y: float,
    text: str,
    *,
    size: float,
    color: str = "black",
    weight: str = "normal",
    align: str = "left",
    vertical: str = "center",
) -> None:
    """Text at (x, y) in inches, as it stands: a caption's dollar signs are no formula."""
    page.text(
        x,
        y,
        text,
        fontsize=size,
        color=color,
        fontweight=weight,
        fontfamily=font_families_for(text),
        horizontalalignment=align,
        verticalalignment=vertical,
        linespacing=1.25,
        parse_math=False,
    )


def _draw(
    page: Axes, source: ImageSource, left: float, top: float, *, color: str, linewidth: float, dashed: bool = False
) -> None:
    """The whole image in its cell, unstretched, and a frame around the cell (line width in points)."""
    image = open_image(source, _FINEST)
    if image.width > _FINEST[0] or image.height > _FINEST[1]:
        image = ImageOps.contain(image, _FINEST)
    scale = min(_IMAGE_WIDTH / image.width, _IMAGE_HEIGHT / image.height)
    x = left + (_IMAGE_WIDTH - scale * image.width) / 2
    y = top + (_IMAGE_HEIGHT - scale * image.height) / 2
    extent = (x, x + scale * image.width, y + scale * image.height, y)
    page.imshow(np.asarray(image), extent=extent, aspect="auto", interpolation="lanczos")
    frame = Rectangle((left, top), _IMAGE_WIDTH, _IMAGE_HEIGHT, fill=False, edgecolor=color, linewidth=linewidth)
    frame.set_linestyle("dashed" if dashed else "solid")
    page.add_patch(frame)
