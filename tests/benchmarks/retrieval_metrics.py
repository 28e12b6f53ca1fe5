"""`retrieval_metrics`, compared with the usual argsort of all scores: `python tests/benchmarks/retrieval_metrics.py`.

Random embeddings clustered by person, about twenty images per person, no ties. Each function runs in its own process,
to measure its peak memory. Target: 8 times faster, at most 1 GiB above the inputs, equal metrics.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

import psutil
import torch
from torch import Tensor

from modeling_bdam.evaluation.retrieval_metrics import retrieval_metrics

IMAGES_PER_PERSON = 20
NOISE = 3.0  # of an embedding around the center of its person; gives a Rank-1 between 0 and 1


def full_argsort_metrics(query_embeds: Tensor, gallery_embeds: Tensor, query_ids: Tensor, gallery_ids: Tensor) -> dict:
    """Computes the metrics by their definition: argsort of the whole score matrix and cumulative counts per row."""
    ranking = (query_embeds @ gallery_embeds.T).argsort(dim=1, descending=True)  # [Q, G]
    hits = gallery_ids[ranking] == query_ids[:, None]  # [Q, G], in ranking order
    ranks = torch.arange(1, hits.shape[1] + 1)
    hits_so_far = hits.cumsum(dim=1)  # [Q, G]
    precision = hits_so_far / ranks
    total = hits_so_far[:, -1]
    last_rank = (hits * ranks).amax(dim=1)
    metrics = {f"rank{k}": (hits_so_far[:, k - 1] > 0).double().mean() for k in (1, 5, 10)}
    metrics |= {"mAP": ((precision * hits).sum(dim=1) / total).mean(), "mINP": (total / last_rank).mean()}
    return {name: float(value) for name, value in metrics.items()}


CONTENDERS = {"full argsort": full_argsort_metrics, "retrieval_metrics": retrieval_metrics}


def clustered_embeddings(queries: int, gallery: int, dimensions: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns unit vectors [Q, D] and [G, D] with person ids [Q] and [G]; every person is in the gallery."""
    generator = torch.Generator().manual_seed(0)
    people = max(1, gallery // IMAGES_PER_PERSON)
    centers = torch.randn(people, dimensions, generator=generator)

    def side(ids: Tensor) -> Tensor:
        vectors = torch.randn(len(ids), dimensions, generator=generator).mul_(NOISE).add_(centers[ids])
        return torch.nn.functional.normalize(vectors, dim=1)

    gallery_ids = torch.arange(gallery) % people
    query_ids = torch.arange(queries) % people
    return side(query_ids), side(gallery_ids), query_ids, gallery_ids


def run(contender: str, sizes: tuple[int, int, int]) -> None:
    """Measures one function in this process; prints seconds, peak MiB above the inputs and the metrics as JSON."""
    measure = CONTENDERS[contender]
    measure(*clustered_embeddings(64, 64, 8))  # warms up
    inputs = clustered_embeddings(*sizes)
    before = psutil.Process().memory_info().rss
    start = time.perf_counter()
    metrics = measure(*inputs)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"seconds": seconds, "mebibytes": (peak - before) / 2**20, "metrics": metrics}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=19848)
    parser.add_argument("--gallery", type=int, default=19848)
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=CONTENDERS, help="run only this function, in this process, and print JSON")
    arguments = parser.parse_args()
    if arguments.only:
        run(arguments.only, (arguments.queries, arguments.gallery, arguments.dimensions))
        return
    print(f"{arguments.queries} x {arguments.gallery} x {arguments.dimensions}, {arguments.threads} threads")
    results = {}
    for name in CONTENDERS:
        command = [sys.executable, *sys.argv, "--only", name]
        threads = {"OMP_NUM_THREADS": str(arguments.threads)}  # torch and numpy read it when they are imported
        finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | threads)
        results[name] = json.loads(finished.stdout)
        figures = "  ".join(f"{key} {value:.4f}" for key, value in results[name]["metrics"].items())
        print(f"{name:>18}: {results[name]['seconds']:7.2f} s  {results[name]['mebibytes']:8.0f} MiB  {figures}")
    baseline, ours = results["full argsort"], results["retrieval_metrics"]
    difference = max(abs(value - ours["metrics"][name]) for name, value in baseline["metrics"].items())
    print(f"{baseline['seconds'] / ours['seconds']:.1f} times faster (target: 8); largest difference {difference:.1e}")


if __name__ == "__main__":
    main()
