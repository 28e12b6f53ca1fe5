"""Linear probes on planted attributes, and the other disentanglement measures against slow oracles."""

import numpy as np
import pytest
import torch

from data_pipeline.experiments import probes
from data_pipeline.experiments.attributes import CLOTHING_ATTRIBUTES, IDENTITY_TRAITS, attribute_labels
from data_pipeline.experiments.features import BranchFeatures
from data_pipeline.synthetic.people import NUM_OUTFITS, describe_person
from modeling_bdam.evaluation.protocols import EncodedSplit
from modeling_bdam.evaluation.retrieval_metrics import retrieval_metrics


def planted(first_person: int, people: int, names: dict[str, tuple[str, ...]]) -> BranchFeatures:
    """Features of each branch: the given attributes as one-hot vectors, plus noise."""
    rng = np.random.default_rng(first_person)
    persons = np.repeat(np.arange(first_person, first_person + people), 4)
    outfits = persons * NUM_OUTFITS + np.tile([0, 0, 1, 1], people)
    labels = attribute_labels(persons.tolist(), outfits.tolist())
    vocabulary = sorted({f"{name}={value}" for name in labels for value in labels[name]})

    def features(shown: tuple[str, ...]) -> np.ndarray:
        found = rng.normal(scale=0.1, size=(len(persons), 120))
        for name in shown:
            for row, value in enumerate(labels[name]):
                found[row, vocabulary.index(f"{name}={value}")] += 1
        return found.astype(np.float32)

    branches = {field: features(names[branch]) for branch, field in probes.BRANCHES.items()}
    return BranchFeatures(**branches, gate=None, fusion_gate=None, person_ids=persons, outfit_ids=outfits)


def test_probe_branches_finds_only_planted_attributes() -> None:
    both = ("height", "build", *CLOTHING_ATTRIBUTES)
    names = {
        "identity features": IDENTITY_TRAITS,
        "clothing features": CLOTHING_ATTRIBUTES,
        "identity embedding": IDENTITY_TRAITS,
        "clothing embedding": both,
    }
    found = probes.probe_branches(planted(0, 150, names), planted(1000, 60, names))
    for branch, shown in names.items():
        for attribute, accuracy in found["accuracy"][branch].items():
            if attribute in shown and attribute not in ("hat", "bag", "upper_type", "upper_pattern"):
                assert accuracy > 0.9, (branch, attribute)
            elif attribute not in shown:
                assert accuracy < found["chance"][attribute] + 0.12, (branch, attribute)
    assert probes.leak(found, "features", "clothing") == pytest.approx(0, abs=0.1)
    identity_leak = probes.leak(found, "embedding", "identity")
    assert identity_leak is not None and 0.2 < identity_leak < 0.5  # two of seven traits


def test_probe_chance_is_the_best_constant_and_none_is_skipped() -> None:
    features = np.zeros((6, 2), dtype=np.float32)
    labels = ["a", "a", "b", None, None, None], ["a", "b", "b", None, "b", None]
    assert probes.probe(features, labels[0], features, labels[1]) == (0.25, 0.75)  # the fit is constant 'a'


def test_probe_branches_rejects_people_in_both_sets() -> None:
    names = dict.fromkeys(probes.BRANCHES, IDENTITY_TRAITS)
    with pytest.raises(ValueError, match="must be disjoint"):
        probes.probe_branches(planted(0, 4, names), planted(3, 4, names))


def test_attribute_labels_match_person_and_outfit() -> None:
    labels = attribute_labels([7, 7], [14, 15])
    person = describe_person(0, 7)
    assert labels["gender"] == [person.traits.gender] * 2
    assert labels["upper_color"] == [outfit.upper_color for outfit in person.outfits]
    assert labels["bag"] == [outfit.bag or "none" for outfit in person.outfits]
    dressed = next(p for p in range(200) if describe_person(0, p).outfits[0].upper_type == "dress")
    assert attribute_labels([dressed], [2 * dressed])["lower_color"] == [None]


def test_normalized_hsic_is_1_for_equal_and_0_for_independent() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(4000, 3)), rng.normal(size=(4000, 3))
    assert probes.normalized_hsic(one, 5 * one) == pytest.approx(1)
    assert probes.normalized_hsic(one, other) == pytest.approx(0, abs=0.01)


def test_same_clothes_matches_slow_oracle() -> None:
    torch.manual_seed(0)
    gallery = torch.randn(40, 8)
    people = torch.arange(40) // 5
    outfits = torch.tensor([0, 0, 1, 2, 2] * 8) + 10 * people  # three outfits per person
    rows = torch.arange(40).repeat_interleave(2)
    split = EncodedSplit(gallery, None, people, outfits, torch.randn(80, 8), rows)
    slow = []
    for query, row in enumerate(rows.tolist()):
        kept = [g for g in range(40) if people[g] != people[row] or outfits[g] == outfits[row]]
        vector = split.weighted_queries(0.5)[query : query + 1]
        slow.append(retrieval_metrics(vector, gallery[kept], people[row : row + 1], people[kept]))
    for name, value in probes.same_clothes(split, 0.5).items():
        assert value == pytest.approx(np.mean([found[name] for found in slow])), name
