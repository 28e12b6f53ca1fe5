"""Ranks of every query, compared with the metrics of all protocols, and the ceiling of the synthetic set."""

import numpy as np
import pytest
import torch

from data_pipeline.experiments.ceiling import ceiling_metrics, facts_of
from data_pipeline.experiments.ranks import pack, person_sums, query_ranks, unpack
from data_pipeline.synthetic.dataset import synthetic_row
from modeling_bdam.evaluation.protocols import EncodedSplit, protocol_metrics
from modeling_bdam.evaluation.reranking import Candidates


def test_query_ranks_give_the_metrics_of_every_protocol() -> None:
    torch.manual_seed(0)
    gallery, queries = torch.randn(40, 8).round(), torch.randn(60, 8).round()  # with ties
    people, outfits = torch.arange(40) // 5, torch.arange(40) // 3
    outfits[people == 2] = 99  # a person in one outfit: these queries have no correct image of other clothes
    rows = torch.randint(0, 40, (60,))
    split = EncodedSplit(gallery, None, people, outfits, queries, rows)
    first = (split.weighted_queries(0.7) @ gallery.T).topk(10, dim=1).indices
    split.candidates = Candidates(first, torch.randn(60, 10))
    metrics = protocol_metrics(split, 0.7, (0.5, 8))
    ranks = query_ranks(split, 0.7, (0.5, 8))
    for prefix in ("", "reranked_", "clothes_changing_"):
        for metric in ("rank1", "rank5", "rank10", "mAP"):
            sums, counts = person_sums(ranks, prefix, metric)
            assert sums.sum() / counts.sum() == pytest.approx(metrics[prefix + metric], abs=1e-5)
    assert person_sums(ranks, "clothes_changing_", "mAP")[1].sum() < 60


def test_pack_keeps_integers_below_65536() -> None:
    values = np.array([0, 1, 65535, 300])
    assert unpack(pack(values)).tolist() == values.tolist()


def test_facts_of_reads_traits_garments_and_view() -> None:
    caption = (
        "Turned to the left, his dark blue striped t-shirt stands out above gray slacks: an old thin man with fair hair"
    )
    assert facts_of(caption) == {
        **{"view": {"left"}, "upper_color": {"navy"}, "upper_pattern": {"striped"}, "upper_type": {"t-shirt"}},
        **{"lower_color": {"grey"}, "lower_type": {"trousers"}, "age": {"elderly"}, "build": {"slim"}},
        **{"gender": {"man"}, "hair_color": {"blond"}},
    }


def test_ceiling_is_below_1_and_far_above_chance() -> None:
    rows = [
        synthetic_row(0, person, outfit, shot, image_size=(32, 16))
        for person in range(30)
        for outfit in (0, 1)
        for shot in (0, 1)
    ]
    table = {name: [row[name] for row in rows] for name in ("person_id", "outfit_id", "captions")}
    metrics = ceiling_metrics(table)
    assert 0.9 < metrics["rank1"] <= 1 and 0.15 < metrics["clothes_changing_rank1"] < 0.9
