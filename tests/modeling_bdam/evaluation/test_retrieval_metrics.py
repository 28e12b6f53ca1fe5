"""`retrieval_metrics` against a double loop in float64, and through `evaluate`."""

import doctest
import importlib
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from torch import Tensor

from modeling_bdam.evaluation.retrieval_metrics import retrieval_metrics

Case = tuple[Tensor, Tensor, Tensor, Tensor]  # embeddings of queries and gallery, ids of queries and gallery
FIGURES = ("rank1", "rank5", "rank10", "mAP", "mINP")


def naive_metrics(
    query_embeds: Tensor,
    gallery_embeds: Tensor,
    query_ids: Tensor,
    gallery_ids: Tensor,
    outfits: tuple[Tensor, Tensor] | None = None,
    same_outfit: bool = False,
) -> dict[str, float]:
    """Double loop in float64 with pessimistic ties."""
    figures: dict[str, list[float]] = {name: [] for name in FIGURES}
    unmatched = 0
    for q in range(len(query_ids)):
        entries = []
        for g in range(len(gallery_ids)):
            same_person = bool(query_ids[q] == gallery_ids[g])
            if same_person and outfits and bool(outfits[0][q] == outfits[1][g]) != same_outfit:
                continue
            entries.append((-float(query_embeds[q].double() @ gallery_embeds[g].double()), same_person))
        ranks = [rank for rank, (_, hit) in enumerate(sorted(entries), start=1) if hit]  # False sorts before True
        if not ranks:
            unmatched += 1
            continue
        for k in (1, 5, 10):
            figures[f"rank{k}"].append(float(ranks[0] <= k))
        figures["mAP"].append(sum(found / rank for found, rank in enumerate(ranks, start=1)) / len(ranks))
        figures["mINP"].append(len(ranks) / ranks[-1])
    return {name: sum(values) / len(values) for name, values in figures.items()} | {"unmatched_queries": unmatched}


def coarse_embeddings(count: int, generator: torch.Generator) -> Tensor:
    """Small integers, [count, 4]: dot products are exact in float32 and often equal."""
    return torch.randint(-2, 3, (count, 4), generator=generator).float()


def random_case(seed: int, people: int, queries: int = 40, gallery: int = 150) -> tuple[Case, tuple[Tensor, Tensor]]:
    """Coarse embeddings, ids (one is missing from the gallery), and two outfits."""
    generator = torch.Generator().manual_seed(seed)
    case = (
        coarse_embeddings(queries, generator),
        coarse_embeddings(gallery, generator),
        torch.randint(0, people + 1, (queries,), generator=generator),
        torch.randint(0, people, (gallery,), generator=generator),
    )
    query_outfits, gallery_outfits = (torch.randint(0, 2, (n,), generator=generator) for n in (queries, gallery))
    return case, (query_outfits, gallery_outfits)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("people", [1, 2, 12, 100])  # 1 and 2 use the sorted count
def test_retrieval_metrics_equal_double_loop_under_ties(people: int, seed: int) -> None:
    case, _ = random_case(seed, people)
    assert retrieval_metrics(*case) == pytest.approx(naive_metrics(*case), abs=1e-12)


@pytest.mark.parametrize("same_outfit", [False, True])
@pytest.mark.parametrize("people", [2, 12])
def test_retrieval_metrics_leave_out_outfits(people: int, same_outfit: bool) -> None:
    case, outfits = random_case(0, people)
    ours = retrieval_metrics(*case, query_outfits=outfits[0], gallery_outfits=outfits[1], same_outfit=same_outfit)
    assert ours == pytest.approx(naive_metrics(*case, outfits, same_outfit), abs=1e-12)
    assert ours != pytest.approx(retrieval_metrics(*case), abs=1e-3)


def test_retrieval_metrics_rank_ties_pessimistically() -> None:
    query, gallery = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 5.0], [1.0, 0.0], [1.0, 9.0], [0.0, 0.0]])
    ours = retrieval_metrics(query, gallery, torch.tensor([7]), torch.tensor([7, 7, 8, 8]))
    # The negative with score 1 has rank 1, the two positives have ranks 2 and 3
    expected = {"rank1": 0.0, "rank5": 1.0, "rank10": 1.0, "mAP": (1 / 2 + 2 / 3) / 2, "mINP": 2 / 3}
    assert ours == pytest.approx(expected | {"unmatched_queries": 0})


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("gallery_size", [6, 34, 131])
def test_retrieval_metrics_of_constant_vectors_are_zero(gallery_size: int, chunk_size: int) -> None:
    # GEMM results of equal vectors depend on the tile position, which must not change ranks
    generator = torch.Generator().manual_seed(0)
    for width in (32, 256, 257):
        queries, vector = (torch.randn(count, width, generator=generator) for count in (64, 1))
        ids = torch.arange(gallery_size)
        query_ids = torch.arange(64) % gallery_size
        ours = retrieval_metrics(queries, vector.expand(gallery_size, width), query_ids, ids, chunk_size=chunk_size)
        assert (ours["rank1"], ours["mAP"]) == pytest.approx((0.0, 1 / gallery_size))


@pytest.mark.parametrize("chunk_size", [1, 7, 40, 1000])
def test_retrieval_metrics_ignore_chunk_size(chunk_size: int) -> None:
    case, _ = random_case(4, 12)
    before = [tensor.clone() for tensor in case]
    assert retrieval_metrics(*case, chunk_size=chunk_size) == retrieval_metrics(*case)
    assert all(torch.equal(old, new) for old, new in zip(before, case, strict=True))  # inputs are not modified


def test_retrieval_metrics_accept_numpy_and_bfloat16() -> None:
    case, _ = random_case(5, 12)
    queries, gallery, *ids = case
    assert retrieval_metrics(*(tensor.numpy() for tensor in case)) == retrieval_metrics(*case)
    assert retrieval_metrics(queries.bfloat16(), gallery.bfloat16(), *ids) == retrieval_metrics(*case)


def test_retrieval_metrics_omit_unmatched_queries() -> None:
    queries, gallery = torch.eye(3), torch.eye(3)
    ours = retrieval_metrics(queries, gallery, torch.tensor([0, 1, 50]), torch.tensor([0, 1, 2]))
    assert ours["unmatched_queries"] == 1
    assert ours["rank1"] == ours["mAP"] == ours["mINP"] == 1.0


def test_retrieval_metrics_refuse_queries_without_match() -> None:
    with pytest.raises(ValueError, match="none of the 3 queries has a match among the 3 gallery entries"):
        retrieval_metrics(torch.eye(3), torch.eye(3), torch.tensor([5, 6, 7]), torch.tensor([0, 1, 2]))


@pytest.mark.parametrize("bad_value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("side", ["query", "gallery"])
def test_retrieval_metrics_refuse_non_finite_row(side: str, bad_value: float) -> None:
    embeds = {"query": torch.eye(3), "gallery": torch.eye(3)}
    embeds[side][1:, 0] = bad_value
    with pytest.raises(ValueError, match=rf"{side}_embeds row 1 holds .*\(2 of 3 rows do\)"):
        retrieval_metrics(embeds["query"], embeds["gallery"], torch.arange(3), torch.arange(3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query_embeds": torch.ones(3)}, r"query_embeds must have shape .*, got \[3\]"),
        ({"gallery_embeds": torch.ones(0, 3)}, r"gallery_embeds must have shape .*, got \[0, 3\]"),
        ({"gallery_embeds": torch.ones(3, 4)}, "query_embeds have 3 dimensions and gallery_embeds 4"),
        ({"query_ids": torch.arange(2)}, r"query_ids must be 3 integers, one per embedding, got shape \[2\]"),
        ({"gallery_ids": torch.rand(3)}, "gallery_ids must be 3 integers, one per embedding, .* float32"),
        ({"query_outfits": torch.arange(3)}, "only query_outfits was given"),
        ({"gallery_outfits": torch.arange(3)}, "only gallery_outfits was given"),
        ({"query_outfits": torch.arange(3), "gallery_outfits": torch.arange(4)}, "gallery_outfits must be 3 integers"),
        ({"chunk_size": 0}, "chunk_size must be at least 1, got 0"),
    ],
)
def test_retrieval_metrics_refuse_inconsistent_inputs(changes: dict, message: str) -> None:
    arguments = {
        "query_embeds": torch.eye(3),
        "gallery_embeds": torch.eye(3),
        "query_ids": torch.arange(3),
        "gallery_ids": torch.arange(3),
    }
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(**(arguments | changes))


@pytest.fixture
def metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> evaluate.Metric:
    """The metric, loaded without network."""
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)
    path = Path(__file__).parents[3] / "modeling_bdam" / "evaluation" / "person_retrieval.py"
    return evaluate.load(str(path), cache_dir=str(tmp_path / "cache"))


def test_person_retrieval_equals_retrieval_metrics(metric: evaluate.Metric) -> None:
    (queries, gallery, query_ids, gallery_ids), (query_outfits, gallery_outfits) = random_case(7, 12)
    ours = metric.compute(
        query_embeds=queries,
        query_ids=query_ids,
        gallery_embeds=gallery,
        gallery_ids=gallery_ids,
        query_outfits=query_outfits,
        gallery_outfits=gallery_outfits,
    )
    assert ours == retrieval_metrics(
        queries, gallery, query_ids, gallery_ids, query_outfits=query_outfits, gallery_outfits=gallery_outfits
    )


def test_person_retrieval_accepts_batches(metric: evaluate.Metric) -> None:
    (queries, gallery, query_ids, gallery_ids), _ = random_case(8, 12)
    for rows in np.array_split(np.arange(len(queries)), 3):
        metric.add_batch(query_embeds=queries[rows], query_ids=query_ids[rows])
    ours = metric.compute(gallery_embeds=gallery, gallery_ids=gallery_ids)
    assert ours == retrieval_metrics(queries, gallery, query_ids, gallery_ids)


def test_retrieval_metrics_examples_run() -> None:
    result = doctest.testmod(importlib.import_module("modeling_bdam.evaluation.retrieval_metrics"))
    assert result.attempted > 0 and result.failed == 0
