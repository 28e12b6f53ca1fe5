"""The composed protocol, against a loop over its queries."""

import pytest
import torch

from modeling_bdam.evaluation.protocols import EncodedSplit, protocol_metrics

PEOPLE, OUTFITS, SHOTS, CAPTIONS = 5, 3, 2, 2


def split_of_outfits(seed: int = 0) -> EncodedSplit:
    """Random vectors of people in three outfits, two images each; the last person has one outfit."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.arange(PEOPLE * OUTFITS * SHOTS)
    people, outfits = rows // (OUTFITS * SHOTS), rows // SHOTS % OUTFITS
    outfits[people == PEOPLE - 1] = 0
    gallery, queries = (torch.randn(len(rows) * count, 8, generator=generator) for count in (1, CAPTIONS))
    return EncodedSplit(gallery, None, people, outfits, queries, rows.repeat_interleave(CAPTIONS))


def test_composed_joins_a_picture_in_other_clothes_and_a_caption() -> None:
    split, beta, first = split_of_outfits(), 2.0, []
    used = set()
    for caption, row in enumerate(split.query_rows.tolist()):
        person, outfit = split.gallery_ids[row], split.gallery_outfits[row]
        is_person = split.gallery_ids == person
        others = (is_person & (split.gallery_outfits != outfit)).nonzero()[:, 0].tolist()
        if not others:
            continue
        picture = others[caption % len(others)]
        used.add(picture)
        identity = split.gallery[:, :4] @ split.gallery[picture, :4]
        scores = identity + beta * (split.gallery[:, 4:] @ split.queries[caption, 4:])
        is_right = is_person & (split.gallery_outfits == outfit)
        assert picture not in is_right.nonzero()[:, 0].tolist()
        first.append(int((scores[~is_person] >= scores[is_right].max()).sum()) == 0)
    metrics = split.composed(beta)
    assert metrics["rank1"] == pytest.approx(sum(first) / len(first))
    assert metrics["unmatched_queries"] == 0
    assert len(used) == (PEOPLE - 1) * OUTFITS * SHOTS  # all pictures of people with another outfit


@pytest.mark.parametrize(("known", "expected"), [("identity", [1.0, 1.0, 0.0]), ("clothing", [1.0, 0.0, 1.0])])
def test_composed_is_compared_with_picture_and_words(known: str, expected: list[float]) -> None:
    split = split_of_outfits()
    worn = torch.nn.functional.one_hot(split.gallery_ids * OUTFITS + split.gallery_outfits, 16).float()
    person = torch.nn.functional.one_hot(split.gallery_ids, 16).float()
    nothing = torch.zeros_like(worn)  # all scores are equal, so a pessimistic rank is the last
    split.gallery = torch.cat([person, nothing] if known == "identity" else [nothing, worn], dim=1)
    split.queries = torch.cat([nothing, nothing if known == "identity" else worn], dim=1)[split.query_rows]
    metrics = protocol_metrics(split, 2.0)
    assert [metrics[f"composed_{query}rank1"] for query in ("", "picture_", "words_")] == expected
