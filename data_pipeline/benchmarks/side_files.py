"""Reads the files that a user adds to a data set (descriptions, outfits, splits) and joins them by `file_path`."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import List

from ..schema import ATTRIBUTE_FEATURES
from .annotations import split_named
from .benchmark import UNKNOWN, Options
from .text_files import check_integer, check_string, first_of, read_json, read_json_lines

DESCRIPTION_KEYS = ("identity_description", "clothing_description")


@dataclass
class Described:
    """The descriptions, attribute fields and styled captions of one image."""

    identity_description: str | None = None
    clothing_description: str | None = None
    captions: list[str] = field(default_factory=list)
    identity_attributes: dict[str, Any] | None = None
    clothing_attributes: dict[str, Any] | None = None


def read_descriptions(file: Path) -> dict[str, Described]:
    """Reads a descriptions file, by `file_path`.

    Each line is an object with `file_path`, `identity_description`, `clothing_description` and, if it has any, the
    fields of `ATTRIBUTE_FEATURES` and a styled `caption`. If an image has several lines, its last descriptions are used
    and its captions are collected. Blank descriptions are None. Raises `ValueError` with file and line, or `OSError`.
    """
    described: dict[str, Described] = {}
    for where, line in read_json_lines(file):
        missing = [key for key in ("file_path", *DESCRIPTION_KEYS) if key not in line]
        if missing:
            raise ValueError(f"{where}: no key `{missing[0]}`; the keys are {', '.join(line) or 'none'}")
        entry = described.setdefault(check_string(line["file_path"], where, "file_path"), Described())
        for key in DESCRIPTION_KEYS:
            setattr(entry, key, optional_text(line[key], where, key))
        for key in ATTRIBUTE_FEATURES:
            if line.get(key) is not None:
                setattr(entry, key, _filled(line[key], ATTRIBUTE_FEATURES[key], f"{where}: {key}"))
        caption = optional_text(line.get("caption"), where, "caption")
        if caption is not None and caption not in entry.captions:
            entry.captions.append(caption)
    return described


def read_outfits(file: Path) -> dict[str, int]:
    """Reads an outfits file, a JSON object `{file_path: outfit}`; null is -1, see `numbered` for strings.

    Raises `ValueError` with file and entry, or `OSError`.
    """
    entries = read_json(file)
    if not isinstance(entries, dict):
        raise ValueError(f"{file}: expected an object {{file_path: outfit}}, not a {type(entries).__name__}")
    for path, outfit in entries.items():
        if isinstance(outfit, bool) or not isinstance(outfit, int | str | None):
            raise ValueError(f"{file}, entry {path!r}: the outfit is {outfit!r}; expected a number or a string")
    return dict(zip(entries, numbered(list(entries.values()), f"{file}, an outfit"), strict=True))


def read_split_file(file: Path) -> dict[int, str]:
    """Reads a split file, a JSON object `{"train": [ids], "val": [ids], "test": [ids]}`: the split of each person.

    Raises `ValueError` for another form or a person in two splits, or `OSError`.
    """
    entries = read_json(file)
    if not isinstance(entries, dict) or not all(isinstance(people, list) for people in entries.values()):
        raise ValueError(f'{file}: expected a JSON object {{"train": [ids], "val": [ids], "test": [ids]}}')
    split_of: dict[int, str] = {}
    for name, people in entries.items():
        split = split_named(name, str(file))
        for value in people:
            person = check_integer(value, f"{file}, split {name}", "an id")
            if split_of.setdefault(person, split) != split:
                raise ValueError(f"{file}: person {person} is in both {split_of[person]} and {split}")
    return split_of


def numbered(values: Sequence[Any], where: str) -> list[int]:
    """Converts labels to integers: whole numbers are kept; if one is not, all are numbered alphabetically from 0.

    A string with a leading zero is no number, since "01" and "1" are different names. None, blank strings and "-1" are
    -1. Raises `ValueError` for a number below -1; the message begins with `where`.
    """
    labels = [value.strip() or None if isinstance(value, str) else value for value in values]
    labels = [None if label == str(UNKNOWN) else label for label in labels]
    try:
        numbers = [UNKNOWN if label is None else check_integer(label, where, "the value") for label in labels]
        if any(isinstance(label, str) and label != str(number) for label, number in zip(labels, numbers, strict=True)):
            raise ValueError
    except ValueError:
        names = sorted({str(label) for label in labels if label is not None})
        places = {name: place for place, name in enumerate(names)}
        return [UNKNOWN if label is None else places[str(label)] for label in labels]
    if any(number < UNKNOWN for number in numbers):
        raise ValueError(f"{where} is {min(numbers)}; numbers start at 0, and -1 means unknown")
    return numbers


def join(columns: dict[str, list[Any]], options: Options) -> list[str]:
    """Joins the user's descriptions and outfits to the columns of a data set, in place, and returns warnings.

    Args:
        columns: `file_path`, `outfit_id`, `identity_description` and `clothing_description` of every image. Images
            that are missing from the descriptions file keep their own descriptions. Outfits are replaced completely,
            since numbers of two sources must not mix. `styled_captions` and the attribute fields are added
            if the descriptions file has them.

    Raises `ValueError` if a file is invalid or names no image of the data set, or `OSError`.
    """
    notes: list[str] = []
    paths = columns["file_path"]
    if options.outfits is not None:
        outfit_of = read_outfits(options.outfits)
        consequence = (
            "outfit in it: their outfit_id is -1, and a split with such images has no clothes-changing results"
        )
        notes += _compare_paths(options.outfits, outfit_of, paths, consequence)
        columns["outfit_id"] = [outfit_of.get(path, UNKNOWN) for path in paths]
    if options.descriptions is not None:
        described = read_descriptions(options.descriptions)
        notes += _compare_paths(options.descriptions, described, paths, "descriptions in it")
        for key in DESCRIPTION_KEYS:
            columns[key] = [
                getattr(described[path], key) if path in described else own
                for path, own in zip(paths, columns[key], strict=True)
            ]
        for key in ATTRIBUTE_FEATURES:
            if any(getattr(entry, key) for entry in described.values()):
                columns[key] = [getattr(described.get(path, Described()), key) for path in paths]
        if any(entry.captions for entry in described.values()):
            columns["styled_captions"] = [described.get(path, Described()).captions for path in paths]
    return notes


def _filled(value: Any, kind: Any, where: str) -> Any:
    """Returns nested fields with None for each missing one; raises `ValueError` for another structure."""
    if isinstance(kind, dict) and isinstance(value, dict):
        return {key: _filled(value.get(key), inner, f"{where}.{key}") for key, inner in kind.items()}
    if isinstance(kind, List) and isinstance(value, list):
        return [_filled(entry, kind.feature, where) for entry in value]
    if value is None:
        return [] if isinstance(kind, List) else None
    expected = "an object" if isinstance(kind, dict) else "a list" if isinstance(kind, List) else "a string"
    if expected != "a string" or not isinstance(value, str):
        raise ValueError(f"{where} must be {expected}, got {value!r}")
    return value


def _compare_paths(file: Path, named: Collection[str], paths: Sequence[str], absent: str) -> list[str]:
    """Returns warnings about paths that only the file or only the data set has; `ValueError` if they share none."""
    known = set(paths)
    found = known.intersection(named)
    if not found:
        raise ValueError(
            f"{file}: none of its {len(named)} file_paths is in the data set, which spells them like "
            f"{next(iter(paths), 'none')!r}, not like {next(iter(named), 'none')!r}"
        )
    notes = []
    if len(found) < len(known):
        notes.append(f"{file}: {len(known) - len(found)} of {len(known)} images have no {absent}")
    if unknown := [path for path in named if path not in known]:
        notes.append(f"{file}: {len(unknown)} of its file_paths are not in this data set: {first_of(unknown)}")
    return notes


def optional_text(value: Any, where: str, key: str) -> str | None:
    """Returns a stripped text, or None for null and blank; raises `ValueError` for another type."""
    return None if value is None else check_string(value, where, key).strip() or None
