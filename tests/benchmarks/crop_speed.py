"""Frames per second of `crop_people` without the time of a detector: decoding, tracking and writing crops on one core.

Draws a video of three synthetic walkers, enlarges it to 1280 x 720 pixels, and gives the known boxes to the pipeline.
Run `python -m tests.benchmarks.crop_speed` from the root of the repository.
"""

import os
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np

from data_pipeline.detection.crops import CropOptions, crop_people
from tests.data_pipeline.detection.small_videos import HEIGHT, Walk, draw_frame

RATE, SECONDS, FACTOR = 25, 20, 5
WALKS = [Walk(person, 4.0 * place, 1, 8.0) for place, person in enumerate((3, 32, 38))]


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "walkers.mp4"
        boxes = {}
        with av.open(file, "w") as container:
            stream: Any = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
            stream.width, stream.height, stream.pix_fmt = 1280, FACTOR * HEIGHT, "yuv420p"
            for number in range(RATE * SECONDS):
                frame, found = draw_frame(WALKS, number / RATE)
                boxes[number] = np.array([*found.values()], dtype=np.float32).reshape(-1, 4) * FACTOR
                container.mux(stream.encode(av.VideoFrame.from_image(frame.resize((1280, FACTOR * HEIGHT)))))
            container.mux(stream.encode())
        for per_second in (5, RATE):
            known = iter(boxes[number] for number in range(0, RATE * SECONDS, RATE // per_second))
            detector: Any = SimpleNamespace(threshold=0.5, identity=per_second)
            detector.detect = lambda images, _, known=known: [(b := next(known), np.full(len(b), 0.9)) for _ in images]
            start, cpu = time.perf_counter(), time.process_time()
            report = crop_people(file, detector, Path(folder) / f"crops-{per_second}", CropOptions(per_second))
            wall, cpu = time.perf_counter() - start, time.process_time() - cpu
            frames = RATE * SECONDS
            print(
                f"{per_second} of {RATE} frames per second searched: {frames / cpu:.0f} frames of 1280 x 720 per CPU "
                f"second ({frames / wall:.0f} per second), {report.tracks} tracks, {report.crops} crops"
            )


if __name__ == "__main__":
    main()
