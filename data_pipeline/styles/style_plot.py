"""Plot of styles: a t-SNE map of the neutral captions beside a list of the styles with an exemplar each."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from ..sheets.figure_style import COLORS, MARKERS, QUIET, figure_style, no_grid, save_figure
from ..sheets.sheet_text import font_families_for, wrap_text
from .clustering import Clustering, distinct_rows
from .styles import StyleBook

_MOST_DOTS = 3_000
_MOST_LISTED = 16
_FEWEST_FOR_TSNE = 8
_EXEMPLAR_CHARACTERS, _EXEMPLAR_LINES = 86, 2
_ENTRY = 0.54  # inches


def style_plot(
    path: str | Path,
    book: StyleBook,
    clustering: Clustering,
    captions: Sequence[str],
    embeddings: np.ndarray,
    *,
    seed: int = 0,
) -> Path:
    """Draws the styles as PNG: a t-SNE map on the left, name and exemplar of each style on the right.

    Each dot is a neutral wording, its size the number of captions that share it; wordings of exemplars have a black
    ring. At most 3,000 wordings and 16 styles are shown.

    Args:
        captions: N original captions.
        embeddings: embeddings of the neutral captions, [N, D].

    Returns:
        The path of the PNG.
    """
    # Choose and place the dots.
    first, row, counts = distinct_rows(embeddings)
    exemplars = {text for style in book.styles for text in style.exemplars}
    with_exemplar = {row[number] for number, caption in enumerate(captions) if caption in exemplars}
    kept = np.sort(np.random.default_rng(seed).permutation(len(first))[:_MOST_DOTS])
    places = _places(embeddings[first[kept]], seed)  # [dots, 2]
    labels = clustering.labels[first[kept]]
    sizes = 16 + 400 * counts[kept] / counts.max()
    ringed = np.isin(kept, list(with_exemplar))

    # Draw the map and the list.
    listed = min(len(book.styles), _MOST_LISTED)
    height = max(5.2, 0.7 + listed * _ENTRY)
    with figure_style():
        figure = Figure(figsize=(12, height))
        axes, key = figure.subplots(1, 2, width_ratios=(1, 1.2))
        for number in range(clustering.count):
            dots = labels == number
            edges = np.where(ringed[dots], "black", QUIET)
            widths = np.where(ringed[dots], 1.5, 0.4)
            axes.scatter(
                *places[dots].T, s=sizes[dots], **_look(number), edgecolors=edges, linewidths=widths, alpha=0.85
            )
        for number in range(clustering.count):
            if (labels == number).any():
                _write_number(axes, number, places[labels == number], counts[kept][labels == number])
        no_grid(axes)
        axes.set_title(f"{len(captions):,} captions in {len(first):,} neutral wordings, ringed: with an exemplar")
        _list_styles(key, book, listed, height)
        return save_figure(figure, Path(path))


def _places(vectors: np.ndarray, seed: int) -> np.ndarray:
    """Projects vectors [N, D] to the plane, [N, 2]."""
    if len(vectors) < _FEWEST_FOR_TSNE:
        flat = PCA(min(2, *vectors.shape)).fit_transform(vectors)
        return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(vectors)


def _look(number: int) -> dict[str, Any]:
    """Returns color and marker of a style; the first 64 styles differ."""
    return {"color": COLORS[number % 8], "marker": MARKERS[(number + number // 8) % 8]}


def _write_number(axes: Axes, number: int, places: np.ndarray, counts: np.ndarray) -> None:
    """Writes the number of a style at the dot nearest to the style's center."""
    middle = np.average(places, axis=0, weights=counts)
    x, y = places[np.argmin(np.linalg.norm(places - middle, axis=1))]
    box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": COLORS[number % 8], "alpha": 0.9}
    offset = ((8, 8), (-16, -14), (8, -14), (-16, 8))[number % 4]
    axes.annotate(
        str(number + 1), (x, y), offset, textcoords="offset points", fontsize=9, fontweight="bold", bbox=box, zorder=4
    )


def _list_styles(axes: Axes, book: StyleBook, listed: int, height: float) -> None:
    """Lists name and first exemplar of the first styles; the axes are in inches, downward."""
    axes.set_axis_off()
    axes.set(xlim=(0, 6.3), ylim=(height - 0.5, 0))
    total = sum(book.sizes)
    for number in range(listed):
        style, top = book.styles[number], number * _ENTRY + 0.1
        axes.scatter([0.1], [top], s=60, **_look(number), edgecolors=QUIET, linewidths=0.4)
        name = textwrap.shorten(style.name, 70, placeholder=" …")
        share = f"{book.sizes[number] / total:.0%}"
        fonts: dict[str, Any] = {"fontfamily": font_families_for(name + style.exemplars[0]), "parse_math": False}
        axes.text(0.25, top, f"{number + 1}  {name}  {share}", fontweight="bold", va="center", **fonts)
        text = "\n".join(wrap_text(style.exemplars[0], _EXEMPLAR_CHARACTERS, _EXEMPLAR_LINES))
        axes.text(0.25, top + 0.11, text, fontsize=8, va="top", linespacing=1.2, **fonts)
    if listed < len(book.styles):
        axes.text(0.25, listed * _ENTRY + 0.1, f"and {len(book.styles) - listed} more", va="center")
