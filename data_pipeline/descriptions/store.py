"""On-disk store of all answers: descriptions, rejected answers, failures. A stored answer is never paid for again.

For an output `descriptions.jsonl` the store also writes

- `descriptions.rejected.jsonl`: answers that were rejected, with their problems;
- `descriptions.failed.jsonl`: images that remain without a description, with the reason;
- `descriptions.superseded.jsonl`: descriptions under earlier settings that were replaced.

All files are append-only JSON Lines, so a process can be killed and the files can be read at any time. A `key`
identifies an image (by its bytes) under a prompt, a model and a style.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from .jsonl import JsonLinesFile, single_writer

Record = dict[str, Any]


class DescriptionStore:
    """The files of one output, opened for a single writer.

    Attributes:
        failures: the recorded failures by `file_path`.
        usage: tokens of all answers, rejected and superseded ones included, by their kind, for each (model, batch).
        answers: number of these answers.

    Raises:
        BlockingIOError: another process writes to this output.
        ValueError: a line is malformed; the message has the file and the line.
        OSError: a file cannot be opened.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.failures: dict[str, Record] = {}
        self.usage: defaultdict[tuple[str, bool], Counter[str]] = defaultdict(Counter)
        self.answers = 0
        self._key_of: dict[str, str] = {}  # file_path -> key
        self._location: dict[str, tuple[JsonLinesFile, int]] = {}  # key -> file and byte offset of the description
        self._attempts: dict[str, tuple[int, int]] = {}  # key -> rejected answers and byte offset of the last one
        self._texts: Counter[int] = Counter()
        self._files: list[JsonLinesFile] = []
        self._resources = ExitStack()
        self._resources.enter_context(single_writer(output))
        self._resources.callback(self._close_files)
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

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Syncs and closes the files and releases the file lock."""
        self._resources.close()

    def sync(self) -> None:
        """Flushes all files to disk (fsync)."""
        for file in self._files:
            file.sync()

    def __len__(self) -> int:
        """Number of images with a description."""
        return len(self._key_of)

    @property
    def tokens(self) -> Counter[str]:
        """Tokens of all answers by their kind, such as `prompt_tokens`."""
        return sum(self.usage.values(), Counter())

    def key_of(self, file_path: str) -> str | None:
        """Returns the key that an image was described under; None if it has no description."""
        return self._key_of.get(file_path)

    def described_as(self, key: str) -> Record | None:
        """Returns the description under a key, of any image; None if there is none."""
        location = self._location.get(key)
        return None if location is None else location[0].read_at(location[1])

    def rejected(self, key: str) -> tuple[int, Record | None]:
        """Returns the number of rejected answers under a key and the last of them."""
        count, start = self._attempts.get(key, (0, -1))
        return count, self._rejected.read_at(start) if count else None

    def same_texts(self, record: Record) -> int:
        """Counts the images that already have both texts of this description."""
        return self._texts[_fingerprint(record)]

    def descriptions(self) -> Iterator[Record]:
        """Yields each kept description."""
        return (record for _, record in self._kept.lines())

    def add_description(self, record: Record) -> None:
        """Appends a description with at least `file_path`, the texts, `key`, `model`, `usage`."""
        self._index(self._kept, self._kept.append(record), record)
        self._count(record)

    def add_rejected(self, record: Record) -> None:
        """Appends a rejected answer with at least `key`, `problems`, `answer`, `model`, `usage`."""
        self._index_rejected(self._rejected.append(record), record)

    def add_failure(self, record: Record) -> None:
        """Appends a failure with at least `file_path`, `reason`."""
        self._failed.append(record)
        self.failures[record["file_path"]] = record

    def reopen_failures(self) -> None:
        """Deletes all failures and resets their attempts, so that a run retries their images."""
        if not self.failures:
            return
        self.reset_attempts(record["key"] for record in self.failures.values() if "key" in record)
        self._failed.replace(())
        self.failures.clear()

    def reset_attempts(self, keys: Iterable[str]) -> None:
        """Resets the attempts under some keys; the rejected answers still count as paid."""
        for key in keys:
            if key in self._attempts:
                self.add_rejected({"key": key, "reopened": True})
        self._rejected.sync()

    def supersede(self, file_paths: Collection[str]) -> None:
        """Moves descriptions to the superseded file; a later run under their key restores them without a request."""
        chosen = set(file_paths)
        for record in self.descriptions():
            if record["file_path"] in chosen:
                self._superseded.append(record)
        self._superseded.sync()
        self._kept.replace(record for record in self.descriptions() if record["file_path"] not in chosen)
        self._read()

    def _close_files(self) -> None:
        for file in self._files:
            file.close()
            if file.path != self.output and file.path.stat().st_size == 0:
                file.path.unlink()
        self._files = []

    def _open(self, part: str) -> JsonLinesFile:
        file = JsonLinesFile(side_file(self.output, part))
        self._files.append(file)
        return file

    def _read(self) -> None:
        """Rebuilds all indexes from the files."""
        for index in (self._key_of, self._location, self._attempts, self.failures, self._texts, self.usage):
            index.clear()
        self.answers = 0
        for file in (self._superseded, self._kept):
            for start, record in file.lines():
                if "file_path" not in record:
                    raise ValueError(f"{file.path}, byte {start}: no key `file_path`; remove the line")
                self._index(file, start, record)
                self._count(record)
        for start, record in self._rejected.lines():
            self._index_rejected(start, record)
        for _, record in self._failed.lines():
            self.failures[record["file_path"]] = record

    def _index(self, file: JsonLinesFile, start: int, record: Record) -> None:
        key = record.get("key", "")
        if file is self._kept:
            self._key_of[record["file_path"]] = key
            self._texts[_fingerprint(record)] += 1
        if key:
            self._location[key] = (file, start)

    def _index_rejected(self, start: int, record: Record) -> None:
        if record.get("reopened"):
            self._attempts.pop(record["key"], None)
        else:
            self._attempts[record["key"]] = (self._attempts.get(record["key"], (0, 0))[0] + 1, start)
            self._count(record)

    def _count(self, record: Record) -> None:
        if usage := record.get("usage"):
            self.usage[record.get("model", ""), bool(record.get("batch"))].update(usage)
            self.answers += 1


def side_file(output: Path, part: str) -> Path:
    """Returns the file of a part, such as "rejected", beside an output; the output itself for ""."""
    return output.with_suffix(f".{part}{output.suffix}") if part else output


def _fingerprint(record: Record) -> int:
    return hash((record.get("identity_description", "").lower(), record.get("clothing_description", "").lower()))
