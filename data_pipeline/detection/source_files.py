"""Finds the video or image that a crop was cut from."""

import json
from pathlib import Path

from modeling_bdam.files import write_text

_FILE = ".root.json"  # in the folder of the crops; hidden, so that it is no metadata file


def record_root(crops: Path, root: Path) -> None:
    """Stores the folder of the sources in the folder of the crops."""
    write_text(crops / _FILE, json.dumps({"root": str(root)}))


def source_file(crop: Path, source: object) -> Path | None:
    """Returns the file `source` of the metadata of a crop, or None if the crop is not from `crop_people`.

    Path traversal: the file is in the folder that was recorded at cropping, after symbolic links are resolved.

    Raises:
        FileNotFoundError: the source is gone, is no regular file or is outside of that folder; or no folder was
            recorded.
    """
    if not isinstance(source, str) or "\0" in source or Path(source).is_absolute():
        return None
    parts = Path(source).parts
    if not parts or crop.parent.parts[-len(parts) :] != parts:
        return None
    folder = crop.parents[len(parts)]
    try:
        root = Path(json.loads((folder / _FILE).read_text(encoding="utf-8"))["root"]).resolve(strict=True)
        file = (root / source).resolve(strict=True)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError):
        hint = (
            "it was moved or deleted" if (folder / _FILE).is_file() else "its folder is unknown, run `bdam crop` again"
        )
        raise FileNotFoundError(f"the source {source} is gone: {hint}") from None
    if not file.is_relative_to(root) or not file.is_file():
        raise FileNotFoundError(f"the source {source} is not shown: it is no file in the folder that was cropped")
    return file
