"""Draws videos of synthetic people who walk past a camera, and a detector for their green background."""

import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForObjectDetection,
    PreTrainedConfig,
    PreTrainedModel,
    YolosImageProcessorPil,
)
from transformers.models.yolos.modeling_yolos import YolosObjectDetectionOutput

from data_pipeline.synthetic.figure import draw_figure
from data_pipeline.synthetic.people import describe_person, describe_shot

WIDTH, HEIGHT, RATE = 256, 144, 10
batches = 0  # forward passes of the detector in this process
QUERIES = 8  # boxes that the detector can return


@dataclass(frozen=True)
class Walk:
    """One walk past the camera: a synthetic person, the time of the first step, and the direction (1 is right)."""

    person: int
    start: float
    direction: int = 1
    seconds: float = 3.0


def draw_frame(
    walks: list[Walk], seconds: float, scene: Image.Image | None = None
) -> tuple[Image.Image, dict[int, np.ndarray]]:
    """Draws a frame; returns it with the box of each visible person, (left, top, right, bottom).

    The background moves: waves of green light, or a wide scene at 10 pixels per second.
    """
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    light = 150 + 50 * np.sin((x + 20 * seconds) / 9) * np.cos((y - 12 * seconds) / 7)
    frame = Image.fromarray(np.stack([light * 0.3, light, light * 0.3], axis=2).astype(np.uint8))
    if scene is not None:
        left = int(10 * abs(seconds)) % (scene.width - WIDTH)
        frame = scene.crop((left, 0, left + WIDTH, HEIGHT))
    boxes = {}
    for walk in walks:
        share = (seconds - walk.start) / walk.seconds
        if 0 <= share <= 1:
            person, before = describe_person(0, walk.person), np.array(frame)
            place = walk.direction * (share - 0.5) * (WIDTH / HEIGHT - 0.4)
            shot = replace(describe_shot(0, walk.person, 0, 0), view="right" if walk.direction > 0 else "left")
            shot = replace(shot, phase=seconds % 1, arms=0.5, size=0.6, feet=0.93, x=place)
            draw_figure(frame, person.traits, person.outfits[0], shot)
            rows, columns = np.nonzero((np.array(frame) != before).any(axis=2))
            boxes[walk.person] = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return frame, boxes


def write_video(
    path: Path, walks: list[Walk], seconds: float, scene: Image.Image | None = None, **metadata: str
) -> Path:
    """Writes a video of H.264, without sound."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w") as container:
        container.metadata.update(metadata)
        stream: Any = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "crf": "18"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(round(seconds * RATE)):
            container.mux(stream.encode(av.VideoFrame.from_image(draw_frame(walks, number / RATE, scene)[0])))
        container.mux(stream.encode())
    return path


class GreenScreenConfig(PreTrainedConfig):
    model_type = "green_screen"


class GreenScreenDetector(PreTrainedModel):
    """Returns the connected regions of an image that are not green, in the format of the DETR family."""

    config_class = GreenScreenConfig

    def __init__(self, config: GreenScreenConfig) -> None:
        super().__init__(config)
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.post_init()

    def forward(self, pixel_values: Tensor) -> YolosObjectDetectionOutput:
        global batches
        batches += 1
        if batches == int(os.environ.get("KILLED_AT_BATCH", "0")):
            os.kill(os.getpid(), signal.SIGKILL)
        count, _, height, width = pixel_values.shape
        boxes, logits = (
            torch.full((count, QUERIES, 4), 0.5),
            torch.zeros(count, QUERIES, len(self.config.id2label or ()) + 1),
        )
        logits[..., -1] = 9.0  # no object
        for number, (red, green, blue) in enumerate(pixel_values):
            regions, _ = ndimage.label(((green < red + 0.1) | (green < blue + 0.1)).numpy())
            found = [region for region in ndimage.find_objects(regions) if region[0].stop - region[0].start > 20]
            for place, (rows, columns) in enumerate(found[:QUERIES]):
                edges = torch.tensor(
                    [columns.start / width, rows.start / height, columns.stop / width, rows.stop / height]
                )
                boxes[number, place] = torch.cat([(edges[:2] + edges[2:]) / 2, edges[2:] - edges[:2]])
                logits[number, place, -1], logits[number, place, 1] = 0.0, 3.0
        return YolosObjectDetectionOutput(logits=logits, pred_boxes=boxes)


AutoConfig.register("green_screen", GreenScreenConfig)
AutoModelForObjectDetection.register(GreenScreenConfig, GreenScreenDetector)


def save_detector(folder: Path, labels: tuple[str, ...] = ("bicycle", "Person")) -> Path:
    """Saves the detector with its image processor, which neither resizes nor normalizes."""
    GreenScreenDetector(GreenScreenConfig(id2label=dict(enumerate(labels)))).save_pretrained(folder)
    YolosImageProcessorPil(do_resize=False, do_normalize=False, do_pad=False).save_pretrained(folder)
    return folder


if __name__ == "__main__":  # `bdam` with this detector
    from data_pipeline.commands.main import app

    app()
