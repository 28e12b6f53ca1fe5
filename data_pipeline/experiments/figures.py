"""Draws the figures of the report. Each function writes one as PNG and returns its path."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray
from PIL import Image
from sklearn.manifold import TSNE

from modeling_bdam.files import atomic_path

from ..sheets.figure_style import BLUE, COLORS, MARKERS, ORANGE, QUIET, figure_style, no_grid, save_figure
from .features import BranchFeatures
from .probes import KINDS

TSNE_PEOPLE = 8
PNG_COLORS = 128


@dataclass
class Curve:
    """A line with a band: mean and standard deviation over seeds at each x; there is no band where `std` is None."""

    label: str
    x: Sequence[float]
    mean: Sequence[float]
    std: Sequence[float | None]


def gates_figure(features: BranchFeatures, path: Path) -> Path:
    """Figure 3: histograms of the gate weights of BDAM and of the fusion over the test images."""
    with figure_style():
        figure = Figure(figsize=(7.2, 2.9))
        panels = figure.subplots(1, 2)
        gate = None if features.gate is None else features.gate.ravel()
        sides = [
            None if gate is None else {"identity": gate, "clothing": 1 - gate},
            None if features.fusion_gate is None else dict(zip(("image", "text"), features.fusion_gate.T, strict=True)),
        ]
        notes = ("this model has no BDAM gate", "no descriptions, or no fusion gate")
        titles = ("BDAM gate, all images and dimensions", "Fusion gate, all described images")
        for panel, values, note, title in zip(panels, sides, notes, titles, strict=True):
            if values is None:
                panel.text(0.5, 0.5, note, transform=panel.transAxes, ha="center", va="center", color=QUIET)
            else:
                _histogram(panel, values)
            panel.set(title=title, xlabel="weight")
        panels[0].set_ylabel("density")
        return compress_png(save_figure(figure, path), path)


def tsne_figure(entangled: NDArray, decoupled: BranchFeatures, person_ids: NDArray, path: Path) -> Path:
    """Figure 4: t-SNE of the entangled features of one model and the decoupled features of another.

    Args:
        entangled: embeddings of the plain dual encoder, [N, d].
        decoupled: features of BDAM for the same N images.
        person_ids: [N]; the first `TSNE_PEOPLE` people are shown.
    """
    people = np.unique(person_ids)[:TSNE_PEOPLE]
    rows = np.isin(person_ids, people)
    outfits = decoupled.outfit_ids[rows]
    both = np.concatenate([decoupled.identity_embeds[rows], decoupled.clothing_embeds[rows]])
    with figure_style():
        figure = Figure(figsize=(7.2, 3.6))
        panels = figure.subplots(1, 2)
        points = _tsne(entangled[rows])  # [n, 2]
        identity, clothing = np.split(_tsne(both), 2)  # [n, 2] each
        for number, person in enumerate(people):
            chosen = person_ids[rows] == person
            color = COLORS[number % len(COLORS)]
            first = outfits == outfits[chosen].min()  # open markers: the second outfit
            for worn, fill in ((chosen & first, color), (chosen & ~first, "none")):
                panels[0].scatter(*points[worn].T, s=26, facecolors=fill, edgecolors=color, linewidths=1.2)
                panels[1].scatter(*identity[worn].T, s=26, facecolors=fill, edgecolors=color, linewidths=1.2)
            panels[1].scatter(*clothing[chosen & first].T, s=26, marker="x", color=color, linewidths=1.6)
            panels[1].scatter(*clothing[chosen & ~first].T, s=26, marker="+", color=color, linewidths=1.6)
        panels[0].set_title("Plain dual encoder: entangled")
        panels[1].set_title("BDAM: identity and clothing")
        for panel in panels:
            no_grid(panel)
        marks = {"identity, 1st outfit": "o", "identity, 2nd outfit": "o", "clothing, 1st": "x", "clothing, 2nd": "+"}
        handles = [
            Line2D([], [], color=QUIET, linestyle="", marker=mark, markerfacecolor="none" if "2nd" in name else QUIET)
            for name, mark in marks.items()
        ]
        figure.legend(handles, list(marks), loc="outside lower center", ncols=4, fontsize=8)
        return compress_png(save_figure(figure, path), path)


def curves_figure(
    panels: Mapping[str, Sequence[Curve]], x_label: str, y_label: str, path: Path, best: bool = False
) -> Path:
    """Draws lines over a common x, one panel per title; `best` marks the highest point of each line."""
    with figure_style():
        figure = Figure(figsize=(3.6 * len(panels), 3.0))
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for panel, (title, curves) in zip(axes, panels.items(), strict=True):
            for number, curve in enumerate(curves):
                x, mean, std = (np.array(values, dtype=float) for values in (curve.x, curve.mean, curve.std))
                color = COLORS[number]
                panel.plot(x, mean, color=color, marker=MARKERS[number], label=curve.label)
                if not np.isnan(std).all():
                    panel.fill_between(x, mean - std, mean + std, color=color, alpha=0.2, linewidth=0)
                if best:
                    top = int(np.nanargmax(mean))
                    panel.scatter(x[top], mean[top], s=110, facecolors="none", edgecolors=color, linewidths=1.5)
            panel.set(title=title, xlabel=x_label, ylim=(0, None))
            panel.legend(fontsize=8)
        axes[0].set_ylabel(y_label)
        return compress_png(save_figure(figure, path), path)


def probes_figure(probed: Mapping[str, Any], path: Path) -> Path:
    """Draws the accuracy of the linear probes above chance, in points, for each attribute and both branches."""
    shown = {"identity embedding": BLUE, "clothing embedding": ORANGE}
    with figure_style():
        figure = Figure(figsize=(7.2, 3.2))
        ratios = [len(names) for names in KINDS.values()]
        panels = figure.subplots(1, 2, sharey=True, width_ratios=ratios)
        for panel, (kind, names) in zip(panels, KINDS.items(), strict=True):
            place = np.arange(len(names))
            for number, (branch, color) in enumerate(shown.items()):
                gain = [100 * (probed["accuracy"][branch][name] - probed["chance"][name]) for name in names]
                panel.bar(place + 0.4 * number - 0.2, gain, width=0.38, color=color, label=branch)
            panel.set_xticks(place, [name.replace("_", " ") for name in names], rotation=40, ha="right")
            panel.axhline(0, color=QUIET, linewidth=0.8)
            panel.grid(axis="x", visible=False)
            panel.set_title({"identity": "identity traits", "clothing": "clothing attributes"}[kind])
        panels[0].set_ylabel("accuracy above chance, points")
        panels[1].legend(fontsize=8)
        return compress_png(save_figure(figure, path), path)


def efficiency_figure(measured: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Figure 5: time and memory of each matching head over the number of tokens, both axes logarithmic.

    Args:
        measured: the results of `measure_head`.
    """
    titles = {"train_ms": "forward and backward, ms", "score_ms": "forward, ms", "memory_mb": "saved for backward, MB"}
    with figure_style():
        figure = Figure(figsize=(9.0, 3.0))
        panels = figure.subplots(1, len(titles))
        for panel, (field, title) in zip(panels, titles.items(), strict=True):
            for number, name in enumerate(dict.fromkeys(entry["name"] for entry in measured)):
                points = [(entry["length"], entry[field]) for entry in measured if entry["name"] == name]
                panel.plot(*zip(*points, strict=True), color=COLORS[number], marker=MARKERS[number], label=name)
            lengths = sorted({entry["length"] for entry in measured})
            panel.set(title=title, xlabel="tokens", xscale="log", yscale="log")
            panel.set_xticks(lengths, [str(length) for length in lengths])
            panel.xaxis.set_minor_formatter(NullFormatter())
        handles = panels[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=len(handles[0]), fontsize=8)
        return compress_png(save_figure(figure, path), path)


def compress_png(source: Path, target: Path, max_width: int | None = None) -> Path:
    """Writes a PNG with a palette of `PNG_COLORS` colors, a third of the size or less, atomically.

    Args:
        source: the image to read.
        target: the `.png` to write; may be the same file.
        max_width: in pixels; a wider image is scaled down.
    """
    with Image.open(source) as opened:
        image = opened.convert("RGB")
    if max_width is not None and image.width > max_width:
        size = (max_width, round(image.height * max_width / image.width))
        image = image.resize(size, Image.Resampling.LANCZOS)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as temporary:
        image.quantize(PNG_COLORS, dither=Image.Dither.NONE).save(temporary, optimize=True)
    return target


def _histogram(panel: Axes, values: Mapping[str, NDArray]) -> None:
    bins = np.linspace(0, 1, 51).tolist()
    for (name, found), color in zip(values.items(), (BLUE, ORANGE), strict=True):
        label = f"{name}: {found.mean():.2f} ± {found.std():.2f}"
        panel.hist(found, bins=bins, density=True, color=color, alpha=0.55, label=label)
        panel.axvline(found.mean(), ymax=0.8, color=color, linestyle="--", linewidth=1.2)
    panel.set_xlim(0, 1)
    panel.set_ylim(0, 1.3 * panel.get_ylim()[1])  # room for the legend
    panel.legend(fontsize=8, loc="upper center", ncols=2, columnspacing=1.0)


def _tsne(features: NDArray) -> NDArray:
    perplexity = min(15, (len(features) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(features.astype(np.float32))
