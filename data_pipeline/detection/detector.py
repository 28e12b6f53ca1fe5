"""Finds people in frames with an object-detection model of transformers."""

import inspect
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modeling_bdam.files import default_device, did_you_mean

Boxes = NDArray[np.float32]  # [N, 4]: left, top, right, bottom in pixels
Scores = NDArray[np.float32]  # [N]

_SAME_OBJECT = 0.7  # intersection over union from which two boxes of a frame are one person


class PersonDetector:
    """An object-detection model in evaluation mode with its image processor.

    Attributes:
        threshold: score from which a box is a person.
        min_height: smallest height of a box in pixels; its width is at least a quarter of that.
        identity: the settings and the version of the model, as JSON; equal identities find equal boxes.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        label: str = "person",
        threshold: float = 0.5,
        min_height: int = 64,
        device: str | None = None,
    ) -> None:
        self.device = device or default_device()
        self.model = model.to(self.device).eval()
        self.processor = processor
        self.threshold = threshold
        self.min_height = min_height
        self._label_ids = _label_ids(model.config, label)
        name = model.config._name_or_path
        self.identity: list[Any] = [name, _version(name, model.config), label.lower(), threshold, min_height]

    @classmethod
    def load(cls, name: str | Path, device: str | None = None, **options: Any) -> "PersonDetector":
        """Loads a model from a folder or the Hub; `options` are those of the class.

        Raises:
            ValueError: this is no object-detection model, or it has no class of that label.
            OSError: there is no such model.
        """
        from transformers import AutoImageProcessor, AutoModelForObjectDetection

        try:
            model, loading = AutoModelForObjectDetection.from_pretrained(name, output_loading_info=True)
            processor = AutoImageProcessor.from_pretrained(name)
        except ValueError:
            raise ValueError(
                f"detector {name}: transformers has no object-detection model of this type; give one such as "
                "hustvl/yolos-small"
            ) from None
        if loading["missing_keys"]:
            raise ValueError(
                f"detector {name}: {len(loading['missing_keys'])} weights are missing, such as "
                f"{min(loading['missing_keys'])}; give a model that was trained for object detection"
            )
        if not hasattr(processor, "post_process_object_detection"):
            raise ValueError(f"detector {name}: {type(processor).__name__} has no post_process_object_detection")
        return cls(model, processor, device=device, **options)

    def detect(self, images: Sequence[Image.Image], threshold: float | None = None) -> list[tuple[Boxes, Scores]]:
        """Finds the people in RGB images; returns boxes inside the image and scores of each, best first.

        Images of one size are one batch: models without a pixel mask misplace the boxes of padded images.

        Args:
            images: the images of a batch.
            threshold: smallest score; by default that of the detector.
        """
        return [
            found for _, same in groupby(images, lambda image: image.size) for found in self._batch([*same], threshold)
        ]

    def _batch(self, images: list[Image.Image], threshold: float | None) -> Iterator[tuple[Boxes, Scores]]:
        import torch

        inputs = self.processor(images=images, return_tensors="pt").to(self.device)
        accepted = inspect.signature(self.model.forward).parameters
        with torch.inference_mode():
            outputs = self.model(**{name: value for name, value in inputs.items() if name in accepted})
        width, height = images[0].size
        results = self.processor.post_process_object_detection(
            outputs,
            threshold=self.threshold if threshold is None else threshold,
            target_sizes=[(height, width)] * len(images),
        )
        for result in results:
            boxes = result["boxes"].float().cpu().numpy().reshape(-1, 4)
            scores = result["scores"].float().cpu().numpy()
            boxes = boxes.clip(0, [width, height, width, height]).astype(np.float32)
            wide, tall = (boxes[:, 2:] - boxes[:, :2]).T
            is_person = np.isin(result["labels"].cpu().numpy(), self._label_ids)
            kept = np.flatnonzero(is_person & (tall >= self.min_height) & (wide >= self.min_height / 4))
            kept = kept[non_maximum_suppression(boxes[kept], scores[kept])]
            yield boxes[kept], scores[kept]


def overlaps(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.floating]:
    """Computes the intersection over union of boxes [N, 4] and [M, 4], as [N, M]."""
    least = np.maximum(first[:, None, :2], second[None, :, :2])
    most = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (most - least).clip(0).prod(axis=2)  # [N, M]
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None, :] - shared, 1e-9)


def non_maximum_suppression(boxes: Boxes, scores: Scores) -> list[int]:
    """Returns the places of the boxes that overlap no better one, best first."""
    kept: list[int] = []
    overlap = overlaps(boxes, boxes)
    for place in np.argsort(-scores, kind="stable"):
        if not (overlap[place, kept] > _SAME_OBJECT).any():
            kept.append(int(place))
    return kept


def _label_ids(config: Any, label: str) -> list[int]:
    """Returns the class numbers of a label; raises `ValueError` with the labels of the model."""
    names = {int(number): str(name) for number, name in config.id2label.items()}
    found = [number for number, name in names.items() if name.strip().lower() == label.strip().lower()]
    if not found:
        some = ", ".join(sorted(set(names.values()))[:20])
        raise ValueError(
            f"detector {config._name_or_path}: there is no label {label!r}{did_you_mean(label, names.values())}; its "
            f"{len(names)} labels are {some}{', ...' if len(names) > 20 else ''}; choose one with --person-label"
        )
    return found


def _version(name: str, config: Any) -> Any:
    """Returns the commit of a model of the Hub, or the newest modification time in a folder."""
    folder = Path(name)
    return (
        max(f.stat().st_mtime_ns for f in folder.iterdir())
        if folder.is_dir()
        else getattr(config, "_commit_hash", None)
    )
