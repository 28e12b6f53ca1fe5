"""Time and memory to load 40,000 annotated images: `python tests/benchmarks/load_40k.py [--skip-unreadable]`.

Writes 40,000 JPEG files of 128×384 pixels in the layout of CUHK-PEDES into a temporary folder, with descriptions and
outfits, and loads the data set twice, in new processes; the second load reads the cache. Exits with 1 if a limit is
exceeded: first load 20 s, second load 2 s, peak memory 1 GiB.
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
from typing import Any

import numpy as np
from PIL import Image

IMAGES = 40_000
IMAGES_EACH = 3
PARTS = ("cam_a", "cam_b", "CUHK01", "CUHK03", "Market", "test_query", "train_query")
LIMITS = {"first load": 20.0, "second load": 2.0, "peak memory": 1.0}
WORDS = ("man", "woman", "person", "wearing", "black", "white", "blue", "red", "green", "shirt", "jacket", "trousers")


def write_set(folder: Path) -> None:
    """Writes a data set in the layout of CUHK-PEDES, with two captions of 23 words per image."""
    rng = np.random.default_rng(0)
    jpegs = []
    for _ in range(20):
        colors = rng.integers(0, 256, (24, 8, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(colors).resize((128, 384), Image.Resampling.BICUBIC).save(buffer, "JPEG")
        jpegs.append(buffer.getvalue())
    for part in PARTS:
        (folder / "imgs" / part).mkdir(parents=True)
    entries: list[dict[str, Any]] = []
    for number in range(IMAGES):
        person = number // IMAGES_EACH
        tokens = [[WORDS[word] for word in rng.integers(0, len(WORDS), 23)] for _ in range(2)]
        path = f"{PARTS[person % len(PARTS)]}/{person:05d}_{number % IMAGES_EACH}.jpg"
        # A JPEG comment after the first two bytes makes each file different.
        jpeg = jpegs[number % len(jpegs)]
        comment = str(number).encode()
        marker = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        (folder / "imgs" / path).write_bytes(jpeg[:2] + marker + jpeg[2:])
        entries.append(
            {
                "split": "test" if person % 13 == 0 else "val" if person % 13 == 1 else "train",
                "captions": [" ".join(caption) + "." for caption in tokens],
                "file_path": path,
                "processed_tokens": tokens,
                "id": person + 1,
            }
        )
    (folder / "reid_raw.json").write_text(json.dumps(entries))
    with (folder / "descriptions.jsonl").open("w") as file:
        for entry in entries:
            caption = entry["captions"][0]
            line = {key: caption * 2 for key in ("identity_description", "clothing_description")}
            file.write(json.dumps(line | {"file_path": entry["file_path"], "caption": caption}) + "\n")
    (folder / "outfits.json").write_text(json.dumps({entry["file_path"]: entry["id"] for entry in entries}))


def load(folder: Path, skip_unreadable: bool) -> None:
    """Loads the data set once in this process; prints seconds and GiB as JSON."""
    from data_pipeline import load_person_dataset

    start = time.perf_counter()
    splits = load_person_dataset(
        "cuhk-pedes",
        folder,
        descriptions=folder / "descriptions.jsonl",
        outfits=folder / "outfits.json",
        skip_unreadable=skip_unreadable,
        cache_dir=folder / "cache",
    )
    seconds = time.perf_counter() - start
    assert sum(splits.num_rows.values()) == IMAGES
    assert splits["train"][-1]["image"].size == (128, 384)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # from KiB
    print(json.dumps({"seconds": seconds, "peak": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skip-unreadable", action="store_true", help="decode every image in the first load")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        load(arguments.load, arguments.skip_unreadable)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_set(Path(folder))
        measured = {}
        for turn in ("first load", "second load"):
            command = [sys.executable, __file__, "--load", folder, *["--skip-unreadable"] * arguments.skip_unreadable]
            measured[turn] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    results = {turn: load["seconds"] for turn, load in measured.items()}
    results["peak memory"] = max(load["peak"] for load in measured.values())
    for name, value in results.items():
        unit = "GiB" if name == "peak memory" else "s"
        print(f"{name}: {value:.2f} {unit} (limit {LIMITS[name]:g} {unit})")
    sys.exit(any(value > LIMITS[name] for name, value in results.items()))


if __name__ == "__main__":
    main()
