"""The results of a search, and their groups by person."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class PersonHit:
    """One search result.

    Attributes:
        row: row number in the index, an argument of `image`, `vector` and `search_row`; valid until the next update.
        path: the image file.
        name: path of the image in the index, relative to the indexed folder.
        score: `identity_score + clothing_score + match_score`; hits are ranked by it.
        identity_score: q_id · g_id, in [-1, 1].
        clothing_score: β q_clo · g_clo, in [-β, β].
        match_score: β λ m of a re-ranked hit with the match logit m, else 0; re-ranked hits come first.
        metadata: the metadata columns of the image (`person_id`, `camera_id`, ...); None for missing values.
        content: SHA-256 of the image file when it was embedded; None in an index of an earlier version.
        copies: names of further images of the index with the same content, which are no hits of their own.
    """

    row: int
    path: Path
    name: str
    score: float
    identity_score: float
    clothing_score: float
    metadata: dict[str, Any]
    content: str | None = None
    copies: tuple[str, ...] = ()
    match_score: float = 0.0


@dataclass(frozen=True)
class PersonGroup:
    """The hits of one person, best first. A hit of an unknown person is a separate group with `person_id` None."""

    person_id: Any
    hits: list[PersonHit]


def group_by_person(hits: Sequence[PersonHit]) -> list[PersonGroup]:
    """Groups hits by `person_id`, in the order of their best hits; an unknown person (none, or -1) is not grouped."""
    groups: dict[Any, PersonGroup] = {}
    for hit in hits:
        person = hit.metadata.get("person_id")
        known = person not in (None, -1, "-1")  # a column with names is text
        key = (person,) if known else ("unknown", hit.row)
        groups.setdefault(key, PersonGroup(person if known else None, [])).hits.append(hit)
    return list(groups.values())
