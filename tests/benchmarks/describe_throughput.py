"""Throughput of describing images, by `python -m tests.benchmarks.describe_throughput`.

The server is a subprocess on 127.0.0.1 that answers after 200 ms. The measured time includes all work of the client:
reading images, requests, validation, writing each answer, and fsync. Then the OpenAI SDK alone sends as many of the
same requests, which shows the rate and the processor time that client library and server leave on this machine.
Targets: 0.95 of the ideal rate or of the rate of the SDK alone, at most 3 ms of processor time per request, constant
memory.
"""

import argparse
import asyncio
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import openai
import psutil
from PIL import Image

from data_pipeline.descriptions.client import ChatClient
from data_pipeline.descriptions.describer import Describer
from data_pipeline.descriptions.images import ImageItem
from data_pipeline.descriptions.options import DescribeOptions
from data_pipeline.descriptions.run import DescribeRun, Outcome
from data_pipeline.descriptions.store import DescriptionStore

SERVER = Path(__file__).parents[1] / "data_pipeline" / "descriptions" / "openai_server.py"
IN_FLIGHT = 32
DELAY = 0.2
MEBIBYTE = 2**20
Result = TypeVar("Result")


def write_images(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """Writes different JPEG images of size (width, height)."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        blocks = rng.integers(0, 256, (size[1] // 16, size[0] // 16, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(blocks).resize(size).save(file, format="JPEG", quality=90)
        paths.append(folder / f"{number:06d}.jpg")
        paths[-1].write_bytes(file.getvalue())
    return paths


class Measured:
    """Iterates over the images, and records the memory of this process after each tenth of them."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.memory: list[float] = []

    def __iter__(self) -> Iterator[ImageItem]:
        for number, path in enumerate(self.paths, start=1):
            yield ImageItem(path.name, path)
            if number % max(1, len(self.paths) // 10) == 0:
                self.memory.append(psutil.Process().memory_info().rss / MEBIBYTE)


async def describe(items: Measured, base_url: str, output: Path) -> Outcome:
    """Describes all images with one model on one server."""
    with DescriptionStore(output) as store:
        describer = Describer(store, DescribeOptions(output, "model"))
        client = ChatClient("model", base_url, in_flight=IN_FLIGHT)
        try:
            return await DescribeRun(describer, client, total=len(items.paths)).run(items)
        finally:
            await client.close()


async def request_alone(paths: list[Path], base_url: str, scratch: Path) -> None:
    """Sends one request per image by the SDK, with the messages of `describe` for the first image."""
    with DescriptionStore(scratch / "unused.jsonl") as store:
        describer = Describer(store, DescribeOptions(scratch / "unused.jsonl", "model"))
        messages = describer.messages(describer.job(ImageItem(paths[0].name, paths[0])))
    body = {"model": "model", "messages": messages, "response_format": describer.prompt.response_format}
    left = iter(paths)

    async def work(api: openai.AsyncOpenAI) -> None:
        for _ in left:
            await api.post("/chat/completions", cast_to=object, body=body)

    async with openai.AsyncOpenAI(base_url=base_url, api_key="none") as api:
        await asyncio.gather(*(work(api) for _ in range(IN_FLIGHT)))


def timed(work: Coroutine[Any, Any, Result], count: int) -> tuple[Result, float, float]:
    """Returns the result of a coroutine, requests per second, and milliseconds of processor time per request."""
    before, start = time.process_time(), time.perf_counter()
    result = asyncio.run(work)
    return result, count / (time.perf_counter() - start), 1000 * (time.process_time() - before) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 384), metavar=("WIDTH", "HEIGHT"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        items = Measured(write_images(folder, options.images, tuple(options.size)))
        flags = ["--delay", str(DELAY)]
        server = subprocess.Popen([sys.executable, str(SERVER), *flags], stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        try:
            base_url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
            outcome, rate, busy = timed(describe(items, base_url, folder / "descriptions.jsonl"), options.images)
            _, rate_alone, busy_alone = timed(request_alone(items.paths, base_url, folder), options.images)
        finally:
            server.kill()
    ideal = IN_FLIGHT / DELAY
    print(f"{outcome.described} of {options.images} images described, {outcome.failed} failed")
    print(f"{rate:.1f} answers/s, {rate / ideal:.2f} of the ideal {ideal:.0f} (target: 0.95)")
    print(f"{rate_alone:.1f} answers/s by the SDK alone; {rate / rate_alone:.2f} of it (target: 0.95)")
    print(f"{busy:.2f} ms of processor time per request (target: at most 3), {busy_alone:.2f} ms by the SDK alone")
    first, last = items.memory[0], items.memory[-1]
    print(f"{first:.0f} MiB after the first tenth of the images, {last:.0f} MiB at the end: {last - first:+.1f} MiB")


if __name__ == "__main__":
    main()
