"""How long 40,000 annotated images take to load, the first time and again, and how much memory.

    python tests/benchmarks/load_40k.py [--skip-unreadable]

Writes 40,000 JPEGs of 128×384 as CUHK-PEDES into a temporary folder, with descriptions and outfits, loads the set in
fresh processes and removes it. Exits with 1 if a bar is missed: first load ≤ 20 s, second ≤ 2 s, peak ≤ 1 GiB.
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
BARS = {"first load": 20.0, "second load": 2.0, "peak memory": 1.0}
WORDS = ("man", "woman", "person", "wearing", "black", "white", "blue", "red", "green", "shirt", "jacket", "trousers")


def write_set(folder: Path) -> None:
    """The set in CUHK-PEDES's layout: two captions of 23 words an image, `processed_tokens` as in the real file."""
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
        # A comment behind the first two bytes makes every file another one.
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
    """Loads once in this process and prints seconds and GiB."""
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
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # of KiB
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
        figures = {}
        for turn in ("first load", "second load"):
            command = [sys.executable, __file__, "--load", folder, *["--skip-unreadable"] * arguments.skip_unreadable]
            figures[turn] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    results = {turn: figure["seconds"] for turn, figure in figures.items()}
    results["peak memory"] = max(figure["peak"] for figure in figures.values())
    for what, value in results.items():
        unit = "GiB" if what == "peak memory" else "s"
        print(f"{what}: {value:.2f} {unit} (bar {BARS[what]:g} {unit})")
    sys.exit(any(value > BARS[what] for what, value in results.items()))


if __name__ == "__main__":
    main()
