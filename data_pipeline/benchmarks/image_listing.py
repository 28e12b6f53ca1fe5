"""Lists an image folder with one scan, instead of one file-system call per image."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from posixpath import normpath

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")


@dataclass
class ImageListing:
    """The files below a folder, as paths relative to it with `/`.

    Attributes:
        root: the folder, with symbolic links resolved.
        files: every file, sorted; includes links to files and folders inside the root.
        outside: links that point out of the root, or are broken; they are never followed.
    """

    root: Path
    files: list[str]
    outside: set[str]

    def __post_init__(self) -> None:
        self._present = set(self.files)

    def __contains__(self, path: str) -> bool:
        return path in self._present

    def images(self, *folders: str) -> list[str]:
        """Returns the files with an image suffix, in all folders or in the given ones; skips hidden files."""
        prefixes = tuple(f"{folder}/" for folder in folders) or ("",)
        return [
            path
            for path in self.files
            if path.startswith(prefixes)
            and path.lower().endswith(IMAGE_SUFFIXES)
            and not path.rpartition("/")[2].startswith(".")
        ]

    def leads_outside(self, path: str) -> bool:
        """Whether a path contains a link that points out of the root."""
        if not self.outside:
            return False
        parts = path.split("/")
        return any("/".join(parts[:length]) in self.outside for length in range(1, len(parts) + 1))

    def fingerprint(self, with_contents: bool) -> str:
        """Returns a digest of the paths; `with_contents` adds sizes and times, so that a repaired file changes it."""
        digest = hashlib.sha256(str(self.root).encode("utf-8", "surrogateescape"))
        for path in self.files:
            digest.update(path.encode("utf-8", "surrogateescape") + b"\n")
            if with_contents:
                status = (self.root / path).stat()
                digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
        digest.update("\n".join(sorted(self.outside)).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def list_images(folder: Path) -> ImageListing:
    """Scans a folder recursively; raises `OSError` if a folder cannot be read."""
    root = folder.resolve()
    files: list[str] = []
    outside: set[str] = set()

    def scan(prefix: str, real: Path, follow: bool) -> None:
        with os.scandir(real) as entries:
            for entry in entries:
                path = prefix + entry.name
                if entry.is_symlink():
                    target = Path(os.path.realpath(entry.path))
                    if not target.is_relative_to(root) or not target.exists():
                        outside.add(path)
                    elif not target.is_dir():
                        files.append(path)
                    elif follow and not real.is_relative_to(target):
                        scan(f"{path}/", target, follow=False)  # no link below a link: links may form a cycle
                elif entry.is_dir():
                    scan(f"{path}/", real / entry.name, follow)
                else:
                    files.append(path)

    scan("", root, follow=True)
    return ImageListing(root, sorted(files), outside)


def safe_path(path: str, where: str) -> str:
    """Normalizes a path to the form of a listing (`./a//b.jpg` to `a/b.jpg`) and refuses path traversal.

    Raises `ValueError` for an empty or absolute path and for `..`; the message begins with `where`.
    """
    if not path.strip():
        raise ValueError(f"{where}: the path of the image is empty")
    absolute = path.startswith(("/", "\\")) or path[1:2] == ":"
    if absolute or ".." in path.replace("\\", "/").split("/"):
        raise ValueError(
            f"{where}: the path {path!r} leaves the data folder; paths must be relative to it, without '..'"
        )
    return normpath(path)
