"""The facts of a search that make it repeatable: query, filter, clothing weight, index, model and time."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from PIL import Image

import modeling_bdam

from .index.manifest import Manifest


@dataclass(frozen=True)
class SearchRecord:
    """The facts of one search, for exports.

    Attributes:
        query: the sentence, a description of the picture, such as its path, or both (`describe_query`).
        picture_sha256: digest of the query picture: of its file, or of size and RGB pixels; None for a sentence.
        where: the filters, all of which hold.
        clothing_weight: β.
        top_k: number of hits that were asked for.
        time: time of the search, ISO 8601 in UTC.
        index: absolute folder of the index.
        generation: its generation; each update writes a new one.
        images: number of images in the index.
        model, weights, config: name of the model, and fingerprints of its weights and config.
        time_zone: zone in which times with an offset are compared and shown.
        package_version: version of this library.
        right, wrong: names of the images that are marked so and move the query (`feedback.move_query`).
        rerank: number of hits that the matching head ordered again.
    """

    query: str
    picture_sha256: str | None
    where: list[str]
    clothing_weight: float
    top_k: int
    time: str
    index: str
    generation: str
    images: int
    model: str
    weights: str
    config: str
    time_zone: str
    package_version: str
    right: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    rerank: int = 0


def record_search(
    index: Path,
    manifest: Manifest,
    query: str | Path | Image.Image,
    where: str | Sequence[str] | None,
    clothing_weight: float | None,
    top_k: int,
    title: str | None = None,
) -> SearchRecord:
    """Returns the facts of a search that has just been made.

    The query is a sentence (`str`), a file or a picture. `title` is the whole query of a picture and words.
    """
    digest = None
    if isinstance(query, Path):
        digest = hashlib.sha256(query.read_bytes()).hexdigest()
    elif isinstance(query, Image.Image):
        pixels = query.convert("RGB")
        digest = hashlib.sha256(f"{pixels.width} {pixels.height} ".encode() + pixels.tobytes()).hexdigest()
    return SearchRecord(
        query=title or ("a picture" if isinstance(query, Image.Image) else str(query)),
        picture_sha256=digest,
        where=conditions(where),
        clothing_weight=manifest.clothing_weight if clothing_weight is None else float(clothing_weight),
        top_k=top_k,
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        index=str(index.absolute()),
        generation=manifest.generation,
        images=manifest.count,
        model=manifest.model,
        weights=manifest.weights,
        config=manifest.config,
        time_zone=manifest.time_zone,
        package_version=modeling_bdam.__version__,
    )


def conditions(where: str | Sequence[str] | None) -> list[str]:
    """Returns the non-empty expressions of a filter."""
    given = [] if where is None else [where] if isinstance(where, str) else where
    return [expression for expression in given if expression.strip()]
