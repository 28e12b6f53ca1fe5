"""Rank-1 per group of people, to detect groups that are retrieved less often."""

from collections.abc import Mapping

import torch

from .protocols import EncodedSplit
from .retrieval_metrics import retrieval_metrics

Groups = dict[str, dict[str, dict[str, float]]]


def rank1_by_group(split: EncodedSplit, clothing_weight: float, traits: Mapping[int, Mapping[str, str]]) -> Groups:
    """Computes Rank-1 by the standard protocol over the captions of each group, against the whole gallery.

    Args:
        split: the encoded split.
        clothing_weight: β.
        traits: traits of every person of the split, by `person_id`, such as `{"age": "young"}`.

    Returns:
        by trait and value: `rank1`, a fraction, and `queries`, the number of captions.

    Raises:
        KeyError: a person of the split without traits.
    """
    people = split.gallery_ids[split.query_rows]
    queries = split.weighted_queries(clothing_weight)
    of_person = [traits[person] for person in people.tolist()]
    groups: Groups = {}
    for trait in of_person[0]:
        values = [own[trait] for own in of_person]
        groups[trait] = {}
        for value in sorted(set(values)):
            chosen = torch.tensor([own == value for own in values])
            metrics = retrieval_metrics(queries[chosen], split.gallery, people[chosen], split.gallery_ids)
            groups[trait][value] = {"rank1": metrics["rank1"], "queries": int(chosen.sum())}
    return groups


__all__ = ["rank1_by_group"]
