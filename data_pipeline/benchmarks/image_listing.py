"""Lists an image folder with one scan, instead of one file-system call per image."""

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from posixpath import normpath, splitext

from ..images import IMAGE_SUFFIXES, readable_suffixes
from .text_files import first_of

LEADS_OUT = "a link that leads out of the folder"
SYSTEM_NAMES = (
    *("__macosx", "$recycle.bin", "recycler", "system volume information", "lost+found", "thumbs.db", "desktop.ini"),
    *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),  # storage of Synology and QNAP
)
"""Files and folders of operating systems, in lower case; as hidden ones (`.name`), they are passed over."""


@dataclass
class ImageListing:
    """The files below a folder, as paths relative to it with `/`.

    Attributes:
        root: the folder, with symbolic links resolved.
        files: every regular file that is not hidden, sorted; includes links to files, and files in linked folders.
        left_out: links that are not followed and folders that cannot be read, each with the reason.
        hidden: hidden and system files and folders, which are passed over.
        exclude: patterns of further paths to pass over, see `list_images`.
        excluded: files and folders that match one of them.
        repeated: links to a folder that is listed already, or that contains the root.
    """

    root: Path
    files: list[str]
    left_out: dict[str, str]
    hidden: list[str]
    exclude: list[str]
    excluded: list[str]
    repeated: list[str]

    def __post_init__(self) -> None:
        self.files.sort()
        self._present = set(self.files)

    def __contains__(self, path: str) -> bool:
        return path in self._present

    def images(self, *folders: str) -> list[str]:
        """Returns the files with the suffix of a readable image, in all folders or in the given ones."""
        prefixes = tuple(f"{folder}/" for folder in folders) or ("",)
        return [path for path in self.files if path.startswith(prefixes) and path.lower().endswith(readable_suffixes())]

    def reason(self, path: str) -> str | None:
        """Returns the reason why a path, or a folder above it, is left out, or None."""
        return next((self.left_out[above] for above in _with_parents(path) if above in self.left_out), None)

    def excludes(self, path: str) -> bool:
        """Whether a path, or a folder above it, matches a pattern of `exclude`."""
        return any(_matches(above, pattern) for pattern in self.exclude for above in _with_parents(path))

    def notes(self, used: Collection[str] = ()) -> list[str]:
        """Returns notes for the user on everything that was passed over; `used` are files that are no images."""
        known = {*self.images(), *used}
        others = [splitext(path)[1].lower() or "without a suffix" for path in self.files if path not in known]
        suffixes = Counter(others)
        kinds = {
            "hidden or system files and folders": self.hidden,
            "files and folders by exclude": self.excluded,
            "links to folders that are listed already": self.repeated,
        }
        counts = [f"{len(paths)} {kind} ({first_of(sorted(paths), 3)})" for kind, paths in kinds.items() if paths]
        if suffixes:
            counts.append("other files: " + ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common()))
        notes = [f"{self.root}: passed over {'; '.join(counts)}"] if counts else []
        if images := sorted(suffixes.keys() & set(IMAGE_SUFFIXES)):
            notes.append(f"{self.root}: to read {', '.join(images)} files: pip install -U pillow pillow-heif")
        if out := sorted(path for path, reason in self.left_out.items() if reason == LEADS_OUT):
            notes.append(
                f"{self.root}: {len(out)} links lead out of the folder, such as {out[0]}; follow them with "
                "--follow-links (follow_links=True), or put the images themselves into it"
            )
        for pattern in self.exclude:
            if not any(_matches(path, pattern) for path in self.excluded):
                notes.append(f"{self.root}: no file or folder matches the pattern {pattern!r} of exclude")
        return notes

    def no_images(self) -> FileNotFoundError:
        """Returns the error for a folder without images, with everything that was passed over."""
        reasons = [note.removeprefix(f"{self.root}: ") for note in self.notes()]
        reasons += [f"{path} is {reason}" for path, reason in self.left_out.items() if reason != LEADS_OUT][:1]
        message = f"{self.root}: there are no images in it (.jpg, .png, .webp, ...)"
        return FileNotFoundError("; ".join([message, *reasons]))

    def fingerprint(self, with_contents: bool) -> str:
        """Returns a digest of the paths; `with_contents` adds sizes and times, so that a repaired file changes it."""
        digest = hashlib.sha256(str(self.root).encode("utf-8", "surrogateescape"))
        for path in self.files:
            digest.update(path.encode("utf-8", "surrogateescape") + b"\n")
            if with_contents:
                status = (self.root / path).stat()
                digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
        others = [*self.left_out, *self.hidden, *self.exclude, *self.excluded, *self.repeated, *readable_suffixes()]
        digest.update("\n".join(others).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def list_images(folder: Path, exclude: Sequence[str] = (), follow_links: bool = False) -> ImageListing:
    """Scans a folder recursively; a link to a folder is followed once, so that loops end.

    Args:
        folder: the folder.
        exclude: patterns of `fnmatch` with `*`, `?` and `[…]` for files and folders to pass over. A pattern without a
            slash is compared with names, others with whole paths below the folder.
        follow_links: also follows links that lead out of the folder.

    Raises `OSError` if the folder itself cannot be read.
    """
    root = folder.resolve()
    patterns = [pattern.removeprefix("./").strip("/") for pattern in exclude]
    files: list[str] = []
    hidden: list[str] = []
    excluded: list[str] = []
    repeated: list[str] = []
    left_out: dict[str, str] = {}
    followed: set[Path] = set()

    def scan(prefix: str, real: Path, below_link: bool) -> None:
        try:
            with os.scandir(real) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            if not prefix:
                raise
            left_out[prefix[:-1]] = f"a folder that cannot be read ({error.strerror})"
            return
        for entry in entries:
            path = prefix + entry.name
            if entry.name.startswith(".") or entry.name.lower() in SYSTEM_NAMES:
                hidden.append(path)
            elif any(_matches(path, pattern) for pattern in patterns):
                excluded.append(path)
            elif entry.is_symlink():
                follow(path, real, Path(os.path.realpath(entry.path)), below_link)
            elif entry.is_dir():
                scan(f"{path}/", real / entry.name, below_link)
            elif entry.is_file():  # no pipe or socket, which would block the reader
                files.append(path)

    def follow(path: str, real: Path, target: Path, below_link: bool) -> None:
        is_inside = target.is_relative_to(root)
        if not os.path.exists(target):  # also without permission, where `Path.exists` raises
            left_out[path] = "a broken link"
        elif not is_inside and not follow_links:
            left_out[path] = LEADS_OUT
        elif os.path.isfile(target):
            files.append(path)
        elif is_inside:
            if not below_link and not real.is_relative_to(target):
                scan(f"{path}/", target, below_link=True)  # no link below a link: links may form a cycle
        elif target in followed or root.is_relative_to(target) or real.is_relative_to(target):
            repeated.append(path)
        else:
            followed.add(target)
            scan(f"{path}/", target, below_link=True)

    scan("", root, below_link=False)
    return ImageListing(root, files, left_out, hidden, patterns, excluded, repeated)


def _matches(path: str, pattern: str) -> bool:
    if "/" not in pattern:
        return fnmatchcase(path.rpartition("/")[2], pattern)
    return fnmatchcase(path, pattern) or fnmatchcase(f"/{path}", pattern)  # the second for `**/name/*`


def _with_parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]


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
