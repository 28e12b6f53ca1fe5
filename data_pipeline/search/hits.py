"""The results of a search, and their groups by person."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
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
        likelihood: probability that this is the right person, if the person is in the gallery, without `match_score`;
            None for a model without a calibration (`modeling_bdam/evaluation/calibration.py`).
        is_weak: whether the score is below the threshold of `is_probably_absent`; None without a calibration.
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
    likelihood: float | None = None
    is_weak: bool | None = None


def hit_entry(rank: int, hit: PersonHit) -> dict[str, Any]:
    """Returns a hit as an object for JSON, with its rank."""
    return {"rank": rank, **asdict(hit), "path": str(hit.path)}


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


def rerank_hits(hits: Sequence[PersonHit], match_scores: Sequence[float]) -> list[PersonHit]:
    """Adds the match scores of the first K hits to their scores, and orders these K again."""
    first = [
        replace(hit, score=hit.score + score, match_score=score) for hit, score in zip(hits, match_scores, strict=False)
    ]
    return sorted(first, key=lambda hit: -hit.score) + list(hits[len(first) :])


def is_probably_absent(hits: Sequence[PersonHit]) -> bool:
    """Returns whether the person is probably not in the gallery: all hits of a search, with the best one, are weak.

    On the validation split of the model this is wrong for 10 % of the queries whose person is in the gallery.
    """
    return bool(hits) and all(hit.is_weak for hit in hits)


def absence_note(hits: Sequence[PersonHit]) -> str:
    """Returns the line above the hits of a search if `is_probably_absent`, else ""."""
    if not is_probably_absent(hits):
        return ""
    best = likelihood_in_words(max(hit.likelihood or 0 for hit in hits))
    return f"Probably not in this gallery (the best hit is {best})"


def likelihood_in_words(likelihood: float) -> str:
    """Returns a likelihood in words and per cent, such as `likely, 72 %`."""
    word = "likely" if likelihood >= 0.5 else "possible" if likelihood >= 0.1 else "unlikely"
    percent = "< 1" if likelihood < 0.01 else "> 99" if likelihood > 0.99 else f"{100 * likelihood:.0f}"
    return f"{word}, {percent} %"


def likely_hits(hits: Sequence[PersonHit], min_likelihood: float | None) -> list[PersonHit]:
    """Keeps the hits of at least this likelihood; all for None.

    Raises:
        ValueError: it is not between 0 and 1, or the hits have no likelihood.
    """
    if min_likelihood is None:
        return list(hits)
    if not 0 <= min_likelihood <= 1:
        raise ValueError(f"min_likelihood must be between 0 and 1, got {min_likelihood}")
    if any(hit.likelihood is None for hit in hits):
        raise ValueError("these hits have no likelihood: the model has no calibration for this kind of query")
    return [hit for hit in hits if hit.likelihood is not None and hit.likelihood >= min_likelihood]
