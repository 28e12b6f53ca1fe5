"""What a run by the Batch API has under way, on disk: requests, and which batch of the server they went into."""

import json
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .describer import Job
from .jsonl import read_json_lines
from .prompts import Style
from .whole_file import write_whole


@dataclass
class Chunk:
    """A file of requests and how far it is: written, then uploaded (`file_id`), then submitted (`batch_id`)."""

    name: str
    requests: int
    written_at: float
    file_id: str | None = None
    batch_id: str | None = None


class BatchFiles:
    """A folder with `state.json` and, for each chunk, its requests, the images they are for, and its answers.

    Args:
        folder: is made if it is not there.
        settings: what all requests are asked under.

    Raises:
        ValueError: requests under other settings are under way in this folder.
        OSError: it cannot be read or made.
    """

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.folder = folder
        self.chunks: list[Chunk] = []
        self._settings = settings
        self._state = folder / "state.json"
        folder.mkdir(exist_ok=True)
        if self._state.is_file():
            state = json.loads(self._state.read_text(encoding="utf-8"))
            if state["chunks"] and state["settings"] != settings:
                named = " and ".join(f"{name} {value!r}" for name, value in state["settings"].items())
                raise ValueError(f"{folder}: batches of {named} are under way; run with these until they are collected")
            self.chunks = [Chunk(**chunk) for chunk in state["chunks"]]

    def add(self, requests: Sequence[bytes], jobs: Sequence[tuple[Job, int]]) -> None:
        """A new chunk.

        Args:
            requests: lines with their ends.
            jobs: what they are for, and the number of the attempt, from 1.
        """
        chunk = Chunk(uuid.uuid4().hex, len(requests), time.time())
        lines = [
            {
                "file_path": job.file_path,
                "key": job.key,
                "style": job.style.name if job.style else None,
                "attempt": attempt,
            }
            for job, attempt in jobs
        ]
        write_whole(self.path(chunk, "requests"), b"".join(requests))
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_whole(self.path(chunk, "jobs"), text.encode())
        self.chunks.append(chunk)
        self.save()

    def jobs(self, chunk: Chunk) -> Iterator[tuple[Job, int]]:
        """What a chunk's requests are for, and the number of the attempt. The images are not among it."""
        for _, line in read_json_lines(self.path(chunk, "jobs")):
            style = Style(line["style"], ()) if line["style"] is not None else None
            yield Job(line["file_path"], line["key"], style, image_url=""), line["attempt"]

    def path(self, chunk: Chunk, part: str) -> Path:
        """The file with a chunk's `requests`, `jobs` or `answers`."""
        return self.folder / f"{chunk.name}.{part}.jsonl"

    def save(self) -> None:
        """Writes down how far the chunks are."""
        state = {"settings": self._settings, "chunks": [asdict(chunk) for chunk in self.chunks]}
        write_whole(self._state, json.dumps(state, indent=1).encode())

    def forget(self, chunk: Chunk) -> None:
        """Takes a chunk out, with its files."""
        self.chunks.remove(chunk)
        self.save()
        for part in ("requests", "jobs", "answers"):
            self.path(chunk, part).unlink(missing_ok=True)

    def close(self) -> None:
        """Removes the folder if nothing is under way."""
        if not self.chunks:
            shutil.rmtree(self.folder)
