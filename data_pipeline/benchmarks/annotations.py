"""Reads the annotation files of the captioned benchmarks: a JSON list with one object per image."""

from collections.abc import Callable
from typing import Any

from .benchmark import UNKNOWN, PersonImage, Source
from .image_listing import safe_path
from .text_files import check_integer, check_string, read_json

SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
PATH_KEYS = ("file_path", "img_path")
_NOTES = {
    "single": "image(s) have one string instead of a list of captions: read as one caption",
    "blank": "caption(s) are blank: dropped",
    "captionless": "image(s) have no caption: they are in the gallery, but no query has them as its target",
    "camera": "image(s) have a file name without a camera number: their camera_id is -1",
}


def read_annotations(source: Source, camera_of: Callable[[str], int | None] | None = None) -> list[PersonImage]:
    """Reads the annotation file of a source.

    Each object has the keys `file_path` or `img_path`, `id`, `captions` and `split`; other keys are ignored.
    `camera_of` returns the camera number in a path, or None; by default cameras are unknown. Irregular but usable
    entries are counted in the notes of the source; invalid ones raise a `ValueError` with file and entry.
    """
    file = source.annotation
    assert file is not None
    entries = read_json(file)
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{file}: expected a list with one object per image, not {_kind(entries)}")
    images: list[PersonImage] = []
    first_seen: dict[str, int] = {}
    irregular = dict.fromkeys(_NOTES, 0)
    for number, entry in enumerate(entries, start=1):
        where = f"{file}, entry {number}"
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: expected an object, not {_kind(entry)}")

        # Path, which identifies the image
        path_key = next((key for key in PATH_KEYS if key in entry), PATH_KEYS[0])
        file_path = check_string(_get(entry, path_key, where), where, path_key)
        where += f" ({file_path})"
        path = safe_path(file_path, where)
        if first_seen.setdefault(path, number) != number:
            raise ValueError(f"{where}: entry {first_seen[path]} has the same {path_key}; keep one of the two")

        # Person, captions, split and camera
        person_id = check_integer(_get(entry, "id", where), where, "id")
        if person_id < 0:
            raise ValueError(f"{where}: id is {person_id}; person numbers start at 0")
        captions = read_captions(_get(entry, "captions", where), where, irregular)
        irregular["captionless"] += not captions
        camera = camera_of(path) if camera_of else UNKNOWN
        irregular["camera"] += camera is None
        camera_id = UNKNOWN if camera is None else camera
        images.append(PersonImage(file_path, person_id, _split(entry, where, source), camera_id, captions=captions))
    source.notes += [f"{file}: {count} {_NOTES[kind]}" for kind, count in irregular.items() if count]
    return images


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
        '(--split_file, split_file=): {"train": [ids], "val": [ids], "test": [ids]}'
    )


def _get(entry: dict[str, Any], key: str, where: str) -> Any:
    if key not in entry:
        raise ValueError(f"{where}: no key `{key}`; the keys are {', '.join(map(str, entry)) or 'none'}")
    return entry[key]


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return f"an object (of {', '.join(list(value)[:5])})" if value else "an empty object"
    return "an empty list" if value == [] else f"a {type(value).__name__}" if value is not None else "null"
