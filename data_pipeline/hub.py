"""A data set of persons on the Hub: pushed with its images, and with a card that says what was counted in it."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from huggingface_hub import DatasetCard, DatasetCardData

from .benchmarks.loading import license_of
from .schema import check_splits
from .synthetic.people import describe_person

TEMPLATE = Path(__file__).parents[1] / "hub_cards" / "dataset_card.md"
UNKNOWN = -1


def push_person_dataset(
    splits: DatasetDict, repo_id: str, name: str, private: bool = True, max_shard_size: str | int | None = None
) -> None:
    """Pushes every split with its image files, byte for byte, and then the card.

    `load_dataset(repo_id)` and `load_person_dataset("hub:" + repo_id)` read it back.

    Args:
        splits: in the common schema.
        repo_id: OWNER/NAME; made if it does not exist.
        name: what `load_person_dataset` calls the set, or "synthetic"; for its license.
        private: whether a new repository is hidden from others. The benchmarks may not be given on.
        max_shard_size: as in `DatasetDict.push_to_hub`.

    Raises:
        ValueError: a column is missing, or a person is in two splits.
        HfHubHTTPError: the Hub refuses.
    """
    check_splits(splits)
    splits.push_to_hub(repo_id, private=private, max_shard_size=max_shard_size)
    written = DatasetCard.load(repo_id).data.to_dict()  # what `datasets` says of the types and files of the splits
    DatasetCard(dataset_card(splits, repo_id, name, written)).push_to_hub(repo_id)


def dataset_card(splits: DatasetDict, repo_id: str, name: str, metadata: dict[str, Any]) -> str:
    """The card of a set: `hub_cards/dataset_card.md`, filled from its rows.

    Args:
        splits, repo_id, name: see `push_person_dataset`.
        metadata: entries of the card's head beside those that it always has.
    """
    short = repo_id.rpartition("/")[2]
    head = DatasetCardData(
        language="en",
        license="apache-2.0" if name == "synthetic" else None,
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
        traits=_traits(splits) if name == "synthetic" else {},
    )
    return str(card)


def _count(rows: Dataset) -> dict[str, Any]:
    """What a split holds; a column is counted where it is known."""
    columns = rows.select_columns([column for column in rows.column_names if column != "image"]).to_dict()
    assert isinstance(columns, dict)
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
    """How many people have each trait, over all splits of the synthetic set."""
    people = {person for rows in splits.values() for person in rows["person_id"]}
    traits: dict[str, Counter[str]] = {}
    for person in people:
        for trait, value in asdict(describe_person(0, person).traits).items():
            traits.setdefault(trait, Counter())[value] += 1
    return {trait: dict(sorted(values.items())) for trait, values in traits.items()}


__all__ = ["dataset_card", "push_person_dataset"]
