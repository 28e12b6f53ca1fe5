"""Reads the annotation files of the captioned benchmarks: a JSON list with one object per image."""

from collections.abc import Callable, Sequence
from pathlib import Path
from posixpath import normpath
from typing import Any

from .benchmark import UNKNOWN, PersonImage, Source
from .image_listing import safe_path
from .text_files import check_integer, check_string, read_json, read_json_lines, read_text

SPLITS = {
    **{"train": "train", "val": "validation", "validation": "validation", "test": "test"},
    **{"valid": "validation", "dev": "validation", "training": "train", "testing": "test"},
}
PATH_KEYS = ("file_path", "img_path", "image", "image_path", "file_name", "img")
PERSON_KEYS = ("id", "person_id", "pid", "image_id")  # `image_id` is the person in files for ALBEF and its successors
CAPTION_KEYS = ("captions", "caption")
FORM = '{"file_path": "a.jpg", "id": 1, "captions": ["…"], "split": "train"}'
_NOTES = {
    "single": "image(s) have one string instead of a list of captions: read as one caption",
    "blank": "caption(s) are blank: dropped",
    "captionless": "image(s) have no caption: they are in the gallery, but no query has them as its target",
    "repeated": "entries name the image of an earlier entry: their captions are joined",
    "above": "path(s) begin above the image folder or have backslashes: read as paths below it",
    "camera": "image(s) have a file name without a camera number: their camera_id is -1",
}


def read_annotations(
    source: Source, camera_of: Callable[[str], int | None] | None = None, split: str | None = None
) -> list[PersonImage]:
    """Reads the annotation file of a source.

    Each object has the keys `file_path`, `id`, `captions` and `split`, or their synonyms in other projects
    (`PATH_KEYS`, `PERSON_KEYS`, `CAPTION_KEYS`); other keys are ignored. An image may have several entries with one
    caption each. `camera_of` returns the camera number in a path, or None; by default cameras are unknown. `split` is
    that of all images of a set without splits. Irregular but usable entries are counted in the notes of the source;
    invalid ones raise a `ValueError` with file and entry.
    """
    file = source.annotation
    assert file is not None
    seen: dict[str, tuple[str, PersonImage]] = {}
    irregular = dict.fromkeys(_NOTES, 0)
    person_key = PERSON_KEYS[0]
    for where, entry in _entries(file):
        place = where.removeprefix(f"{file}, ")
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: expected an object, not {_kind(entry)}; convert it to {FORM}")

        # Path, which identifies the image
        path_key, value = _get(entry, PATH_KEYS, where)
        if isinstance(value, list):
            if len(value) != 1:
                raise ValueError(
                    f"{where}: {path_key} is a list of {len(value)} paths; write one object per image, {FORM}"
                )
            value = value[0]
        file_path = check_string(value, where, path_key)
        where += f" ({file_path})"
        path = normpath(file_path)
        if path in source.images or (below := _below_root(file_path, source)) is None:
            path = safe_path(file_path, where)
        else:
            path = file_path = below
            irregular["above"] += 1

        # Person, captions, split and camera
        person_key, value = _get(entry, PERSON_KEYS, where)
        person_id = check_integer(value, where, person_key, "give each person a number")
        if person_id < 0:
            raise ValueError(f"{where}: {person_key} is {person_id}; person numbers start at 0")
        _, value = _get(entry, CAPTION_KEYS, where)
        captions = read_captions(value, where, irregular)
        image_split = split or _split(entry, where, source)
        if path in seen:
            first, image = seen[path]
            if not isinstance(value, str) or (image.person_id, image.split) != (person_id, image_split):
                other = f" but another {person_key} or split" if isinstance(value, str) else ""
                raise ValueError(f"{where}: {first} has the same {path_key}{other}; keep one of the two")
            image.captions += captions
            irregular["repeated"] += 1
            continue
        camera = camera_of(path) if camera_of else UNKNOWN
        irregular["camera"] += camera is None
        camera_id = UNKNOWN if camera is None else camera
        seen[path] = place, PersonImage(file_path, person_id, image_split, camera_id, captions=captions)
    images = [image for _, image in seen.values()]
    irregular["captionless"] = sum(not image.captions for image in images)
    source.notes += [f"{file}: {count} {_NOTES[kind]}" for kind, count in irregular.items() if count]
    if person_key == "image_id" and len({image.person_id for image in images}) == len(images) > 1:
        source.notes.append(f"{file}: `image_id` is read as the person, but each image has its own; check that it is")
    return images


def _entries(file: Path) -> list[tuple[str, Any]]:
    """Returns the entries with their places: of a list, of one list per split, or of JSON Lines."""
    try:
        content = read_json(file)
    except ValueError:
        first = read_text(file).strip().partition("\n")[0].strip()
        if not (first.startswith("{") and first.endswith("}")):
            raise
        return list(read_json_lines(file))
    if isinstance(content, dict) and all(isinstance(part, list) for part in content.values()):
        by_split = [(key, part) for key, part in content.items() if key.lower() in SPLITS]
        if len(by_split) == len(content) and any(content.values()):
            return [
                (f"{file}, {key}, entry {number}", {"split": key, **entry} if isinstance(entry, dict) else entry)
                for key, part in by_split
                for number, entry in enumerate(part, start=1)
            ]
    if not isinstance(content, list) or not content:
        raise ValueError(
            f"{file}: expected a list with one object per image, not {_kind(content)}; convert it to [{FORM}, …]"
        )
    return [(f"{file}, entry {number}", entry) for number, entry in enumerate(content, start=1)]


def _below_root(path: str, source: Source) -> str | None:
    """Returns the part of a path such as `CUHK-PEDES/imgs/cam_a/1.jpg` below the image folder, or None."""
    parts = path.replace("\\", "/").split("/")
    starts = [0, *(place + 1 for place, part in enumerate(parts) if part == source.images.root.name)]
    return next((below for start in starts if (below := "/".join(parts[start:])) in source.images), None)


def read_captions(value: Any, where: str, irregular: dict[str, int]) -> list[str]:
    """Returns the captions of an entry: a list of strings, or one string; counts and drops blank ones.

    Raises `ValueError` for another type; the message begins with `where`.
    """
    if isinstance(value, str):
        irregular["single"] += 1
        value = [value]
    if not isinstance(value, list):
        raise ValueError(f"{where}: captions is {_kind(value)}; expected a list of strings")
    captions = [check_string(caption, where, "a caption") for caption in value]
    kept = [caption for caption in captions if caption.strip()]
    irregular["blank"] += len(captions) - len(kept)
    return kept


def split_named(value: Any, where: str) -> str:
    """Returns `train`, `validation` or `test` for a spelling in `SPLITS`; raises `ValueError` for another word."""
    split = SPLITS.get(value.strip().lower()) if isinstance(value, str) else None
    if split is None:
        raise ValueError(f"{where}: the split is {value!r}; it must be one of {', '.join(SPLITS)}")
    return split


def _split(entry: dict[str, Any], where: str, source: Source) -> str:
    if source.options.split_file is not None:
        return ""
    if "split" in entry:
        return split_named(entry["split"], where)
    assert source.annotation is not None
    better = " Use reid_raw.json, which has one, or pass" if source.annotation.name == "caption_all.json" else " Pass"
    raise ValueError(
        f"{where}: no key `split`, so the training people are unknown.{better} a split file "
        '(--split_file, split_file=): {"train": [ids], "val": [ids], "test": [ids]}; or gather the entries by split: '
        '{"train": […], "val": […], "test": […]}'
    )


def _get(entry: dict[str, Any], keys: Sequence[str], where: str) -> tuple[str, Any]:
    """Returns the first of the keys that an entry has, and its value."""
    for key in keys:
        if key in entry:
            return key, entry[key]
    names = ", ".join(map(str, entry)) or "none"
    raise ValueError(f"{where}: no key `{keys[0]}`; the keys are {names}; convert the entry to {FORM}")


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return f"an object (of {', '.join(list(value)[:5])})" if value else "an empty object"
    return "an empty list" if value == [] else f"a {type(value).__name__}" if value is not None else "null"
