"""Files that the user gives beside a data set: descriptions, outfits, splits. They are joined by `file_path`."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .annotations import split_named
from .benchmark import UNKNOWN, Options
from .text_files import check_integer, check_string, first_of, read_json, read_json_lines

DESCRIPTION_KEYS = ("identity_description", "clothing_description")


@dataclass
class Described:
    """What a descriptions file says of one image."""

    identity_description: str | None = None
    clothing_description: str | None = None
    captions: list[str] = field(default_factory=list)


def read_descriptions(file: Path) -> dict[str, Described]:
    """A descriptions file, by `file_path`.

    Each line is an object with `file_path`, `identity_description`, `clothing_description` and, in a drawn style,
    perhaps `caption`. Of an image with several lines the last descriptions count, and the captions add up. Blank
    descriptions are None.

    Raises:
        ValueError: a line is not of that form; the message names it.
        OSError: the file cannot be read.
    """
    described: dict[str, Described] = {}
    for where, line in read_json_lines(file):
        missing = [key for key in ("file_path", *DESCRIPTION_KEYS) if key not in line]
        if missing:
            raise ValueError(f"{where}: no key `{missing[0]}`; it has {', '.join(line) or 'none'}")
        entry = described.setdefault(check_string(line["file_path"], where, "file_path"), Described())
        for key in DESCRIPTION_KEYS:
            setattr(entry, key, _text(line[key], where, key))
        caption = _text(line.get("caption"), where, "caption")
        if caption is not None and caption not in entry.captions:
            entry.captions.append(caption)
    return described


def read_outfits(file: Path) -> dict[str, int]:
    """An outfits file, a JSON object `{file_path: outfit}`.

    Whole numbers are kept. If any outfit is another string, all are numbered in alphabetical order. null is -1.

    Raises:
        ValueError: the file is of another form; the message names the entry.
        OSError: the file cannot be read.
    """
    entries = read_json(file)
    if not isinstance(entries, dict):
        raise ValueError(f"{file}: an object {{file_path: outfit}} is expected, not a {type(entries).__name__}")
    for path, outfit in entries.items():
        if isinstance(outfit, bool) or not isinstance(outfit, int | str | None):
            raise ValueError(f"{file}, entry {path!r}: the outfit is {outfit!r}; a number or a string is expected")
    return dict(zip(entries, numbered(list(entries.values()), f"{file}, an outfit"), strict=True))


def read_split_file(file: Path) -> dict[int, str]:
    """A split file, a JSON object `{"train": [ids], "val": [ids], "test": [ids]}`: the split of each person.

    Raises:
        ValueError: the file is of another form, or a person is in two splits.
        OSError: the file cannot be read.
    """
    form = '{"train": [ids], "val": [ids], "test": [ids]}'
    entries = read_json(file)
    if not isinstance(entries, dict) or not all(isinstance(people, list) for people in entries.values()):
        raise ValueError(f"{file}: a JSON object of that form is expected: {form}")
    split_of: dict[int, str] = {}
    for name, people in entries.items():
        split = split_named(name, str(file))
        for value in people:
            person = check_integer(value, f"{file}, split {name}", "an id")
            if split_of.setdefault(person, split) != split:
                raise ValueError(f"{file}: person {person} is in both {split_of[person]} and {split}")
    return split_of


def numbered(values: Sequence[Any], where: str) -> list[int]:
    """Integers for labels: their own if all are whole numbers, else their places in alphabetical order.

    None, and blank strings, are -1.

    Raises:
        ValueError: a number below -1; the message begins with `where`.
    """
    labels = [value.strip() or None if isinstance(value, str) else value for value in values]
    try:
        numbers = [UNKNOWN if label is None else check_integer(label, where, "the value") for label in labels]
    except ValueError:
        names = sorted({str(label) for label in labels if label is not None})
        places = {name: place for place, name in enumerate(names)}
        return [UNKNOWN if label is None else places[str(label)] for label in labels]
    if any(number < UNKNOWN for number in numbers):
        raise ValueError(f"{where} is {min(numbers)}; numbers start at 0, and -1 is for unknown ones")
    return numbers


def join(columns: dict[str, list[Any]], options: Options) -> list[str]:
    """Writes what the user's descriptions and outfits files say into the columns of a data set, in place.

    Args:
        columns: `file_path`, `outfit_id`, `identity_description` and `clothing_description` of every image. Images
            that a descriptions file does not name keep what they have; outfits are replaced altogether, since numbers
            of two origins do not mix. `styled_captions` is added where the descriptions file has captions.
        options: names the files.

    Returns:
        what the user should know.

    Raises:
        ValueError: a file is of another form, or names no image of the data set.
        OSError: a file cannot be read.
    """
    notes: list[str] = []
    paths = columns["file_path"]
    if options.outfits is not None:
        outfit_of = read_outfits(options.outfits)
        notes += _compare_paths(
            options.outfits,
            outfit_of,
            paths,
            "outfit in it: their outfit_id is -1, and a split with such images has no clothes-changing figures",
        )
        columns["outfit_id"] = [outfit_of.get(path, UNKNOWN) for path in paths]
    if options.descriptions is not None:
        described = read_descriptions(options.descriptions)
        notes += _compare_paths(options.descriptions, described, paths, "descriptions in it")
        for key in DESCRIPTION_KEYS:
            columns[key] = [
                getattr(described[path], key) if path in described else own
                for path, own in zip(paths, columns[key], strict=True)
            ]
        if any(entry.captions for entry in described.values()):
            nothing = Described()
            columns["styled_captions"] = [described.get(path, nothing).captions for path in paths]
    return notes


def _compare_paths(file: Path, named: Collection[str], paths: Sequence[str], what: str) -> list[str]:
    """What the user should know about the paths in a file; `ValueError` if none is one of the data set's."""
    known = set(paths)
    found = known.intersection(named)
    if not found:
        raise ValueError(
            f"{file}: none of its {len(named)} file_paths is one of the data set's, which are written like "
            f"{next(iter(paths), 'none')!r}, not like {next(iter(named), 'none')!r}"
        )
    notes = []
    if len(found) < len(known):
        notes.append(f"{file}: {len(known) - len(found)} of {len(known)} images have no {what}")
    strangers = [path for path in named if path not in known]
    if strangers:
        notes.append(f"{file}: {len(strangers)} of its file_paths are not in this data set: {first_of(strangers)}")
    return notes


def _text(value: Any, where: str, key: str) -> str | None:
    """A text, or None for null and blank."""
    return None if value is None else check_string(value, where, key).strip() or None
