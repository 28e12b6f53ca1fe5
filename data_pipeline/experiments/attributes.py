"""Labels for linear probes: the true traits and clothing attributes of the synthetic pedestrians."""

import dataclasses
from collections.abc import Sequence

from ..synthetic.people import NUM_OUTFITS, SYNTHETIC_SEED, PersonTraits, describe_person

IDENTITY_TRAITS = tuple(entry.name for entry in dataclasses.fields(PersonTraits))
_UPPER = ("upper_type", "upper_color", "upper_pattern")
CLOTHING_ATTRIBUTES = (*_UPPER, "lower_type", "lower_color", "shoes_type", "shoes_color", "bag", "hat")


def attribute_labels(person_ids: Sequence[int], outfit_ids: Sequence[int]) -> dict[str, list[str | None]]:
    """Returns the value of each trait and clothing attribute for each image; None where it does not apply.

    Args:
        person_ids, outfit_ids: of each image, as numbered by the synthetic data set.
    """
    people = {person: describe_person(SYNTHETIC_SEED, person) for person in set(person_ids)}
    outfits = [
        people[person].outfits[outfit % NUM_OUTFITS] for person, outfit in zip(person_ids, outfit_ids, strict=True)
    ]
    labels: dict[str, list[str | None]] = {
        name: [getattr(people[person].traits, name) for person in person_ids] for name in IDENTITY_TRAITS
    }
    for name in CLOTHING_ATTRIBUTES:
        labels[name] = [getattr(outfit, name) or "none" for outfit in outfits]
    # A dress has no lower garment and therefore no color of one.
    labels["lower_color"] = [outfit.lower_color if outfit.lower_type else None for outfit in outfits]
    return labels
