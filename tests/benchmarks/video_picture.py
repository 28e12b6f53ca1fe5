"""Picture of a video search: `python -m tests.benchmarks.video_picture --model outputs/tiny --output video.png`.

Draws a video of synthetic people, crops and indexes them with `bdam index --detector`, and joins the frame of the best
hit, with the boxes of its crops, and the sheet of `bdam search --sheet`. The detector needs a green background.
"""

import argparse
import json
import tempfile
from pathlib import Path

from PIL import Image
from typer.testing import CliRunner

from data_pipeline.commands.main import app
from data_pipeline.detection.frames import read_frame
from data_pipeline.search.demo.sources import with_box
from modeling_bdam.files import atomic_path

from ..data_pipeline.detection import small_videos
from ..data_pipeline.detection.small_videos import Walk, save_detector, write_video

WALKS = [Walk(38, 0.0), Walk(7, 1.6), Walk(54, 3.2), Walk(11, 4.8), Walk(32, 6.4)]
SIZE, RATE, HITS = (640, 360), 8, 5


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments), "--device", "cpu"])
    if result.exit_code:
        raise SystemExit(result.stderr)
    return result.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--sentence", default="a young woman in a red jacket and blue jeans")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    (small_videos.WIDTH, small_videos.HEIGHT), small_videos.RATE = SIZE, RATE
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video = write_video(folder / "videos/gate.mp4", WALKS, 9.5)
        detector = save_detector(folder / "detector")
        index, sheet = folder / "index", folder / "hits.png"
        run("index", "--images", video.parent, "--detector", detector, "--model", given.model, "--index", index)
        found = run("search", given.sentence, "--index", index, "--top-k", HITS, "--sheet", sheet, "--json")
        seconds = json.loads(found)[0]["metadata"]["seconds"]
        rows = [json.loads(line) for line in (folder / "index-crops/metadata.jsonl").read_text().splitlines()]
        seen = [row for row in rows if row["seconds"] == seconds]
        frame = read_frame(video, seconds)
        for row in seen:
            left, top = row["box_x"], row["box_y"]
            frame = with_box(frame, left, top, left + row["box_w"], top + row["box_h"])
        answer = Image.open(sheet).convert("RGB")
    picture = Image.new("RGB", (frame.width + answer.width + 12, max(frame.height, answer.height)), "white")
    picture.paste(frame, (0, (picture.height - frame.height) // 2))
    picture.paste(answer, (frame.width + 12, (picture.height - answer.height) // 2))
    with atomic_path(given.output) as temporary:
        picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE).save(
            temporary, format="PNG", optimize=True
        )
    print(f"{given.output}: {picture.width} x {picture.height} pixels, {given.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
