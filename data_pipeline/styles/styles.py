"""Annotator styles with exemplars near the cluster centers, and the JSON file of `--styles`."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modeling_bdam.files import write_json

from ..benchmarks.text_files import check_integer, check_string, read_json
from ..descriptions.prompts import Style
from .clustering import Clustering
from .style_names import StyleNamer

_FORMAT = "bdam-styles-1"


@dataclass(frozen=True)
class StyleBook:
    """Styles, the most frequent first.

    Attributes:
        styles: each with a unique name and exemplars, which are original captions.
        sizes: number of captions in each style.
        made_by: settings of the search, as JSON values.
    """

    styles: tuple[Style, ...]
    sizes: tuple[int, ...]
    made_by: dict[str, Any]

    def draw(self, rng: random.Random) -> Style:
        """Draws a style uniformly, so that rare styles add diversity."""
        return rng.choice(self.styles)

    def save(self, file: str | Path) -> None:
        """Writes a JSON file atomically; creates its folder.

        Raises:
            OSError: the file cannot be written.
        """
        entries = [
            {"name": style.name, "captions": size, "exemplars": list(style.exemplars)}
            for style, size in zip(self.styles, self.sizes, strict=True)
        ]
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"format": _FORMAT, "made_by": self.made_by, "styles": entries}, indent=2)

    @classmethod
    def load(cls, file: str | Path) -> "StyleBook":
        """Reads and checks a file of `save`, which users may have edited.

        Raises:
            ValueError: the file has another structure; the message names the entry.
            OSError: the file cannot be read.
        """
        file = Path(file)
        value = read_json(file)
        if not isinstance(value, dict) or value.get("format") != _FORMAT:
            raise ValueError(f"{file}: `format` is not {_FORMAT!r}; write the file with `bdam describe styles`")
        entries = value.get("styles")
        if not isinstance(entries, list) or not entries:
            raise ValueError(f"{file}: `styles` must be a list of at least one style")
        styles, sizes = [], []
        for number, entry in enumerate(entries, start=1):
            where = f"{file}, style {number}"
            for key in ("name", "captions", "exemplars"):
                if not isinstance(entry, dict) or key not in entry:
                    raise ValueError(f"{where}: no key `{key}`")
            exemplars = entry["exemplars"]
            if not isinstance(exemplars, list) or not exemplars:
                raise ValueError(f"{where}: `exemplars` must be a list of at least one caption")
            texts = tuple(check_string(text, where, "an exemplar") for text in exemplars)
            styles.append(Style(check_string(entry["name"], where, "name"), texts))
            sizes.append(check_integer(entry["captions"], where, "captions"))
        names = [style.name for style in styles]
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise ValueError(f"{file}: two styles have the name {repeated!r}; names must be unique")
        return cls(tuple(styles), tuple(sizes), value.get("made_by") or {})


def make_style_book(
    captions: Sequence[str],
    neutral: Sequence[str],
    embeddings: np.ndarray,
    clustering: Clustering,
    name_styles: StyleNamer,
    *,
    num_exemplars: int = 6,
    seed: int = 0,
    made_by: dict[str, Any] | None = None,
) -> StyleBook:
    """Makes a style of each cluster.

    Args:
        captions: N original captions.
        neutral: their neutral wordings.
        embeddings: embeddings of the neutral captions, [N, D].
        name_styles: names all styles.
        num_exemplars: maximum number of exemplars per style.
        seed: breaks ties among captions at the same distance from a center.
        made_by: see `StyleBook`.

    Raises:
        ValueError: the lengths differ, or `num_exemplars` is not positive.
    """
    if not len(captions) == len(neutral) == len(embeddings) == len(clustering.labels):
        raise ValueError("styles: captions, neutral captions, embeddings and labels must have the same length")
    if num_exemplars < 1:
        raise ValueError(f"styles: exemplars must be at least 1, got {num_exemplars}")
    members = [np.flatnonzero(clustering.labels == number) for number in range(clustering.count)]
    chosen = [exemplar_rows(captions, neutral, embeddings, rows, num_exemplars, seed) for rows in members]
    exemplars = [tuple(captions[row] for row in rows) for rows in chosen]
    names = name_styles(exemplars, [[neutral[row] for row in rows.tolist()] for rows in members])
    styles = tuple(Style(name, texts) for name, texts in zip(names, exemplars, strict=True))
    return StyleBook(styles, tuple(len(rows) for rows in members), made_by or {})


def exemplar_rows(
    captions: Sequence[str], neutral: Sequence[str], embeddings: np.ndarray, rows: np.ndarray, count: int, seed: int
) -> list[int]:
    """Chooses at most `count` exemplars among a cluster's rows, each a different caption.

    Candidates are the half nearest to the center; the nearest caption of each neutral wording comes first.
    """
    distances = np.linalg.norm(embeddings[rows] - embeddings[rows].mean(axis=0), axis=1)
    tie_break = np.random.default_rng(seed).permutation(len(rows))
    ordered: list[int] = rows[np.lexsort((tie_break, distances.round(6)))].tolist()
    ordered = list({captions[row]: row for row in reversed(ordered)}.values())[::-1]
    near = ordered[: max(count, len(ordered) // 2)]
    first_of_wording = set({neutral[row]: row for row in reversed(near)}.values())
    return sorted(near, key=lambda row: row not in first_of_wording)[:count]  # stable sort: nearest first
