"""Embeds the queries of concurrent requests together (micro-batching)."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

import numpy as np

Input = TypeVar("Input")
_LARGEST = 32  # queries of a batch


class Batcher(Generic[Input]):
    """Collects the queries that arrive during a forward pass; the next pass embeds all of them.

    The passes run in the threads of the requests, one at a time, so that a single query does not wait for others.

    Args:
        embed: returns the vectors of queries, [B, dimensions].
    """

    def __init__(self, embed: Callable[[Sequence[Input]], np.ndarray]) -> None:
        self._embed = embed
        self._waiting: list[tuple[Input, Future[np.ndarray]]] = []
        self._changing, self._running = threading.Lock(), threading.Lock()

    def embed(self, query: Input) -> np.ndarray:
        """Returns the vector of a query, [dimensions]; an exception of a pass is raised for each of its queries."""
        answer: Future[np.ndarray] = Future()
        with self._changing:
            self._waiting.append((query, answer))
        with self._running:
            while not answer.done():
                with self._changing:
                    batch, self._waiting = self._waiting[:_LARGEST], self._waiting[_LARGEST:]
                self._run(batch)
        return answer.result()

    def _run(self, batch: list[tuple[Input, "Future[np.ndarray]"]]) -> None:
        try:
            vectors = self._embed([query for query, _ in batch])
        except Exception as error:
            for _, answer in batch:
                answer.set_exception(error)
            return
        for (_, answer), vector in zip(batch, vectors, strict=True):
            answer.set_result(vector)
