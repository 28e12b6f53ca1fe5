"""Time and memory until the first batch of a million images: `python tests/benchmarks/million_rows.py [--rows N]`.

Writes a million small images with two captions each as Parquet shards into a temporary folder (about 2 GB), and in a
new process loads them by the name `shards`, builds the trainer, and takes the first batch. Exits with 1 if a limit is
exceeded: first batch after 60 s, peak memory 4 GiB, both measured from the start of the process.
"""

import argparse
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

LIMITS = {"first batch, s": 60.0, "peak memory, GiB": 4.0}
ROWS_OF_SHARD, ROWS_OF_GROUP = 10_000, 100
WORDS = ("man", "woman", "wearing", "black", "white", "blue", "red", "green", "shirt", "jacket", "trousers", "shoes")


def write_shards(folder: Path, rows: int) -> None:
    """Writes Parquet shards of images of 64x32 pixels, each of another person, with captions of 20 words."""
    rng = np.random.default_rng(0)
    jpegs = []
    for _ in range(20):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (64, 32, 3), dtype=np.uint8)).save(buffer, "JPEG")
        jpegs.append(buffer.getvalue())
    for shard, first in enumerate(range(0, rows, ROWS_OF_SHARD)):
        numbers = np.arange(first, min(first + ROWS_OF_SHARD, rows))
        words = np.array(WORDS)[rng.integers(0, len(WORDS), (len(numbers), 2, 20))]
        columns = {
            "image": [{"bytes": jpegs[number % 20], "path": f"{number}.jpg"} for number in numbers.tolist()],
            "person_id": numbers,
            "captions": [[" ".join(caption) for caption in pair] for pair in words.tolist()],
        }
        path = folder / f"train-{shard:05d}-of-{-(-rows // ROWS_OF_SHARD):05d}.parquet"
        pq.write_table(pa.table(columns), path, row_group_size=ROWS_OF_GROUP)


def first_batch(folder: Path, cache: Path) -> None:
    """Loads the shards, takes the first batch of the trainer, and prints its time and the peak memory as JSON."""
    start = time.perf_counter()
    from data_pipeline.batches.tokenizer import train_tokenizer
    from data_pipeline.training import load_splits, new_trainer
    from modeling_bdam import BDAMProcessor
    from modeling_bdam.processing_bdam import default_image_processor
    from modeling_bdam.training.build import build_model
    from modeling_bdam.training.run_arguments import parse_arguments

    flags = ["--dataset_name=shards", f"--data_dir={folder}", f"--cache_dir={cache}", "--val_people=1000", "--do_train"]
    flags += [f"--output_dir={cache}/run", "--images_per_person=1", "--per_device_train_batch_size=128"]
    model_args, data_args, args, fields = parse_arguments([*flags, "--dataloader_num_workers=0"])
    splits = load_splits(data_args, args)
    loaded = time.perf_counter()
    model, _ = build_model(
        model_args, data_args, fields, lambda size, length: train_tokenizer([" ".join(WORDS)], size, length)
    )
    tokenizer = train_tokenizer([" ".join(WORDS)], 4096, 64)
    processor = BDAMProcessor(default_image_processor(128, 64), tokenizer)
    trainer = new_trainer(model, args, processor, data_args, splits)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["pixel_values"].shape == (128, 3, 128, 64)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds = time.perf_counter() - start
    processor_time = time.process_time()
    print(
        json.dumps(
            {
                "load, s": loaded - start,
                "first batch, s": seconds,
                "processor time, s": processor_time,
                "peak memory, GiB": peak,
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        first_batch(*map(Path, arguments.child))
        return
    with tempfile.TemporaryDirectory() as name:
        folder, cache = Path(name, "shards"), Path(name, "cache")
        folder.mkdir()
        write_shards(folder, arguments.rows)
        ok = True
        for run in ("first", "second"):  # the second reads the cached index
            command = [sys.executable, __file__, "--child", str(folder), str(cache)]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            measured = json.loads(printed.strip().splitlines()[-1])
            print(f"{run} start of {arguments.rows:,} rows:", {key: round(value, 1) for key, value in measured.items()})
            ok &= all(measured[key] <= limit for key, limit in LIMITS.items())
    print("limits", LIMITS, "kept" if ok else "EXCEEDED")
    sys.exit(not ok)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main()
