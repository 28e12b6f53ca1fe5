"""The truth about the synthetic pedestrians, as labels for linear probes."""

import dataclasses
from collections.abc import Sequence

from ..synthetic.people import NUM_OUTFITS, SYNTHETIC_SEED, PersonTraits, describe_person

IDENTITY_TRAITS = tuple(entry.name for entry in dataclasses.fields(PersonTraits))
CLOTHING_ATTRIBUTES = (
    "upper_type",
    "upper_color",
    "upper_pattern",
    "lower_type",
    "lower_color",
    "shoes_type",
    "shoes_color",
    "bag",
    "hat",
)


def attribute_labels(person_ids: Sequence[int], outfit_ids: Sequence[int]) -> dict[str, list[str | None]]:
    """The value of each trait and each clothing attribute for each image; None where there is nothing to tell.

    Args:
        person_ids, outfit_ids: of the images, as the synthetic set numbers them.
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
    # A dress has no lower garment, so no color of one.
    labels["lower_color"] = [outfit.lower_color if outfit.lower_type else None for outfit in outfits]
    return labels
