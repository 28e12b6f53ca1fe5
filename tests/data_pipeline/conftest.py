"""Fixtures: a loopback server with the OpenAI API, and folders of small images."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .descriptions.small_images import StartServer, WriteImages, jpeg

SERVER = Path(__file__).parent / "descriptions" / "openai_server.py"


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Starts servers with flags of `openai_server.py`, such as `faults=0.2`; returns their addresses."""
    servers = []

    def start(**flags: object) -> str:
        command = [sys.executable, str(SERVER), *(f"--{name}={value}" for name, value in flags.items())]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        servers.append(server)
        assert server.stdout is not None
        return f"http://127.0.0.1:{int(server.stdout.readline())}/v1"

    yield start
    for server in servers:
        server.kill()
        server.wait()


@pytest.fixture
def write_images(tmp_path: Path) -> WriteImages:
    """Writes the given number of different images into a folder."""

    def write(count: int) -> Path:
        folder = tmp_path / "images"
        folder.mkdir()
        for number in range(count):
            (folder / f"{number:05d}.jpg").write_bytes(jpeg(number))
        return folder

    return write
