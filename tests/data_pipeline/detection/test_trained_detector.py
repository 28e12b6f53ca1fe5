"""A small detector that is trained here on drawn scenes, from the training to the tracks of a video."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForObjectDetection,
    PreTrainedConfig,
    PreTrainedModel,
    YolosImageProcessorPil,
)
from transformers.models.yolos.modeling_yolos import YolosObjectDetectionOutput

from data_pipeline.detection.crops import crop_people
from data_pipeline.detection.detector import PersonDetector, overlaps
from data_pipeline.synthetic.backgrounds import BACKGROUNDS

from .small_videos import HEIGHT, WIDTH, Walk, draw_frame, write_video
from .test_crops import rows_of

STRIDE, INPUT = 8, (HEIGHT // 2, WIDTH // 2)


class CellsConfig(PreTrainedConfig):
    model_type = "cells"


class CellsDetector(PreTrainedModel):
    """Predicts one box per cell of 8 x 8 pixels, as FCOS does, so that a person has many boxes before suppression."""

    config_class = CellsConfig

    def __init__(self, config: CellsConfig) -> None:
        super().__init__(config)
        layers: list[nn.Module] = []
        for before, after, stride, dilation in (
            *((3, 16, 2, 1), (16, 32, 2, 1), (32, 48, 2, 1)),
            *((48, 48, 1, 1), (48, 48, 1, 2), (48, 48, 1, 3)),
        ):
            layers += [nn.Conv2d(before, after, 3, stride, dilation, dilation), nn.GroupNorm(4, after), nn.ReLU()]
        self.cells = nn.Sequential(*layers, nn.Conv2d(48, 6, 1))
        self.post_init()

    def forward(self, pixel_values: Tensor) -> YolosObjectDetectionOutput:
        found = self.cells(pixel_values - 0.5)  # [B, 6, h, w]
        centers = cell_centers(*found.shape[-2:])
        distances = nn.functional.softplus(found[:, 2:]).flatten(2).transpose(1, 2) / 5  # [B, h w, 4]
        edges = torch.cat([centers - distances[..., :2], centers + distances[..., 2:]], dim=-1)
        boxes = torch.cat([(edges[..., :2] + edges[..., 2:]) / 2, edges[..., 2:] - edges[..., :2]], dim=-1)
        return YolosObjectDetectionOutput(logits=found[:, :2].flatten(2).transpose(1, 2), pred_boxes=boxes)


AutoConfig.register("cells", CellsConfig)
AutoModelForObjectDetection.register(CellsConfig, CellsDetector)


def cell_centers(rows: int, columns: int) -> Tensor:
    """Returns the centers of the cells as shares of the frame, [rows columns, 2]."""
    y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)


def draw_scene(rng: random.Random) -> Image.Image:
    """Draws a background of two frames side by side."""
    scene = Image.new("RGB", (2 * WIDTH, HEIGHT))
    for left in (0, WIDTH):
        part = Image.new("RGB", (WIDTH, HEIGHT))
        BACKGROUNDS[rng.randint(1, 6)](ImageDraw.Draw(part), WIDTH, HEIGHT, rng)
        scene.paste(part, (left, 0))
    return scene


def train(folder: Path, frames: int, steps: int) -> Path:
    """Trains the detector on frames of other people in other scenes, and saves it."""
    rng = random.Random(0)
    torch.manual_seed(0)
    pixels, truth = [], []
    for _ in range(frames):
        time, count = 20 * rng.random(), rng.randrange(3)
        walks = [Walk(rng.randrange(100, 200), time - 3 * rng.random(), rng.choice((-1, 1))) for _ in range(count)]
        frame, boxes = draw_frame(walks, time, draw_scene(rng))
        pixels.append(np.array(frame.resize(INPUT[::-1])))
        truth.append([box / [WIDTH, HEIGHT, WIDTH, HEIGHT] for box in boxes.values()])
    images = torch.tensor(np.stack(pixels)).permute(0, 3, 1, 2) / 255
    centers = cell_centers(INPUT[0] // STRIDE, INPUT[1] // STRIDE)
    labels, targets = torch.ones(frames, len(centers), dtype=torch.long), torch.zeros(frames, len(centers), 4)
    for number, boxes_of_frame in enumerate(truth):
        for box in boxes_of_frame:
            left, top, right, bottom = box.tolist()
            middle, half = (
                torch.tensor([left + right, top + bottom]) / 2,
                torch.tensor([right - left, bottom - top]) / 4,
            )
            inside = ((centers - middle).abs() < half).all(dim=1)
            labels[number, inside], targets[number, inside] = 0, torch.tensor([left, top, right, bottom])
    model = CellsDetector(CellsConfig(id2label={0: "person"}))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    for _ in range(steps):
        batch = torch.randint(frames, (8,))
        found, label = model(images[batch]), labels[batch]
        boxes = found.pred_boxes
        edges = torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], dim=-1)
        wrong = (edges - targets[batch]).abs().sum(-1)[label == 0].sum() / (label == 0).sum().clamp(min=1)
        loss = (
            nn.functional.cross_entropy(found.logits.flatten(0, 1), label.flatten(), torch.tensor([3.0, 1.0]))
            + 2 * wrong
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.save_pretrained(folder)
    size = {"height": INPUT[0], "width": INPUT[1]}
    YolosImageProcessorPil(size=size, do_normalize=False, do_pad=False).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_trained_detector_finds_each_walk_as_one_track(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="videos need PyAV: pip install -e '.[video]'")
    detector = PersonDetector.load(train(tmp_path / "detector", 600, 1800), "cpu")
    rng = random.Random(1)
    scene, walks = draw_scene(rng), [Walk(3, 0.2), Walk(32, 4.0, -1), Walk(38, 8.0)]
    found = recalled = people = 0
    for number in range(55):
        frame, truth = draw_frame(walks, number / 5, scene)
        boxes, _ = detector.detect([frame])[0]
        found, people = found + len(boxes), people + len(truth)
        recalled += sum(bool((overlaps(box[None], boxes) > 0.5).any()) for box in truth.values())
    print(f"{recalled} of {people} people found, {found} boxes")
    assert recalled >= 0.9 * people and found <= 1.2 * people
    write_video(tmp_path / "video.mp4", walks, 11.0, scene)
    crop_people(tmp_path / "video.mp4", detector, tmp_path / "crops", show_progress=False)
    tracks: dict[str, set[int]] = {}
    for row in rows_of(tmp_path / "crops"):
        tracks.setdefault(row["track_id"], set()).add(int(row["seconds"] // 4))
    assert sorted(map(sorted, tracks.values())) == [[0], [1], [2]]
