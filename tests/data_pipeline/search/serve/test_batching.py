"""Micro-batching: queries that arrive during a forward pass are embedded together."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from data_pipeline.search.serve.batching import Batcher


def test_embed_joins_the_queries_that_wait() -> None:
    first_runs, go_on = threading.Event(), threading.Event()
    sizes: list[int] = []

    def embed(queries: Sequence[int]) -> np.ndarray:
        sizes.append(len(queries))
        first_runs.set()
        go_on.wait(60)
        return np.array([[query, -query] for query in queries])

    batcher = Batcher(embed)
    with ThreadPoolExecutor(41) as pool:
        first = pool.submit(batcher.embed, 100)
        first_runs.wait(60)
        others = [pool.submit(batcher.embed, query) for query in range(40)]
        while len(batcher._waiting) < 40:
            time.sleep(0.001)
        go_on.set()
        assert first.result(60).tolist() == [100, -100]
        assert [other.result(60).tolist() for other in others] == [[query, -query] for query in range(40)]
    assert sizes == [1, 32, 8]


def test_embed_raises_the_error_of_its_own_batch() -> None:
    def embed(queries: Sequence[str]) -> np.ndarray:
        if "bad" in queries:
            raise ValueError("a bad query")
        return np.zeros((len(queries), 2))

    batcher = Batcher(embed)
    with pytest.raises(ValueError, match="a bad query"):
        batcher.embed("bad")
    assert batcher.embed("good").tolist() == [0, 0]
