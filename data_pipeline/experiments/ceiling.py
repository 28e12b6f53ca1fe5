"""The ceiling of the synthetic set: the search results of a reader that sees every trait of an image without error."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from modeling_bdam.evaluation.protocols import EncodedSplit, protocol_metrics

from ..synthetic import people as drawn
from ..synthetic import vocabulary

_KINDS = {"upper": (*drawn.UPPER_TYPES, "dress"), "lower": (*drawn.LOWER_TYPES, "skirt"), "shoes": drawn.SHOE_TYPES}
_KINDS |= {"bag": drawn.BAGS, "hat": drawn.HATS}
_WORDS: dict[str, Mapping[str, Sequence[str]]] = {
    "age": vocabulary.AGE_WORDS,
    "build": vocabulary.BUILD_WORDS,
    "height": vocabulary.HEIGHT_WORDS,
    "gender": {kind: sum((words[kind] for words in vocabulary.PERSON_WORDS.values()), ()) for kind in drawn.GENDERS},
    "view": {
        **{"front": ("towards the camera",), "back": ("from behind",)},
        **{"left": ("to the left",), "right": ("to the right",)},
    },
}
_COLORS = {color: vocabulary.COLOR_WORDS.get(color, (color,)) for color in drawn.COLORS}


def _any(*tables: Mapping[str, Sequence[str]]) -> str:
    """A group that matches any word of some tables, the longest first."""
    words = {word for table in tables for value in table.values() for word in value}
    return "(" + "|".join(sorted(map(re.escape, words), key=len, reverse=True)) + ")"


_HAIR = re.compile(rf"\b(?:{_any(vocabulary.HAIR_WORDS)} )?(?:{_any(vocabulary.HAIR_COLOR_WORDS)} )?hair\b")
_SKIN = re.compile(rf"\b{_any(vocabulary.SKIN_WORDS)} skin\b")
_GARMENT = re.compile(
    rf"\b{_any(_COLORS)} (?:{_any(vocabulary.PATTERN_WORDS)} )?{_any(vocabulary.GARMENT_WORDS)}\b"
    rf"(?: with a {_any(_COLORS)} print)?"
)


def ceiling_metrics(rows: Any, seed: int = drawn.SYNTHETIC_SEED) -> dict[str, float]:
    """Computes `protocol_metrics` of a search by the number of facts of a caption that are true of an image.

    The captions are the real ones, with their omissions and mistakes. Images with equal facts are in random order.

    Args:
        rows: a complete, unshuffled split of `load_synthetic`.
        seed: of that data set.
    """
    seen: Counter[int] = Counter()
    images: list[dict[str, str]] = []
    for person, outfit in zip(rows["person_id"], rows["outfit_id"], strict=True):
        number = outfit % drawn.NUM_OUTFITS
        known = drawn.describe_person(seed, person)
        facts = asdict(known.traits) | asdict(known.outfits[number])
        images.append(facts | {"view": drawn.describe_shot(seed, person, number, seen[outfit]).view})
        seen[outfit] += 1
    captions = [(row, caption) for row, texts in enumerate(rows["captions"]) for caption in texts]
    read = [facts_of(caption) for _, caption in captions]
    identity = set(asdict(drawn.describe_person(seed, 0).traits))
    halves = [
        sorted(
            {
                (name, value)
                for image in images
                for name, value in image.items()
                if value and (name in identity) is wanted
            }
        )
        for wanted in (True, False)
    ]
    width = max(map(len, halves))
    gallery, queries = torch.zeros(len(images), 2, width), torch.zeros(len(read), 2, width)
    for half, known_facts in enumerate(halves):
        for place, (name, value) in enumerate(known_facts):
            gallery[:, half, place] = torch.tensor([float(image[name] == value) for image in images])
            queries[:, half, place] = torch.tensor([float(value in found.get(name, ())) for found in read])
    gallery += 1e-4 * torch.rand(gallery.shape, generator=torch.Generator().manual_seed(0))
    people, outfits = torch.tensor(rows["person_id"]), torch.tensor(rows["outfit_id"])
    places = torch.tensor([row for row, _ in captions])
    split = EncodedSplit(gallery.flatten(1), None, people, outfits, queries.flatten(1), places)
    return protocol_metrics(split, clothing_weight=1.0)


def facts_of(caption: str) -> dict[str, set[str]]:
    """Reads the traits, garments and the view in a caption: by attribute, the values that its words can mean."""
    text = caption.lower()
    found: dict[str, set[str]] = {}

    def note(name: str, table: Mapping[str, Sequence[str]], word: str | None) -> None:
        if word is not None:
            found[name] = {value for value, words in table.items() if word in words}

    for match in _HAIR.finditer(text):
        note("hair_length", vocabulary.HAIR_WORDS, match[1])
        note("hair_color", vocabulary.HAIR_COLOR_WORDS, match[2])
    for match in _SKIN.finditer(text):
        note("skin_tone", vocabulary.SKIN_WORDS, match[1])
    text = _SKIN.sub("", _HAIR.sub("", text))
    for match in _GARMENT.finditer(text):
        kind = next(value for value, words in vocabulary.GARMENT_WORDS.items() if match[3] in words)
        part = next(part for part, kinds in _KINDS.items() if kind in kinds)
        found[part if part in ("bag", "hat") else f"{part}_type"] = {kind}
        note(f"{part}_color", _COLORS, match[1])
        note(f"{part}_pattern", vocabulary.PATTERN_WORDS, match[2])
        note("accent", _COLORS, match[4])
    text = _GARMENT.sub("", text)
    for name, table in _WORDS.items():
        if said := re.search(rf"\b{_any(table)}\b", text):
            note(name, table, said[1])
    return found
