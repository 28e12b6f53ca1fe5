"""Likelihoods and "probably not in this gallery", on splits of vectors with known scores."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from PIL import Image

from data_pipeline.sheets.calibration_plot import draw_calibration
from modeling_bdam import BDAMConfig
from modeling_bdam.evaluation.calibration import (
    CURVES,
    Calibration,
    absence_metrics,
    absence_threshold,
    calibrate,
    likelihoods,
    reliability,
    scored_pairs,
)
from modeling_bdam.evaluation.protocols import EncodedSplit

SHOTS, OUTFITS, WIDTH = 2, 2, 32


def noisy_split(people: int, seed: int, noise: float = 1.5) -> EncodedSplit:
    """Halves of unit length: one direction per person, one per outfit, and noise."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.arange(people * OUTFITS * SHOTS)
    ids, outfits = rows // (OUTFITS * SHOTS), rows // SHOTS % OUTFITS
    person = torch.randn(people, WIDTH, generator=generator)[ids]
    worn = torch.randn(people * OUTFITS, WIDTH, generator=generator)[ids * OUTFITS + outfits]

    def observed() -> torch.Tensor:
        halves = [half + noise * torch.randn(half.shape, generator=generator) for half in (person, worn)]
        return torch.cat([torch.nn.functional.normalize(half, dim=1) for half in halves], dim=1)

    return EncodedSplit(observed(), None, ids, outfits, observed(), rows)


@pytest.fixture(scope="module")
def validation() -> EncodedSplit:
    return noisy_split(100, seed=0)


@pytest.fixture(scope="module")
def calibration(validation: EncodedSplit) -> Calibration:
    return calibrate(validation)


@pytest.mark.parametrize("people", [60, 200])  # smaller and larger than the validation split
def test_likelihood_agrees_with_the_share_of_right_hits(calibration: Calibration, people: int) -> None:
    bins = reliability(noisy_split(people, seed=1), calibration, 1.0)
    assert len(bins) >= 5
    error = sum(abs(predicted - observed) * count for predicted, observed, count in bins)
    assert error / sum(count for _, _, count in bins) < 0.05


def test_likelihood_grows_with_score_and_falls_with_gallery_size(calibration: Calibration) -> None:
    small, large = (likelihoods(calibration, "text", [0.1, 0.5, 1.2], 1.0, images) for images in (400, 4000))
    assert small is not None and large is not None
    assert np.all(np.diff(small) > 0)
    np.testing.assert_allclose(small / (1 - small), 10 * large / (1 - large))


@pytest.mark.parametrize("people", [100, 400])
def test_absence_threshold_holds_the_false_rate(
    validation: EncodedSplit, calibration: Calibration, people: int
) -> None:
    split = noisy_split(people, seed=2)
    metrics = absence_metrics(split, calibration, 1.0)
    assert metrics["absent_false"] == pytest.approx(0.1, abs=0.04)
    assert metrics["absent_found"] > metrics["absent_false"]
    assert absence_metrics(validation, calibration, 1.0)["absent_false"] == pytest.approx(0.1, abs=0.01)


def test_absence_metrics_take_the_person_out(validation: EncodedSplit, calibration: Calibration) -> None:
    found = false = 0
    threshold = absence_threshold(calibration, "text", 2.0, len(validation.gallery))
    assert threshold is not None
    queries = validation.weighted_queries(2.0)
    for query, row in zip(queries, validation.query_rows, strict=True):
        others = validation.gallery[validation.gallery_ids != validation.gallery_ids[row]]
        found += bool((others @ query).max() < threshold)
        false += bool((validation.gallery @ query).max() < threshold)
    counts = {"absent_found": found / len(queries), "absent_false": false / len(queries)}
    assert absence_metrics(validation, calibration, 2.0) == pytest.approx(counts)


@pytest.mark.parametrize("kind", ["image", "composed"])
def test_scored_pairs_leave_out_the_query_picture(validation: EncodedSplit, kind: str) -> None:
    scores, right = scored_pairs(validation, kind, 1.0)
    left_out = ~np.isfinite(scores)
    assert np.all(left_out.sum(axis=1) == (1 if kind == "image" else SHOTS))
    assert not (right & left_out).any()
    assert np.all(right.sum(axis=1) == (OUTFITS * SHOTS - 1 if kind == "image" else SHOTS))


def test_calibration_is_kept_by_the_config(calibration: Calibration, tmp_path: Path) -> None:
    assert calibration.keys() == {"images", "clothing_weights", "text", "image", "composed"}
    BDAMConfig(score_calibration=calibration).save_pretrained(tmp_path)
    assert BDAMConfig.from_pretrained(tmp_path).score_calibration == calibration


def test_split_of_one_person_is_not_calibrated() -> None:
    split = noisy_split(1, seed=0)
    calibration = calibrate(split)
    assert calibration.keys() == {"images", "clothing_weights"}
    assert absence_metrics(split, calibration, 1.0) == {}
    assert reliability(split, None, 1.0) == []
    assert likelihoods(None, "text", [1.0], 1.0, 10) is None


@pytest.mark.parametrize(
    "changes",
    [{"images": 0}, {"clothing_weights": []}, {"clothing_weights": [1, 0]}, {"text": {"slopes": [1, 2]}}, {"text": 3}]
    + [{"text": {name: [1.0, value] for name in CURVES}} for value in (math.nan, math.inf, "1", None)],
)
def test_damaged_calibration_is_refused(changes: dict) -> None:
    fields = {"images": 3, "clothing_weights": [0, 1], "text": {name: [1.0, 1.0] for name in CURVES}}
    BDAMConfig(score_calibration=fields)
    with pytest.raises(
        StrictDataclassClassValidationError, match="score_calibration must have images, clothing_weights and lists"
    ):
        BDAMConfig(score_calibration=fields | changes)


def test_draw_calibration_writes_a_picture(tmp_path: Path) -> None:
    path = draw_calibration([(0.05, 0.04, 900), (0.55, 0.6, 10)], tmp_path / "calibration.png")
    assert Image.open(path).size[0] > 400
