"""Files that appear complete or not at all."""

import os
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file: after a crash it is the old one or the new one.

    Raises:
        OSError: it cannot be written; then what was there before stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
