"""A loopback server and small folders of images as fixtures."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .descriptions.small_images import jpeg

SERVER = Path(__file__).parent / "descriptions" / "openai_server.py"


@pytest.fixture
def start_server() -> Iterator[Callable[..., str]]:
    """Starts servers with the flags of `openai_server.py`; returns their addresses."""
    servers = []

    def start(*flags: str) -> str:
        server = subprocess.Popen([sys.executable, str(SERVER), *flags], stdout=subprocess.PIPE, text=True)
        servers.append(server)
        assert server.stdout is not None
        return f"http://127.0.0.1:{int(server.stdout.readline())}/v1"

    yield start
    for server in servers:
        server.kill()
        server.wait()


@pytest.fixture
def write_images(tmp_path: Path) -> Callable[[int], Path]:
    """Writes so many different images into a folder."""

    def write(count: int) -> Path:
        folder = tmp_path / "images"
        folder.mkdir()
        for number in range(count):
            (folder / f"{number:05d}.jpg").write_bytes(jpeg(number))
        return folder

    return write
