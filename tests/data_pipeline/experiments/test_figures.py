"""Every figure is drawn, as PNG and PDF, whatever is missing."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.experiments import figures
from data_pipeline.experiments.features import BranchFeatures
from data_pipeline.experiments.figures import Curve
from data_pipeline.experiments.probes import BRANCHES, KINDS


@pytest.fixture
def branches() -> BranchFeatures:
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(5), 4)
    arrays = {name: rng.normal(size=(20, 6)) for name in BRANCHES.values()}
    gate, fusion_gate = rng.random((20, 6)), rng.dirichlet((1, 1), 20)
    return BranchFeatures(**arrays, gate=gate, fusion_gate=fusion_gate, person_ids=people, outfit_ids=people * 2)


def assert_drawn(path: Path, colors: tuple[str, ...]) -> None:
    """Both files are there, nothing unfinished is, and the picture shows the colors."""
    assert path.suffix == ".png"
    assert {found.name for found in path.parent.iterdir()} == {path.name, path.with_suffix(".pdf").name}
    assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int)
    for color in colors:
        wanted = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
        assert (np.abs(pixels - wanted).max(axis=1) < 12).any(), color


def test_gates(branches: BranchFeatures, tmp_path: Path) -> None:
    assert_drawn(figures.gates_figure(branches, tmp_path / "gates.png"), (figures.BLUE, figures.ORANGE))


def test_gates_of_a_model_without_any(branches: BranchFeatures, tmp_path: Path) -> None:
    branches.gate = branches.fusion_gate = None
    assert_drawn(figures.gates_figure(branches, tmp_path / "gates.png"), ())


def test_tsne(branches: BranchFeatures, tmp_path: Path) -> None:
    path = figures.tsne_figure(branches.identity_embeds, branches, branches.person_ids, tmp_path / "tsne.png")
    assert_drawn(path, figures.COLORS[:5])


def test_curves_with_and_without_a_band(tmp_path: Path) -> None:
    nan = float("nan")
    panels = {
        "one": [Curve("a", [0, 1, 2], [1, 3, 2], [0.5, 0.5, 0.5]), Curve("b", [0, 1], [2, 2], [nan, nan])],
        "two": [Curve("c", [0], [2], [nan])],
    }
    assert_drawn(figures.curves_figure(panels, "x", "y", tmp_path / "curves.png", best=True), figures.COLORS[:2])


def test_probes(tmp_path: Path) -> None:
    names = [name for kind in KINDS.values() for name in kind]
    probed = {"chance": dict.fromkeys(names, 0.2), "accuracy": {b: dict.fromkeys(names, 0.4) for b in BRANCHES}}
    assert_drawn(figures.probes_figure(probed, tmp_path / "probes.png"), (figures.BLUE, figures.ORANGE))


def test_efficiency_with_a_row_not_trained_yet(tmp_path: Path) -> None:
    costs = {"throughput": 1e3, "latency_ms": 2.0, "memory_mb": 3.0, "parameters": 4000, "flops": 5_000_000}
    measured = [
        {"name": name, "sequence": sequence, **costs} for name in ("Mamba", "MLP") for sequence in ("global", "token")
    ]
    path = figures.efficiency_figure({"Mamba": (25.0, float("nan"))}, measured, tmp_path / "efficiency.png")
    assert_drawn(path, (figures.BLUE, figures.ORANGE, figures.GREEN))
