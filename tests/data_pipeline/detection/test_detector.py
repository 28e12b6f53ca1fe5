"""Boxes of people by a detector of transformers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import YolosConfig, YolosForObjectDetection

from data_pipeline.detection.detector import PersonDetector, non_maximum_suppression, overlaps

from .small_videos import Walk, draw_frame, save_detector

FRAME, TRUTH = draw_frame([Walk(2, 0.0), Walk(3, 1.2)], 2.0)


def test_detect_finds_the_drawn_people_of_each_size(detector: PersonDetector) -> None:
    large = FRAME.resize((FRAME.width * 2, FRAME.height * 2))
    for factor, (boxes, scores) in zip((1, 2, 1), detector.detect([FRAME, large, FRAME]), strict=True):
        best = overlaps(np.array([*TRUTH.values()]) * float(factor), boxes).max(axis=1)
        assert len(boxes) == 2 and best.min() > 0.9
        assert scores == pytest.approx([0.91, 0.91], abs=0.01)


def test_detect_leaves_out_small_and_uncertain_people(detector_folder: Path) -> None:
    for options in ({"min_height": 100}, {"threshold": 0.95}):
        assert len(PersonDetector.load(detector_folder, "cpu", **options).detect([FRAME])[0][0]) == 0


def test_non_maximum_suppression_keeps_the_best_of_each_person() -> None:
    boxes = np.array([[0, 0, 40, 100], [2, 0, 42, 100], [30, 0, 70, 100]], dtype=np.float32)
    assert non_maximum_suppression(boxes, np.array([0.8, 0.9, 0.7], dtype=np.float32)) == [1, 2]
    assert overlaps(boxes[:1], boxes)[0] == pytest.approx([1.0, 38 / 42, 10 / 70])


def test_load_names_the_labels_of_a_model_without_people(tmp_path: Path) -> None:
    folder = save_detector(tmp_path / "cars", ("car", "pedestrian"))
    with pytest.raises(ValueError, match=r"no label 'person'.*2 labels are car, pedestrian; .*--person-label"):
        PersonDetector.load(folder, "cpu")
    assert len(PersonDetector.load(folder, "cpu", label="Pedestrian").detect([FRAME])[0][0]) == 2


def test_load_refuses_other_models(tmp_path: Path, detector_folder: Path) -> None:
    width: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    config = YolosConfig(image_size=[32, 32], num_detection_tokens=2, **width)
    YolosForObjectDetection(config).vit.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_bytes((detector_folder / "preprocessor_config.json").read_bytes())
    with pytest.raises(ValueError, match=r"weights are missing, such as .*trained for object detection"):
        PersonDetector.load(tmp_path, "cpu")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"no object-detection model of this type"):
        PersonDetector.load(tmp_path, "cpu")
