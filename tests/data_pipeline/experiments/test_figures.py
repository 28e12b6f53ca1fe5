"""The figures of the report, also with incomplete input."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.experiments import figures
from data_pipeline.experiments.features import BranchFeatures
from data_pipeline.experiments.figures import BLUE, ORANGE, Curve
from data_pipeline.experiments.probes import BRANCHES, KINDS


def branches(gates: bool = True) -> BranchFeatures:
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(5), 4)
    arrays = {name: rng.normal(size=(20, 6)) for name in BRANCHES.values()}
    found = BranchFeatures(**arrays, gate=None, fusion_gate=None, person_ids=people, outfit_ids=people * 2)
    if gates:
        found.gate, found.fusion_gate = rng.random((20, 6)), rng.dirichlet((1, 1), 20)
    return found


def curves(path: Path) -> Path:
    one = [Curve("a", [0, 1, 2], [1, 3, 2], [0.5, 0.5, 0.5]), Curve("b", [0, 1], [2, 2], [None, None])]
    return figures.curves_figure({"one": one, "two": [Curve("c", [0], [2], [None])]}, "x", "y", path, best=True)


def probes(path: Path) -> Path:
    names = [name for kind in KINDS.values() for name in kind]
    probed = {"chance": dict.fromkeys(names, 0.2), "accuracy": {b: dict.fromkeys(names, 0.4) for b in BRANCHES}}
    return figures.probes_figure(probed, path)


def tsne(path: Path) -> Path:
    found = branches()
    return figures.tsne_figure(found.identity_embeds, found, found.person_ids, path)


def efficiency(path: Path) -> Path:
    costs = {"train_ms": 2.0, "score_ms": 1.0, "memory_mb": 3.0}
    measured = [{"name": name, "length": length, **costs} for name in ("Mamba", "MLP") for length in (64, 256)]
    return figures.efficiency_figure(measured, path)


@pytest.mark.parametrize(
    ("draw", "colors"),
    [
        (lambda path: figures.gates_figure(branches(), path), (BLUE, ORANGE)),
        (lambda path: figures.gates_figure(branches(gates=False), path), ()),
        (tsne, figures.COLORS[:5]),
        (curves, figures.COLORS[:2]),
        (probes, (BLUE, ORANGE)),
        (efficiency, (BLUE, ORANGE)),
    ],
    ids=["gates", "no_gates", "tsne", "curves", "probes", "efficiency"],
)
def test_figure_is_a_small_png(draw: Callable[[Path], Path], colors: tuple[str, ...], tmp_path: Path) -> None:
    path = draw(tmp_path / "figure.png")
    assert {found.name for found in tmp_path.iterdir()} == {"figure.png"}
    assert path.stat().st_size < 60_000
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int)
    for color in colors:
        expected = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
        assert (np.abs(pixels - expected).max(axis=1) < 12).any(), color


def test_compress_png_scales_down_to_the_width(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    figures.compress_png(tmp_path / "large.png", tmp_path / "new" / "small.png", max_width=100)
    with Image.open(tmp_path / "new" / "small.png") as small, Image.open(tmp_path / "large.png") as large:
        assert (small.size, small.mode, large.size) == ((100, 30), "P", (200, 60))
