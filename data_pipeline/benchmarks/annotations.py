"""The annotation files of the captioned benchmarks: a JSON list with one object an image."""

from collections.abc import Callable
from typing import Any

from .benchmark import UNKNOWN, PersonImage, Source
from .image_listing import safe_path
from .text_files import check_integer, check_string, read_json

SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
PATH_KEYS = ("file_path", "img_path")


def read_annotations(source: Source, camera_of: Callable[[str], int | None] | None = None) -> list[PersonImage]:
    """Reads the annotation file of a source.

    Each object has `file_path` or `img_path`, `id`, `captions` and `split`; other keys are left alone.

    Args:
        source: where the file is; what was odd but harmless is added to its notes.
        camera_of: the camera in a path, None if the path tells none; without it, cameras are unknown.

    Raises:
        ValueError: the file is no such list, or an entry lacks something; the message names file and entry.
        OSError: the file cannot be read.
    """
    file = source.annotation
    assert file is not None
    entries = read_json(file)
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{file}: a list with one object an image is expected, not {_kind(entries)}")
    images: list[PersonImage] = []
    first_seen: dict[str, int] = {}
    odd = {"lone": 0, "blank": 0, "captionless": 0, "camera": 0}
    for number, entry in enumerate(entries, start=1):
        where = f"{file}, entry {number}"
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: an object is expected, not {_kind(entry)}")
        path_key = next((key for key in PATH_KEYS if key in entry), PATH_KEYS[0])
        file_path = check_string(_get(entry, path_key, where), where, path_key)
        where += f" ({file_path})"
        path = safe_path(file_path, where)
        if first_seen.setdefault(path, number) != number:
            raise ValueError(f"{where}: entry {first_seen[path]} has the same {path_key}; keep one of the two")
        person_id = check_integer(_get(entry, "id", where), where, "id")
        if person_id < 0:
            raise ValueError(f"{where}: id is {person_id}; people are numbered from 0 on")
        captions = read_captions(_get(entry, "captions", where), where, odd)
        odd["captionless"] += not captions
        camera = camera_of(path) if camera_of else UNKNOWN
        odd["camera"] += camera is None
        images.append(
            PersonImage(file_path, person_id, _split(entry, where, source), UNKNOWN if camera is None else camera)
        )
        images[-1].captions = captions
    wording = {
        "lone": "image(s) have one string in the place of a list of captions: taken as one caption",
        "blank": "caption(s) are blank: left out",
        "captionless": "image(s) have no caption: they can be found, but nothing asks for them",
        "camera": "image(s) have a name that tells no camera: their camera_id is -1",
    }
    source.notes += [f"{file}: {count} {wording[what]}" for what, count in odd.items() if count]
    return images


def read_captions(value: Any, where: str, odd: dict[str, int]) -> list[str]:
    """The captions of an entry: a list of strings, or one string; blank ones are left out and counted in `odd`.

    Raises:
        ValueError: something else; the message begins with `where`.
    """
    if isinstance(value, str):
        odd["lone"] += 1
        value = [value]
    if not isinstance(value, list):
        raise ValueError(f"{where}: captions is {_kind(value)}; a list of strings is expected")
    captions = [check_string(caption, where, "a caption") for caption in value]
    kept = [caption for caption in captions if caption.strip()]
    odd["blank"] += len(captions) - len(kept)
    return kept


def split_named(value: Any, where: str) -> str:
    """`train`, `validation` or `test` for any spelling of them.

    Raises:
        ValueError: another word; the message begins with `where`.
    """
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
    better = " Use reid_raw.json, which has one, or give" if source.annotation.name == "caption_all.json" else " Give"
    raise ValueError(
        f"{where}: no key `split`: this annotation file does not say who is for training.{better} a split file "
        '(--split_file, split_file=): {"train": [ids], "val": [ids], "test": [ids]}'
    )


def _get(entry: dict[str, Any], key: str, where: str) -> Any:
    if key not in entry:
        raise ValueError(f"{where}: no key `{key}`; it has {', '.join(map(str, entry)) or 'none'}")
    return entry[key]


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return f"an object (of {', '.join(list(value)[:5])})" if value else "an empty object"
    return "an empty list" if value == [] else f"a {type(value).__name__}" if value is not None else "null"
