"""Indexing beside the bare vision tower: `python tests/benchmarks/index_rate.py`.

Images a second of what `bdam index` does with image files (decode, resize, normalize, embed), beside the vision tower
alone on the same batches, decoded and normalized before. The embedding goes on where the tower ends, with BDAM and the
fusion head, so the model's whole image path on the same ready batches is printed as well. The tower runs as it is
loaded, in float32, and in the precision that indexing chose. All take turns; ratios are of the medians. On a CPU that
others use as well the clock says little: read the ratio of processor times. Models have new weights: preset `tiny`,
and preset `paper` (ViT-B/16, six layers of BDAM). Wanted: 0.95 of the bare tower's rate.
"""

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from transformers import ViTImageProcessorPil

from data_pipeline.search.embedder import Embedder
from data_pipeline.search.index.embedding import embed_batches
from data_pipeline.synthetic.dataset import synthetic_row
from modeling_bdam import BDAMConfig, BDAMModel
from modeling_bdam.files import usable_cores
from modeling_bdam.training.run_arguments import parse_arguments


def new_embedder(preset: str) -> Embedder:
    """A preset's model with new weights; its texts play no part here."""
    _, data, _, fields = parse_arguments([f"--config={preset}", "--output_dir=unused"])
    size = {"height": data.image_height, "width": data.image_width}
    processor: Any = SimpleNamespace(image_processor=ViTImageProcessorPil(size=size))
    return Embedder(BDAMModel(BDAMConfig(**fields)), processor, preset, device="cpu")


def write_images(folder: Path, count: int, height: int, width: int) -> list[Path]:
    """JPEG files of synthetic people."""
    files = [folder / f"{number}.jpg" for number in range(count)]
    for number, file in enumerate(files):
        drawn = Image.open(io.BytesIO(synthetic_row(0, number, 0, 0)["image"]["bytes"])).convert("RGB")
        drawn.resize((width, height), Image.Resampling.BICUBIC).save(file, quality=90)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=["tiny", "paper"])
    parser.add_argument("--images", type=int, nargs="+", default=[512, 16], help="a number for each preset")
    parser.add_argument("--batch_size", type=int, nargs="+", default=[64, 8])
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{usable_cores()} cores, torch with {torch.get_num_threads()} threads")
    for preset, count, batch_size in zip(arguments.presets, arguments.images, arguments.batch_size, strict=True):
        embedder = new_embedder(preset)
        height, width = (128, 64) if preset == "tiny" else (384, 128)
        with tempfile.TemporaryDirectory() as name:
            files = write_images(Path(name), count, height, width)
            measure(embedder, files, batch_size, arguments.runs)


@torch.inference_mode()
def measure(embedder: Embedder, files: list[Path], batch_size: int, runs: int) -> None:
    """Prints the rates of one model."""
    batches = [files[start : start + batch_size] for start in range(0, len(files), batch_size)]
    pixels = embedder.pixels
    ready = [pixels.normalize([pixels.resize(Image.open(file)) for file in batch], len(batch)) for batch in batches]

    def index() -> None:
        for _ in embed_batches(embedder, ((batch, [None] * len(batch)) for batch in batches)):
            pass

    def tower() -> None:
        for batch in ready:
            embedder.model.vision_model(pixel_values=batch)

    def image_path() -> None:
        for batch in ready:
            embedder.model.get_image_features(pixel_values=batch)

    def in_precision_of_index(way: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=embedder.in_bfloat16):
                way()

        return run

    precision = "bfloat16" if embedder.in_bfloat16 else "float32"
    ways = {
        "indexing, from files": index,
        "bare tower, float32": tower,
        f"bare tower, {precision}": in_precision_of_index(tower),
        f"image path, {precision}": in_precision_of_index(image_path),
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for run in range(runs + 1):
        for name, way in ways.items():
            clock, busy = time.perf_counter(), time.process_time()
            way()
            if run > 0:  # the first warms up
                seconds[name].append((time.perf_counter() - clock, time.process_time() - busy))
    print(f"{embedder.name}: {len(files)} images, {batch_size} at a time, indexing in {precision}")
    medians = {name: [statistics.median(taken) for taken in zip(*both, strict=True)] for name, both in seconds.items()}
    ours = medians["indexing, from files"]
    for name, (clock, busy) in medians.items():
        print(
            f"  {name}: {len(files) / clock:.1f} images/s by the clock; indexing reaches {clock / ours[0]:.3f} of it, "
            f"by processor time {busy / ours[1]:.3f}"
        )


if __name__ == "__main__":
    main()
