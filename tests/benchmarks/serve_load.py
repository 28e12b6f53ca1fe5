"""Load of `bdam serve`: `python tests/benchmarks/serve_load.py --index outputs/gallery`.

Clients that search by sentences at once, each with the next sentence after the answer to the last one, against the
service in its own process; service and clients share the cores. Prints queries per second and the latency
(median and 95th percentile), and compares each answer with a direct search in the same index: the benchmark fails if
one is missing or differs. The same searches one after another show the gain of concurrency.
"""

import argparse
import asyncio
import os
import re
import secrets
import statistics
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil

from data_pipeline.search import PersonGallery
from data_pipeline.synthetic.dataset import synthetic_row
from modeling_bdam.files import usable_cores

TOP_K = 20


async def load(
    address: str, token: str, clients: int, sentences: list[str]
) -> tuple[dict[str, list[int]], list[float]]:
    """Returns the rows found for each sentence, and the seconds of each answer."""
    found: dict[str, list[int]] = {}
    seconds: list[float] = []
    waiting = iter(sentences)
    headers = {"Authorization": f"Bearer {token}"}

    async def search() -> None:
        async with httpx.AsyncClient(base_url=address, headers=headers, timeout=300) as client:
            for sentence in waiting:
                start = time.perf_counter()
                answer = await client.post("/search/text", json={"sentence": sentence, "top_k": TOP_K})
                seconds.append(time.perf_counter() - start)
                found[sentence] = [hit["row"] for hit in answer.raise_for_status().json()["hits"]]

    await asyncio.gather(*(search() for _ in range(clients)))
    return found, seconds


def start(index: Path, token: str) -> tuple["subprocess.Popen[str]", str]:
    """Starts the service; returns its process and address."""
    command = [sys.executable, "-m", "data_pipeline.commands.main", "serve", "--index", str(index), "--port", "0"]
    environment = {**os.environ, "BDAM_TOKEN": token, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen([*command, "--device", "cpu"], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = re.search(r"at (http://[\w.:]+)/docs", process.stdout.readline())
    if printed is None:
        raise SystemExit("the service did not start")
    return process, printed[1]


def busy(process: "subprocess.Popen[str]") -> float:
    """Returns the processor seconds of a process, which other load on the machine changes little."""
    times = psutil.Process(process.pid).cpu_times()
    return times.user + times.system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", type=Path, required=True, help="an index of `bdam index`")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--queries", type=int, default=1000, help="different sentences")
    arguments = parser.parse_args()
    captions = (synthetic_row(1, person, outfit, 0)["captions"] for person in range(10**6) for outfit in range(2))
    sentences: dict[str, None] = {}
    while len(sentences) < arguments.queries:
        sentences |= dict.fromkeys(next(captions))
    asked = list(sentences)[: arguments.queries]
    token = secrets.token_urlsafe()
    process, address = start(arguments.index, token)
    try:
        asyncio.run(load(address, token, 1, asked[:10]))  # warms up
        for clients in (1, arguments.clients):
            begin, used = time.perf_counter(), busy(process)
            found, seconds = asyncio.run(load(address, token, clients, asked))
            rate, used = len(seconds) / (time.perf_counter() - begin), busy(process) - used
            median, p95 = statistics.median(seconds), statistics.quantiles(seconds, n=20)[-1]
            print(f"{clients} clients: {rate:.1f} queries/s, latency p50 {1000 * median:.0f} ms, ", end="")
            print(f"p95 {1000 * p95:.0f} ms, {1000 * used / len(seconds):.1f} ms of processor time a query", flush=True)
    finally:
        process.terminate()
        process.wait()
    with PersonGallery.open(arguments.index, device="cpu") as gallery:
        embedder = gallery.embedder
        direct = {text: gallery.search_vector(embedder.embed_sentence(text), TOP_K) for text in asked}
        wrong = [text for text in asked if found.get(text) != [hit.row for hit in direct[text]]]
        print(
            f"{len(asked)} queries in {len(gallery)} images on {usable_cores()} cores: {len(wrong)} lost or different"
        )
    if wrong:
        raise SystemExit(f"such as {wrong[0]!r}")


if __name__ == "__main__":
    main()
