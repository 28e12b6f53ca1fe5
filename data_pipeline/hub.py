"""Pushes a person data set to the Hub, with its images and a card of its statistics."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from huggingface_hub import DatasetCard, DatasetCardData

from .benchmarks.benchmark import UNKNOWN
from .benchmarks.loading import license_of
from .schema import check_splits
from .synthetic.dataset import SYNTHETIC_SETS
from .synthetic.people import describe_person

TEMPLATE = Path(__file__).parents[1] / "hub_cards" / "dataset_card.md"


def push_person_dataset(
    splits: DatasetDict, repo_id: str, name: str, private: bool = True, max_shard_size: str | int | None = None
) -> None:
    """Pushes every split with its image files, byte for byte, and then the card.

    `load_dataset(repo_id)` and `load_person_dataset("hub:" + repo_id)` read it back.

    Args:
        splits: a data set with the columns of `PERSON_FEATURES`.
        repo_id: OWNER/NAME; created if it does not exist.
        name: the name of the set in `load_person_dataset`, for its license.
        private: makes a new repository private. The licenses of the benchmarks forbid redistribution.
        max_shard_size: as in `DatasetDict.push_to_hub`.

    Raises:
        ValueError: a column is missing, or a person is in two splits.
        HfHubHTTPError: the Hub refuses the push.
    """
    check_splits(splits)
    splits.push_to_hub(repo_id, private=private, max_shard_size=max_shard_size)
    written = DatasetCard.load(repo_id).data.to_dict()  # features and files, written by `datasets`
    DatasetCard(dataset_card(splits, repo_id, name, written)).push_to_hub(repo_id)


def dataset_card(splits: DatasetDict, repo_id: str, name: str, metadata: dict[str, Any]) -> str:
    """Renders the card of a set: `hub_cards/dataset_card.md`, filled from its rows.

    Args:
        splits, repo_id, name: see `push_person_dataset`.
        metadata: further entries of the card's YAML header.
    """
    short = repo_id.rpartition("/")[2]
    head = DatasetCardData(
        language="en",
        license="apache-2.0" if name in SYNTHETIC_SETS else None,
        task_categories=["zero-shot-image-classification"],
        tags=["person-re-identification", "text-to-image-retrieval"],
        pretty_name=short,
        **metadata,
    )
    card = DatasetCard.from_template(
        head,
        template_str=TEMPLATE.read_text(encoding="utf-8"),
        name=short,
        repository=repo_id,
        source=name,
        license=license_of(name),
        columns=list(next(iter(splits.values())).features),
        counts={split: _count(rows) for split, rows in splits.items()},
        traits=_traits(splits) if name in SYNTHETIC_SETS else {},
    )
    return str(card)


def _count(rows: Dataset) -> dict[str, Any]:
    """Returns the statistics of a split; 0 outfits or cameras means unknown."""
    columns = {name: rows[name][:] for name in rows.column_names if name != "image"}
    pairs = zip(columns["identity_description"], columns["clothing_description"], strict=True)
    return {
        "people": len(set(columns["person_id"])),
        "images": len(rows),
        "captions": sum(len(captions) for captions in columns["captions"]),
        "described": sum(bool(identity and clothing) for identity, clothing in pairs),
        "cameras": len(set(columns["camera_id"]) - {UNKNOWN}),
        "outfits": len(set(zip(columns["person_id"], columns["outfit_id"], strict=True)))
        if UNKNOWN not in columns["outfit_id"]
        else 0,
    }


def _traits(splits: DatasetDict) -> dict[str, dict[str, int]]:
    """Counts the people with each trait, over all splits of the synthetic set."""
    people = {person for rows in splits.values() for person in rows["person_id"]}
    traits: dict[str, Counter[str]] = {}
    for person in people:
        for trait, value in asdict(describe_person(0, person).traits).items():
            traits.setdefault(trait, Counter())[value] += 1
    return {trait: dict(sorted(values.items())) for trait, values in traits.items()}


__all__ = ["dataset_card", "push_person_dataset"]
