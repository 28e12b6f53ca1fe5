"""Rate of the collator, and time that training waits for it: `python tests/benchmarks/collator_rate.py`.

Rate: the collator on JPEG files, compared with `np.array(Image.open(file).convert("RGB").resize(size))` on the same
files. The ratio of rates is the median over rounds, in processor time of one thread. Target: at least 0.8.

Waiting: training steps of preset `paper` (see paper_step.py). Two workers of a DataLoader decode, augment and tokenize.
Target: at most 5 % of the time is spent waiting for a batch.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from paper_step import paper_trainer
from PIL import Image
from timing import medians, time_in_turns
from torch.utils.data import DataLoader

from data_pipeline import PERSON_FEATURES, with_image_files
from data_pipeline.batches.augmentation import AugmentationConfig
from data_pipeline.batches.collator import RetrievalCollator, TrainCollator
from data_pipeline.batches.tokenizer import train_tokenizer
from modeling_bdam import BDAMProcessor
from modeling_bdam.processing_bdam import default_image_processor
from modeling_bdam.training.sampler import IdentityBalancedSampler, KeyedDataset

SIZES = (
    ((128, 384), (128, 384)),
    ((64, 128), (64, 128)),
    ((128, 384), (224, 224)),
)  # (width, height) on disk and of the tensors
CAPTION = "a man in a red coat and blue jeans, with a black bag over his left shoulder, walks past a white car"


def write_jpegs(folder: Path, count: int, size: tuple[int, int]) -> list[str]:
    """Writes images with coarse shapes and fine noise, about half a byte per pixel."""
    rng = np.random.default_rng(0)
    width, height = size
    files = []
    for number in range(count):
        shapes = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        pixels = np.asarray(Image.fromarray(shapes).resize(size, Image.Resampling.BICUBIC)).astype(np.float64)
        pixels += rng.normal(0, 8, pixels.shape)
        file = folder / f"{width}x{height}_{number:04d}.jpg"
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, quality=90)
        files.append(str(file))
    return files


def processor_for(size: tuple[int, int]) -> BDAMProcessor:
    width, height = size
    tokenizer = train_tokenizer([CAPTION] * 2, vocab_size=300, max_length=64)
    return BDAMProcessor(default_image_processor(height, width), tokenizer)


def print_rates(folder: Path, images: int, rounds: int) -> None:
    """Prints the rate of the collator and its ratio to Pillow, for several sizes of images and batches."""
    for on_disk, size in SIZES:
        files = write_jpegs(folder, images, on_disk)
        collate = RetrievalCollator(processor_for(size))
        for batch_size in (16, 64):
            batches = [files[first : first + batch_size] for first in range(0, images, batch_size)]

            def pillow(files: list[str] = files, size: tuple[int, int] = size) -> None:
                for file in files:
                    np.array(Image.open(file).convert("RGB").resize(size))

            def ours(batches: list[list[str]] = batches, collate: RetrievalCollator = collate) -> None:
                for batch in batches:
                    collate([{"image": {"path": file, "bytes": None}} for file in batch])

            seconds = time_in_turns({"pillow": pillow, "ours": ours}, rounds)
            ratios = [theirs / own for (_, theirs), (_, own) in zip(seconds["pillow"], seconds["ours"], strict=True)]
            ratio, spread = statistics.median(ratios), f"{min(ratios):.2f} to {max(ratios):.2f}"
            rate = images / medians(seconds["ours"])[1]
            shape = "x".join(map(str, on_disk)) + " -> " + "x".join(map(str, size))
            print(
                f"{shape:>20}, batches of {batch_size}: {rate:5.0f} images/s, ratio {ratio:.2f} ({spread}; target: 0.8)"
            )


def rows_of(files: list[str]) -> Dataset:
    """Makes rows with two images per person, and captions and descriptions of typical length."""
    rows: list[dict[str, Any]] = [
        {
            "image": file,
            "person_id": number // 2,
            "camera_id": -1,
            "outfit_id": -1,
            "captions": [CAPTION, CAPTION.upper()],
            "identity_description": "a young man of slim build and medium height with short black hair",
            "clothing_description": "a red coat, blue jeans, white shoes and a black bag",
        }
        for number, file in enumerate(files)
    ]
    return with_image_files(Dataset.from_list(rows, features=PERSON_FEATURES))


def print_waiting(folder: Path, batch_size: int, steps: int) -> None:
    """Prints the share of the training time that is spent waiting for batches."""
    rows = rows_of(write_jpegs(folder, (steps + 3) * batch_size, (128, 384)))
    model, trainer = paper_trainer(str(folder / "output"))
    model.train()
    sampler = IdentityBalancedSampler(rows["person_id"], 2, batch_size, seed=0)
    collate = TrainCollator(processor_for((224, 224)), AugmentationConfig())
    loader: DataLoader[Any] = DataLoader(
        KeyedDataset(rows), batch_size=batch_size, sampler=sampler, collate_fn=collate, num_workers=2, drop_last=True
    )
    waiting, computing = [], []
    batches = iter(loader)
    for number in range(steps + 1):
        start = time.perf_counter()
        batch = next(batches)
        fetched = time.perf_counter()
        model.zero_grad()
        trainer.training_step(model, batch)
        if number:  # the first waits until the workers have started
            waiting.append(fetched - start)
            computing.append(time.perf_counter() - fetched)
    share = sum(waiting) / (sum(waiting) + sum(computing))
    print(
        f"paper, batches of {batch_size}, 2 workers: step {statistics.mean(computing):.2f} s, waiting "
        f"{1000 * statistics.mean(waiting):.1f} ms: {share:.2%} (target: at most 5 %)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch_size", type=int, default=8, help="of the training step; 64 in the preset")
    parser.add_argument("--steps", type=int, default=4)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        print_rates(Path(folder), arguments.images, arguments.rounds)
        print_waiting(Path(folder), arguments.batch_size, arguments.steps)


if __name__ == "__main__":
    main()
