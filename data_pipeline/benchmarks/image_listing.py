"""What lies in an image folder: one scan of it instead of a look at every file."""

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
        root: the folder, without symbolic links.
        files: every file, sorted; links to files and folders inside the root are followed.
        outside: links that lead out of the root, or nowhere; they are never followed.
    """

    root: Path
    files: list[str]
    outside: set[str]

    def __post_init__(self) -> None:
        self._present = set(self.files)

    def __contains__(self, path: str) -> bool:
        return path in self._present

    def images(self, *folders: str) -> list[str]:
        """The files with an image's suffix, of all folders or of those whose relative path is given; no hidden ones."""
        prefixes = tuple(f"{folder}/" for folder in folders) or ("",)
        return [
            path
            for path in self.files
            if path.startswith(prefixes)
            and path.lower().endswith(IMAGE_SUFFIXES)
            and not path.rpartition("/")[2].startswith(".")
        ]

    def leads_outside(self, path: str) -> bool:
        """Whether a path goes over a link out of the root."""
        if not self.outside:
            return False
        parts = path.split("/")
        return any("/".join(parts[:length]) in self.outside for length in range(1, len(parts) + 1))

    def fingerprint(self, with_contents: bool) -> str:
        """A digest of the names; with `with_contents` also of sizes and times, so that a repaired file changes it."""
        digest = hashlib.sha256(str(self.root).encode("utf-8", "surrogateescape"))
        for path in self.files:
            digest.update(path.encode("utf-8", "surrogateescape") + b"\n")
            if with_contents:
                status = (self.root / path).stat()
                digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
        digest.update("\n".join(sorted(self.outside)).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def list_images(folder: Path) -> ImageListing:
    """Scans a folder and all below it.

    Raises:
        OSError: a folder cannot be read.
    """
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
                        scan(f"{path}/", target, follow=False)  # no link behind a link: they could go round in circles
                elif entry.is_dir():
                    scan(f"{path}/", real / entry.name, follow)
                else:
                    files.append(path)

    scan("", root, follow=True)
    files.sort()
    return ImageListing(root, files, outside)


def safe_path(path: str, where: str) -> str:
    """The path as it stands in a listing: `./a//b.jpg` is `a/b.jpg`.

    Raises:
        ValueError: the path is absolute or climbs with `..`; the message begins with `where`.
    """
    if not path.strip():
        raise ValueError(f"{where}: the path of the image is empty")
    absolute = path.startswith(("/", "\\")) or path[1:2] == ":"
    if absolute or ".." in path.replace("\\", "/").split("/"):
        raise ValueError(
            f"{where}: the path {path!r} leaves the data folder; paths must be relative to it, without '..'"
        )
    return normpath(path)
