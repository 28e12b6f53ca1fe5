"""Retrieval metrics as a metric of `evaluate`: `evaluate.load("modeling_bdam/evaluation/person_retrieval.py")`."""

from collections.abc import Sequence

# One import per line: evaluate finds the requirements of a metric by parsing these lines as text.
import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray

from .retrieval_metrics import retrieval_metrics

_DESCRIPTION = """
Rank-1, rank-5, rank-10, mAP and mINP of person retrieval: every query is scored against every gallery entry by dot
product, the same person is correct, and ties are ranked pessimistically.
"""
_INPUTS = """
    query_embeds: [Q, D]; also taken in batches, by add_batch(query_embeds=..., query_ids=...).
    query_ids: person of each query, [Q].
    gallery_embeds: [G, D], to compute() only.
    gallery_ids: person of each gallery entry, [G].
    query_outfits, gallery_outfits: [Q] and [G], both or neither: excludes images of the same person in the same
        clothes (the clothes-changing protocol).
Returns:
    rank1, rank5, rank10, mAP, mINP as fractions, and unmatched_queries, a count.
"""


class PersonRetrieval(evaluate.Metric):
    """`evaluate.Metric` around `retrieval_metrics`, with the same errors."""

    def _info(self) -> evaluate.MetricInfo:
        columns = {"query_embeds": datasets.List(datasets.Value("float32")), "query_ids": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(columns),
        )

    def _compute(  # type: ignore[override]
        self,
        query_embeds: Sequence[Sequence[float]],
        query_ids: Sequence[int],
        gallery_embeds: NDArray,
        gallery_ids: NDArray,
        query_outfits: NDArray | None = None,
        gallery_outfits: NDArray | None = None,
    ) -> dict[str, float]:
        # evaluate stores the batches as Arrow columns; slicing gives lists of numbers
        return retrieval_metrics(
            np.asarray(query_embeds[:], dtype=np.float32),
            gallery_embeds,
            np.asarray(query_ids[:]),
            gallery_ids,
            query_outfits=query_outfits,
            gallery_outfits=gallery_outfits,
        )
