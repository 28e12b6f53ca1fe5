"""Runs of descriptions against loopback servers, with one log of the server's events."""

import json
from pathlib import Path
from typing import Any

from data_pipeline.descriptions.images import ImageItem
from data_pipeline.descriptions.options import DescribeOptions
from data_pipeline.descriptions.pipeline import describe_images
from data_pipeline.descriptions.run import Outcome
from data_pipeline.descriptions.store import side_file

from .small_images import StartServer, jpeg


class Images(list[ImageItem]):
    """Images with the interface of `ImageItems`."""

    def file_paths(self) -> Any:
        return (item.file_path for item in self)


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Bench:
    """Describes images by one server; `log` has the events of the last server."""

    def __init__(self, start_server: StartServer, folder: Path) -> None:
        self._start_server = start_server
        self.log, self.output, self.images = folder / "log", folder / "d.jsonl", Images()

    def write(self, count: int) -> None:
        self.images = Images(ImageItem(f"{number:05d}.jpg", jpeg(number)) for number in range(count))

    def start(self, images: int | None = None, **flags: object) -> None:
        """Starts a server with flags of `openai_server.py`."""
        if images is not None:
            self.write(images)
        self.log.unlink(missing_ok=True)
        self.server = self._start_server(log=self.log, **flags)

    def serve(self, options: dict[str, Any] | None = None, **flags: Any) -> Outcome:
        """Runs with a new server."""
        self.start(**flags)
        return self.run(**(options or {}))

    def run(self, **options: Any) -> Outcome:
        common = {"output": self.output, "model": "m", "base_url": self.server, "poll_seconds": 0.05}
        return describe_images(self.images, DescribeOptions(**{**common, "progress": False, **options}))  # type: ignore[arg-type]

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        return [event for event in read_lines(self.log) if event["event"] in kinds]

    def requests(self) -> int:
        return len(self.events("asked", "batched"))

    def lines(self, part: str = "") -> list[dict[str, Any]]:
        return read_lines(side_file(self.output, part))
