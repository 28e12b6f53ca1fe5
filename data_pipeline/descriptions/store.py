"""Every answer of the model on disk: kept descriptions, rejected answers, failures. What is here is never paid again.

For an output `descriptions.jsonl` there lie beside it:

- `descriptions.rejected.jsonl`: answers that were read but not kept, with what was wrong with them;
- `descriptions.failed.jsonl`: images that stay without a description, with the reason;
- `descriptions.superseded.jsonl`: descriptions under earlier settings that were described anew.

All only grow, by whole lines, so that a process may be killed at any moment and another may read at any moment. A `key`
stands for an image (by its bytes) under a prompt, a model and a style.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from .jsonl import JsonLinesFile, writing_alone

Record = dict[str, Any]


@dataclass(frozen=True)
class Spent:
    """Tokens of one model, online or by the Batch API (which is cheaper)."""

    model: str
    batch: bool


class DescriptionStore:
    """The files of one output, for one writer.

    Raises:
        BlockingIOError: another process is writing to this output.
        ValueError: a line of a file is broken; the message names it.
        OSError: a file cannot be opened.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self._open_things = ExitStack()
        self._open_things.enter_context(writing_alone(output))
        self._key_of: dict[str, str] = {}
        self._place_of: dict[str, tuple[JsonLinesFile, int]] = {}
        self._attempts: dict[str, tuple[int, int]] = {}
        self._failures: dict[str, Record] = {}
        self._texts: Counter[int] = Counter()
        self.prompt_tokens: Counter[Spent] = Counter()
        self.completion_tokens: Counter[Spent] = Counter()
        self.answers = 0
        self._files: list[JsonLinesFile] = []
        self._open_things.callback(self._close_files)
        try:
            self._superseded = self._open("superseded")
            self._kept = self._open("")
            self._rejected = self._open("rejected")
            self._failed = self._open("failed")
            self._read()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "DescriptionStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Syncs and closes the files and lets other writers in."""
        self._open_things.close()

    def sync(self) -> None:
        """Waits until everything lies on the disk itself."""
        for file in self._files:
            file.sync()

    def __len__(self) -> int:
        """How many images have a description."""
        return len(self._key_of)

    @property
    def failures(self) -> dict[str, Record]:
        """The recorded failures by `file_path`."""
        return self._failures

    def key_of(self, file_path: str) -> str | None:
        """The key under which an image was described; None if it was not."""
        return self._key_of.get(file_path)

    def described_as(self, key: str) -> Record | None:
        """The description under a key, of whichever image; None if there is none."""
        place = self._place_of.get(key)
        return None if place is None else place[0].read_at(place[1])

    def rejected(self, key: str) -> tuple[int, Record | None]:
        """How many answers under a key were rejected so far, and the last of them."""
        count, start = self._attempts.get(key, (0, -1))
        return count, self._rejected.read_at(start) if count else None

    def same_texts(self, record: Record) -> int:
        """How many images have both texts of this description already."""
        return self._texts[_fingerprint(record)]

    def descriptions(self) -> Iterator[Record]:
        """Every kept description."""
        return (record for _, record in self._kept.lines())

    def add_description(self, record: Record) -> None:
        """Keeps a description: an object with at least `file_path`, the texts, `key`, `model`, `usage`."""
        self._index(self._kept, self._kept.append(record), record)
        self._count(record)

    def add_rejected(self, record: Record) -> None:
        """Keeps a rejected answer: at least `key`, `problems`, `answer`, `model`, `usage`."""
        self._index_rejected(self._rejected.append(record), record)

    def add_failure(self, record: Record) -> None:
        """Records that an image stays without a description: at least `file_path`, `reason`."""
        self._failed.append(record)
        self._failures[record["file_path"]] = record

    def reopen_failures(self) -> int:
        """Forgets all failures, so that their images may be sent again with the full number of attempts."""
        count = len(self._failures)
        if count:
            for record in self._failures.values():
                if record.get("key") in self._attempts:
                    self.add_rejected({"key": record["key"], "reopened": True})
            self._rejected.sync()
            self._failed.replace(iter(()))
            self._failures.clear()
        return count

    def supersede(self, file_paths: Collection[str]) -> None:
        """Takes descriptions out of the output. They stay beside it, and are put back if their key is asked for."""
        chosen = set(file_paths)
        for record in self.descriptions():
            if record["file_path"] in chosen:
                self._superseded.append(record)
        self._superseded.sync()
        self._kept.replace(record for record in self.descriptions() if record["file_path"] not in chosen)
        self._read()

    def _close_files(self) -> None:
        """Empty files are removed, but for the output."""
        for file in self._files:
            file.close()
            if file.path != self.output and file.path.stat().st_size == 0:
                file.path.unlink()
        self._files = []

    def _open(self, part: str) -> JsonLinesFile:
        suffix = f".{part}{self.output.suffix}" if part else self.output.suffix
        file = JsonLinesFile(self.output.with_suffix(suffix))
        self._files.append(file)
        return file

    def _read(self) -> None:
        for index in (self._key_of, self._place_of, self._attempts, self._failures, self._texts):
            index.clear()
        self.prompt_tokens.clear()
        self.completion_tokens.clear()
        self.answers = 0
        for file in (self._superseded, self._kept):
            for start, record in file.lines():
                if "file_path" not in record:
                    raise ValueError(f"{file.path}, byte {start}: a description without a file_path")
                self._index(file, start, record)
                self._count(record)
        for start, record in self._rejected.lines():
            self._index_rejected(start, record)
        for _, record in self._failed.lines():
            self._failures[record["file_path"]] = record

    def _index(self, file: JsonLinesFile, start: int, record: Record) -> None:
        key = record.get("key", "")
        if file is self._kept:
            self._key_of[record["file_path"]] = key
            self._texts[_fingerprint(record)] += 1
        if key:
            self._place_of[key] = (file, start)

    def _index_rejected(self, start: int, record: Record) -> None:
        if record.get("reopened"):
            self._attempts.pop(record["key"], None)
        else:
            self._attempts[record["key"]] = (self._attempts.get(record["key"], (0, 0))[0] + 1, start)
            self._count(record)

    def _count(self, record: Record) -> None:
        usage = record.get("usage")
        if usage:
            spent = Spent(record.get("model", ""), bool(record.get("batch")))
            self.prompt_tokens[spent] += usage["prompt_tokens"]
            self.completion_tokens[spent] += usage["completion_tokens"]
            self.answers += 1


def _fingerprint(record: Record) -> int:
    return hash((record.get("identity_description", "").lower(), record.get("clothing_description", "").lower()))
