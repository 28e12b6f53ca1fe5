"""Rate of indexing images, compared with the bare vision tower: `python tests/benchmarks/index_rate.py`.

Images per second of the steps of `bdam index` (decode, resize, normalize, embed), compared with the vision tower on
the same preprocessed batches, in float32 and in the precision of the index. The image path of the whole model, with
BDAM and the fusion head, is printed as well. Models have new weights: presets `tiny` and `paper` (ViT-B/16, six layers
of BDAM). Ratios are of the medians; target: 0.95 of the rate of the bare tower. On a CPU with other load, read the
ratio of processor times.
"""

import argparse
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from timing import medians, time_in_turns
from transformers import ViTImageProcessorPil

from data_pipeline.search.embedder import Embedder
from data_pipeline.search.index.embedding import embed_batches
from data_pipeline.synthetic.dataset import synthetic_row
from modeling_bdam import BDAMConfig, BDAMModel
from modeling_bdam.files import usable_cores
from modeling_bdam.training.run_arguments import parse_arguments


def new_embedder(preset: str) -> Embedder:
    """Returns an embedder for images: the model of a preset with new weights, and no tokenizer."""
    _, data, _, fields = parse_arguments([f"--config={preset}", "--output_dir=unused"])
    size = {"height": data.image_height, "width": data.image_width}
    processor: Any = SimpleNamespace(image_processor=ViTImageProcessorPil(size=size))
    return Embedder(BDAMModel(BDAMConfig(**fields)), processor, preset, device="cpu")


def write_images(folder: Path, count: int, height: int, width: int) -> list[Path]:
    """Writes JPEG files of synthetic people."""
    files = [folder / f"{number}.jpg" for number in range(count)]
    for number, file in enumerate(files):
        drawn = Image.open(io.BytesIO(synthetic_row(0, number, 0, 0)["image"]["bytes"])).convert("RGB")
        drawn.resize((width, height), Image.Resampling.BICUBIC).save(file, quality=90)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=["tiny", "paper"])
    parser.add_argument("--images", type=int, nargs="+", default=[512, 16], help="one number for each preset")
    parser.add_argument("--batch_size", type=int, nargs="+", default=[64, 8])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{usable_cores()} cores, torch with {torch.get_num_threads()} threads")
    for preset, count, batch_size in zip(arguments.presets, arguments.images, arguments.batch_size, strict=True):
        embedder = new_embedder(preset)
        height, width = (128, 64) if preset == "tiny" else (384, 128)
        with tempfile.TemporaryDirectory() as name:
            files = write_images(Path(name), count, height, width)
            measure(embedder, files, batch_size, arguments.rounds)


@torch.inference_mode()
def measure(embedder: Embedder, files: list[Path], batch_size: int, rounds: int) -> None:
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
    print(f"{embedder.name}: {len(files)} images, {batch_size} at a time, indexing in {precision}")
    times = {name: medians(seconds) for name, seconds in time_in_turns(ways, rounds).items()}
    ours = times["indexing, from files"]
    for name, (clock, busy) in times.items():
        print(
            f"  {name}: {len(files) / clock:.1f} images/s by the clock; indexing reaches {clock / ours[0]:.3f} of it, "
            f"by processor time {busy / ours[1]:.3f}"
        )


if __name__ == "__main__":
    main()
