"""Composes a query of a picture and words: identity of one, clothing of the other, minus words that must not match."""

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from modeling_bdam.evaluation.calibration import Kind

Source = Literal["image", "text"]
_WITHOUT = 0.5  # weight of the words that are subtracted


def compose_vectors(
    picture: np.ndarray | None,
    words: np.ndarray | None,
    identity_from: Source = "image",
    without: np.ndarray | None = None,
) -> np.ndarray:
    """Joins the identity half of one vector and the clothing half of the other; both keep unit length.

    Args:
        picture, words: query vectors [dimensions]; the other gives both halves if one is None.
        identity_from: the vector of the identity half; the other one gives the clothing half.
        without: vector of words that is subtracted from both halves [dimensions].

    Raises:
        ValueError: there is neither a picture nor a sentence, or `identity_from` is neither "image" nor "text".
    """
    if identity_from not in ("image", "text"):
        raise ValueError(f"identity_from must be image or text, got {identity_from!r}")
    given = [vector for vector in (picture, words) if vector is not None]
    if not given:
        raise ValueError("a search needs a sentence, a picture, or both: give at least one")
    if identity_from == "text":
        given.reverse()
    halves = np.stack([np.split(given[0], 2)[0], np.split(given[-1], 2)[1]])  # [2, projection_dim]
    if without is not None:
        halves = halves - _WITHOUT * np.stack(np.split(without, 2))
        halves /= np.maximum(np.linalg.norm(halves, axis=1, keepdims=True), 1e-12)
    return halves.reshape(-1).astype(np.float32)


def query_kind(has_picture: bool, has_words: bool, identity_from: Source, is_reduced: bool = False) -> Kind | None:
    """Returns the kind of a query by which scores are calibrated.

    It is None if the identity of a picture and words is that of the words, or if words were subtracted (`is_reduced`),
    which lowers all scores.
    """
    if is_reduced:
        return None
    if has_picture and has_words:
        return "composed" if identity_from == "image" else None
    return "image" if has_picture else "text"


def clothes_of(has_picture: bool, sentence: str | None, identity_from: Source) -> str | None:
    """Returns the sentence that describes the clothes of a query, for re-ranking; None if a picture shows them."""
    return None if has_picture and identity_from == "text" else sentence


def describe_query(image: object, sentence: str | None, identity_from: Source, without: str | None) -> str:
    """Returns a query in words, for the record of a search and the title of a sheet."""
    picture = "a picture" if isinstance(image, Image.Image) else str(image)
    parts = [text for text in (None if image is None else picture, sentence) if text is not None]
    if len(parts) > 1:
        parts.append(f"identity of the {'picture' if identity_from == 'image' else 'words'}")
    return ", ".join(parts if without is None else [*parts, f"without {without}"])


def content_of(picture: Image.Image | str | Path | None) -> str | None:
    """Returns the SHA-256 of a picture file, by which an index knows its content; None for a picture in memory."""
    if not isinstance(picture, str | Path):
        return None
    return hashlib.sha256(Path(picture).read_bytes()).hexdigest()
