"""Files of a Batch API run: the state on disk (chunks of requests, the batch id of each), and downloaded answers."""

import asyncio
import json
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import openai

from modeling_bdam.files import atomic_path, write_json, write_json_lines

from ..benchmarks.text_files import read_json
from .describer import Job
from .jsonl import read_json_lines
from .prompts import Style


@dataclass
class Chunk:
    """A file of requests and its progress: written, then uploaded (`file_id`), then submitted (`batch_id`)."""

    name: str
    requests: int
    written_at: float
    file_id: str | None = None
    batch_id: str | None = None


class BatchFiles:
    """A folder with `state.json` and, for each chunk, its requests and its jobs.

    Raises:
        ValueError: the folder has unfinished batches under other settings (model and prompt).
        OSError: the folder cannot be read or created.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.chunks: list[Chunk] = []
        self._settings = settings
        self._state = folder / "state.json"
        folder.mkdir(exist_ok=True)
        if self._state.is_file():
            state = read_json(self._state)
            if state["chunks"] and state["settings"] != settings:
                named = " and ".join(f"{name} {value!r}" for name, value in state["settings"].items())
                raise ValueError(f"{folder}: batches with {named} are unfinished; rerun with these to collect them")
            self.chunks = [Chunk(**chunk) for chunk in state["chunks"]]

    def add(self, requests: Sequence[bytes], jobs: Sequence[tuple[Job, int]]) -> None:
        """Writes a new chunk: request lines (with line ends), and the job and attempt number (from 1) of each."""
        chunk = Chunk(uuid.uuid4().hex, len(requests), time.time())
        with atomic_path(self.path(chunk, "requests")) as temporary:
            temporary.write_bytes(b"".join(requests))
        lines = [
            {"file_path": job.file_path, "key": job.key, "style": job.style_name, "attempt": attempt}
            for job, attempt in jobs
        ]
        write_json_lines(self.path(chunk, "jobs"), lines)
        self.chunks.append(chunk)
        self.save()

    def jobs(self, chunk: Chunk) -> Iterator[tuple[Job, int]]:
        """Yields the jobs of a chunk, without their images, and the attempt number of each."""
        for _, line in read_json_lines(self.path(chunk, "jobs")):
            style = Style(line["style"], ()) if line["style"] is not None else None
            yield Job(line["file_path"], line["key"], style, image_url=""), line["attempt"]

    def path(self, chunk: Chunk, part: str) -> Path:
        """Returns the file of a chunk's `requests` or `jobs`."""
        return self.folder / f"{chunk.name}.{part}.jsonl"

    def save(self) -> None:
        """Writes `state.json` atomically."""
        write_json(self._state, {"settings": self._settings, "chunks": [asdict(chunk) for chunk in self.chunks]})

    def remove(self, chunk: Chunk) -> None:
        """Removes a chunk and its files."""
        self.chunks.remove(chunk)
        self.save()
        for part in ("requests", "jobs"):
            self.path(chunk, part).unlink(missing_ok=True)

    def close(self) -> None:
        """Removes the folder if no chunk is left."""
        if not self.chunks:
            shutil.rmtree(self.folder)


async def download_lines(api: openai.AsyncOpenAI, batch: Any) -> tuple[list[dict[str, Any]], int]:
    """Downloads the lines of an ended batch; returns them and the number of unreadable lines.

    A download that is cut or has unreadable lines is repeated.
    """
    counts = batch.request_counts
    for seconds in (1, 2, None):
        lines: list[dict[str, Any]] = []
        unreadable = 0
        for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
            content = await api.files.content(file_id)
            for text in filter(bytes.strip, content.content.splitlines()):
                try:
                    line = json.loads(text)
                except ValueError:
                    line = None
                lines += [line] if isinstance(line, dict) else []
                unreadable += not isinstance(line, dict)
        if seconds is None or (not unreadable and (counts is None or len(lines) >= counts.completed + counts.failed)):
            break
        await asyncio.sleep(seconds)
    return lines, unreadable
