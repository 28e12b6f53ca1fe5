"""One look for all figures: colors that the color-blind tell apart (Okabe and Ito), PDF beside PNG."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
SKY, VERMILION, YELLOW, BLACK = "#56B4E9", "#D55E00", "#F0E442", "#000000"
COLORS = (BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, BLACK, YELLOW)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
QUIET = "#6b7280"
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "pdf.fonttype": 42,  # text stays text
    "savefig.dpi": 160,
    "figure.constrained_layout.use": True,
}


@contextmanager
def figure_style() -> Iterator[None]:
    """Everything drawn within looks alike."""
    with matplotlib.rc_context(STYLE):
        yield


def save_figure(figure: Figure, path: Path) -> Path:
    """Writes `path`, a `.png`, and the same as `.pdf` beside it; each appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for target in (path.with_suffix(".pdf"), path.with_suffix(".png")):
        unfinished = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
        figure.savefig(unfinished)
        os.replace(unfinished, target)
    return path.with_suffix(".png")


def no_grid(axes: Axes) -> None:
    """Takes away grid and ticks, for pictures and maps."""
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
