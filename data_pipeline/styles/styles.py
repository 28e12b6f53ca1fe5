"""The styles in which captions are written, each shown by captions near its center: what `--styles` draws from."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..benchmarks.text_files import check_integer, check_string, read_json
from ..descriptions.prompts import Style
from ..descriptions.whole_file import write_whole
from .clustering import Clustering
from .style_names import StyleNamer

_FORMAT = "bdam-styles-1"


@dataclass(frozen=True)
class StyleBook:
    """Styles, the most frequent first.

    Attributes:
        styles: each with a name of its own and its exemplars, in their authors' words.
        sizes: how many captions are written in each.
        made_by: how the styles were found, as JSON values.
    """

    styles: tuple[Style, ...]
    sizes: tuple[int, ...]
    made_by: dict[str, Any]

    def draw(self, rng: random.Random) -> Style:
        """A style, each as likely as another: the rare ones make texts diverse."""
        return rng.choice(self.styles)

    def save(self, file: str | Path) -> None:
        """Writes a JSON file; it appears complete or not at all.

        Raises:
            OSError: it cannot be written.
        """
        entries = [
            {"name": style.name, "captions": size, "exemplars": list(style.exemplars)}
            for style, size in zip(self.styles, self.sizes, strict=True)
        ]
        text = json.dumps({"format": _FORMAT, "made_by": self.made_by, "styles": entries}, indent=2, ensure_ascii=False)
        write_whole(Path(file), f"{text}\n".encode())

    @classmethod
    def load(cls, file: str | Path) -> "StyleBook":
        """Reads what `save` wrote, perhaps edited by hand.

        Raises:
            ValueError: the file is of another form; the message names the entry.
            OSError: it cannot be read.
        """
        file = Path(file)
        value = read_json(file)
        if not isinstance(value, dict) or value.get("format") != _FORMAT:
            raise ValueError(
                f"{file}: no styles of this program (`format` is not {_FORMAT!r}): run `bdam describe styles`"
            )
        entries = value.get("styles")
        if not isinstance(entries, list) or not entries:
            raise ValueError(f"{file}: `styles` must be a list of at least one style")
        styles, sizes = [], []
        for number, entry in enumerate(entries, start=1):
            where = f"{file}, style {number}"
            missing = [
                key for key in ("name", "captions", "exemplars") if not isinstance(entry, dict) or key not in entry
            ]
            if missing:
                raise ValueError(f"{where}: no key `{missing[0]}`")
            exemplars = entry["exemplars"]
            if not isinstance(exemplars, list) or not exemplars:
                raise ValueError(f"{where}: `exemplars` must be a list of at least one caption")
            texts = tuple(check_string(text, where, "an exemplar") for text in exemplars)
            styles.append(Style(check_string(entry["name"], where, "name"), texts))
            sizes.append(check_integer(entry["captions"], where, "captions"))
        names = [style.name for style in styles]
        doubled = next((name for name in names if names.count(name) > 1), None)
        if doubled is not None:
            raise ValueError(f"{file}: two styles are called {doubled!r}; give each a name of its own")
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
    """A style for every cluster.

    Args:
        captions: in their authors' words.
        neutral: what neutralising made of each.
        embeddings: of the neutral captions, [N, D].
        name_styles: gives each style its name.
        seed: draws among captions that are equally near to a center.

    Raises:
        ValueError: the lists differ in length, or no exemplars are asked for.
    """
    if not len(captions) == len(neutral) == len(embeddings) == len(clustering.labels):
        raise ValueError("styles: captions, neutral captions, embeddings and labels must be as many")
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
    """At most `count` of a cluster's rows, to show it: of the half near its center, first the nearest of each wording.

    No caption is taken twice.
    """
    distances = np.linalg.norm(embeddings[rows] - embeddings[rows].mean(axis=0), axis=1)
    by_chance = np.random.default_rng(seed).permutation(len(rows))
    ordered: list[int] = rows[np.lexsort((by_chance, distances.round(6)))].tolist()
    ordered = list({captions[row]: row for row in reversed(ordered)}.values())[::-1]
    near = ordered[: max(count, len(ordered) // 2)]
    first_of_wording = set({neutral[row]: row for row in reversed(near)}.values())
    return sorted(near, key=lambda row: row not in first_of_wording)[:count]  # stable: the nearest first
