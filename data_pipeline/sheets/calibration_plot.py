"""Calibration curve: the likelihood of a hit against the share of right hits."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from .figure_style import BLUE, QUIET, figure_style, save_figure


def draw_calibration(bins: Sequence[tuple[float, float, int]], path: Path) -> Path:
    """Draws mean likelihood against share of right hits, in per cent, one point per bin, and the number of hits.

    Args:
        bins: see `reliability` in `modeling_bdam.evaluation.calibration`.
        path: the `.png` to write, atomically.
    """
    predicted, observed, counts = zip(*bins, strict=True)
    with figure_style():
        figure = Figure(figsize=(4.2, 4.2))
        axes = figure.add_subplot()
        axes.plot([0, 100], [0, 100], color=QUIET, linestyle="dashed", linewidth=1, label="perfectly calibrated")
        x, y = ([100 * value for value in values] for values in (predicted, observed))
        axes.plot(x, y, color=BLUE, marker="o", label="hits of the test split")
        for left, top, count in zip(x, y, counts, strict=True):
            axes.annotate(f"{count:,}", (left, top), (4, -10), textcoords="offset points", fontsize=7, color=QUIET)
        axes.set(xlabel="likelihood, %", ylabel="right hits, %", xlim=(0, 100), ylim=(0, 100), title="Calibration")
        axes.legend(loc="upper left")
        return save_figure(figure, path)
