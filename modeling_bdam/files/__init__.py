"""Helpers that every sub-package shares: atomic writes, JSON lines, cores and device, nearest names, install hints."""

import difflib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path` and renames it to `path` on success, so that readers never see a part.

    The temporary path keeps the suffix of `path`, since writers of images choose the format by it. On an exception
    the temporary file is deleted and `path` is unchanged. The content is flushed to disk (fsync) before the rename.

    Raises:
        OSError: the file cannot be written or renamed.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields an empty temporary folder beside `path` and renames it to `path` on success; deletes it on an exception.

    Raises:
        OSError: the folder cannot be created, or `path` exists and is not an empty folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    temporary.chmod(0o777 & ~_umask())  # mkdtemp makes a folder that only the owner can read
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a UTF-8 text file atomically, with the line ends of `text`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def write_json(path: str | os.PathLike[str], value: Any, indent: int | None = 1) -> None:
    """Writes a JSON file atomically."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def write_json_lines(path: str | os.PathLike[str], values: Iterable[Any]) -> None:
    """Writes a JSON Lines file atomically, one value per line."""
    write_text(path, "".join(f"{json.dumps(value, ensure_ascii=False)}\n" for value in values))


def usable_cores() -> int:
    """CPU cores available to this process; processes that torchrun started on one machine divide them equally."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def default_device() -> str:
    """Returns the type of the available accelerator, such as cuda or mps, which Trainer uses too, or `"cpu"`."""
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return "cpu" if accelerator is None else accelerator.type


def cpu_has_bfloat16() -> bool:
    """Whether the CPU has instructions for bfloat16, which it otherwise emulates, slower than float32."""
    import torch

    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.13
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


def install_command(extra: str) -> str:
    """Returns the command that installs an extra of this library: from its checkout if it runs from one, else by name.

    The name is known to pip after an installation from a wheel, although no index has it.
    """
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / "pyproject.toml").is_file():
        return f'pip install "bdam-reid[{extra}]"'
    return f'pip install -e "{"." if checkout == Path.cwd() else checkout}[{extra}]"'


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The hint `; did you mean X?` for an unknown name, or "" where no known name is similar."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


__all__ = [
    "atomic_folder",
    "atomic_path",
    "default_device",
    "did_you_mean",
    "install_command",
    "usable_cores",
    "write_json",
    "write_json_lines",
    "write_text",
]
