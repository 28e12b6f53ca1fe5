"""Saving and reading features."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from data_pipeline.experiments.features import BranchFeatures, Features, save_features
from data_pipeline.experiments.measurements import calibration_of
from modeling_bdam.evaluation.calibration import absence_metrics, calibrate, reliability
from modeling_bdam.evaluation.protocols import EncodedSplit, GalleryRows


def split(described: bool) -> EncodedSplit:
    torch.manual_seed(int(described))
    gallery, rows = torch.randn(6, 4), torch.arange(6)
    return EncodedSplit(
        gallery, gallery + 1 if described else None, rows // 2, rows, torch.randn(9, 4), torch.arange(9) % 6
    )


def test_features_are_read_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(6, 3)) for name in ("identity", "clothing", "identity_embeds", "clothing_embeds")}
    ids = {"person_ids": np.arange(6), "outfit_ids": np.arange(6)}
    branches = BranchFeatures(**arrays, gate=rng.random((6, 3)), fusion_gate=None, **ids)
    splits = {"test": split(True), "validation": split(False)}
    save_features(tmp_path / "features.npz", splits, {"test": branches}, clothing_weight=1.5)
    assert [path.name for path in tmp_path.iterdir()] == ["features.npz"]
    read = Features(tmp_path / "features.npz")
    assert read.clothing_weight == 1.5
    for name, written in splits.items():
        for field, value in vars(written).items():
            found = getattr(read.split(name), field)
            assert (found is None) if value is None else torch.equal(found, value)
    found_branches = read.branches("test")
    assert found_branches.fusion_gate is None
    assert found_branches.gate == pytest.approx(branches.gate, abs=1e-3)
    assert found_branches.identity == pytest.approx(arrays["identity"], abs=1e-2)
    assert found_branches.person_ids.tolist() == list(range(6))
    assert read.has_branches("test") and not read.has_branches("probe")


def test_calibration_of_fits_on_validation_and_measures_test(tmp_path: Path) -> None:
    def noisy_split(seed: int, noise: float) -> EncodedSplit:
        generator = torch.Generator().manual_seed(seed)
        people = normalize(torch.randn(20, 2, 8, generator=generator), dim=-1).repeat_interleave(3, dim=0)  # [60, 2, 8]
        queries = normalize(people + noise * torch.randn(60, 2, 8, generator=generator) / 8**0.5, dim=-1)
        rows = torch.arange(60)
        return EncodedSplit(people.flatten(1), None, rows // 3, rows, queries.flatten(1), rows)

    validation, test = noisy_split(0, 1.5), noisy_split(1, 1.5)
    save_features(tmp_path / "features.npz", {"validation": validation, "test": test}, {}, clothing_weight=2.0)
    found = calibration_of(Features(tmp_path / "features.npz"))
    calibration = calibrate(validation)
    assert found == {"bins": reliability(test, calibration, 2.0)} | absence_metrics(test, calibration, 2.0)
    assert sum(count for *_, count in found["bins"]) == 60 * 20
    assert found["absent_found"] > found["absent_false"]


@pytest.mark.parametrize(("caption", "described"), [("A woman in red.", True), ("A tall man. Blue jeans.", False)])
def test_gallery_rows_leave_out_descriptions_that_are_queries(caption: str, described: bool) -> None:
    texts = {"identity_description": ["A tall man."], "clothing_description": ["Blue jeans."], "captions": [[caption]]}
    assert GalleryRows(texts).described == described
