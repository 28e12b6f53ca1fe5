"""A tiny model, photos of synthetic people, an index of them, both vector stores and a served demo."""

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipeline.batches.tokenizer import train_tokenizer
from data_pipeline.search import PersonGallery, build_index
from data_pipeline.search.embedder import Embedder
from data_pipeline.search.stores.milvus_store import MilvusStore
from data_pipeline.synthetic.dataset import synthetic_row
from modeling_bdam import BDAMConfig, BDAMModel, BDAMProcessor
from modeling_bdam.processing_bdam import default_image_processor

ROOT = Path(__file__).parents[3]
PEOPLE, OUTFITS, SHOTS = 4, 2, 3
WIDTH = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
WORDS = [caption for person in range(8) for caption in synthetic_row(0, person, 0, 0)["captions"]]


def make_model(folder: Path, seed: int, **fields: Any) -> Path:
    """Saves a tiny model with large random weights, so that different images have different scores.

    `fields` are further fields of its config.
    """
    tokenizer = train_tokenizer(WORDS, vocab_size=600, max_length=32)
    torch.manual_seed(seed)
    text_config = {"vocab_size": len(tokenizer), "max_position_embeddings": 32, "pad_token_id": tokenizer.pad_token_id}
    config = BDAMConfig(
        vision_config={"model_type": "vit", "image_size": 32, "patch_size": 16, "initializer_range": 0.3, **WIDTH},
        text_config={"model_type": "bert", "initializer_range": 0.3, **text_config, **WIDTH},
        hidden_size=32,
        projection_dim=16,
        num_bdam_layers=1,
        num_bdam_heads=2,
        fusion_hidden_size=16,
        num_fusion_layers=1,
        mamba_state_size=4,
        fusion_norm=False,  # large random weights behind a norm would amplify the rounding of bfloat16
        initializer_range=0.3,
        **fields,
    )
    BDAMModel(config).save_pretrained(folder)
    BDAMProcessor(default_image_processor(32, 32), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), seed=0)


@pytest.fixture(scope="session")
def other_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("other_model"), seed=1)


@pytest.fixture(scope="session")
def embedder(model_folder: Path) -> Embedder:
    return Embedder.load(model_folder, device="cpu")


@pytest.fixture(scope="session")
def matching_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a matching head that changes the order of the hits."""
    fields = {"use_matching": True, "matching_weight": 0.5, "matching_hidden_size": 16}
    return make_model(tmp_path_factory.mktemp("matching"), seed=0, **fields)


@pytest.fixture
def matching(matching_folder: Path) -> Embedder:
    """The model with a matching head, in float32, so that vectors and tokens do not depend on the batch."""
    embedder = Embedder.load(matching_folder, device="cpu")
    embedder.in_bfloat16 = False
    return embedder


@pytest.fixture(scope="session")
def drawn_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only photos `camera_N/PERSON_OUTFIT_SHOT.jpg` of a few people in two outfits, with metadata.csv."""
    folder = tmp_path_factory.mktemp("photos")
    lines = ["file_name,person_id,camera,time"]
    for number in range(PEOPLE * OUTFITS * SHOTS):
        person, outfit, shot = number // (OUTFITS * SHOTS), number // SHOTS % OUTFITS, number % SHOTS
        row = synthetic_row(0, person, outfit, shot, image_size=(64, 32))
        file = folder / f"camera_{row['camera_id']}" / f"{person}_{outfit}_{shot}.jpg"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(row["image"]["bytes"])
        name = file.relative_to(folder)
        lines.append(f"{name},{person},{row['camera_id']},2026-05-{2 + number:02d}T10:00:00")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def photos(drawn_photos: Path, tmp_path: Path) -> Path:
    """A copy of the photos that a test may change."""
    return Path(shutil.copytree(drawn_photos, tmp_path / "photos"))


@pytest.fixture(scope="session")
def exact(drawn_photos: Path, embedder: Embedder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PersonGallery]:
    """A read-only exact index of the photos."""
    index = tmp_path_factory.mktemp("exact")
    with PersonGallery.build(index, drawn_photos, embedder, show_progress=False) as gallery:
        yield gallery


@pytest.fixture
def write_descriptions(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """Writes a descriptions file of identity descriptions by path."""

    def write(texts: dict[str, str]) -> Path:
        file = tmp_path / "descriptions.jsonl"
        lines = [
            json.dumps({"file_path": path, "identity_description": text, "clothing_description": "a red coat"})
            for path, text in texts.items()
        ]
        file.write_text("\n".join(lines))
        return file

    return write


class MilvusServer:
    """A Milvus server on loopback, with its data in a folder."""

    def __init__(self, folder: Path) -> None:
        for package in ("pymilvus", "milvus_lite"):
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"{package} is not installed: pip install 'pymilvus[milvus-lite]'")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        options = ["--data-dir", str(folder), "--host", "127.0.0.1", "--port", str(port)]
        self._command = [sys.executable, "-m", "milvus_lite", "server", *options]
        self.address = f"http://127.0.0.1:{port}"
        self.start()

    def start(self) -> None:
        self._server = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while True:
            try:
                MilvusStore.check(self.address)
                return
            except OSError:
                is_running = self._server.poll() is None and time.monotonic() < deadline
                assert is_running, "milvus-lite server does not respond"
                time.sleep(0.3)

    def stop(self) -> None:
        self._server.send_signal(signal.SIGCONT)  # of one that a failed test has stopped
        self._server.terminate()
        self._server.wait(timeout=30)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, such as SIGSTOP, to the server."""
        self._server.send_signal(number)
        if number == signal.SIGKILL:
            self._server.wait(timeout=30)


@pytest.fixture(scope="session")
def milvus_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Milvus server on loopback, started for the tests."""
    server = MilvusServer(tmp_path_factory.mktemp("milvus"))
    yield server.address
    server.stop()


@pytest.fixture
def serve_milvus(tmp_path: Path) -> Iterator[Callable[[], MilvusServer]]:
    """Starts a Milvus server that a test may stop and start."""
    servers: list[MilvusServer] = []

    def serve() -> MilvusServer:
        servers.append(MilvusServer(tmp_path / "milvus"))
        return servers[-1]

    yield serve
    for server in servers:
        server.stop()


@pytest.fixture(params=["faiss", "milvus"])
def store(request: pytest.FixtureRequest) -> str | None:
    """None for vectors in the index folder, or the address of a Milvus server."""
    return None if request.param == "faiss" else request.getfixturevalue("milvus_address")


@dataclass
class ServedDemo:
    """A demo in its own process: its address, index, indexed images, and the folder of uploads and exports."""

    address: str
    index: Path
    photos: Path
    folder: Path


@contextmanager
def serve(index: Path, photos: Path, folder: Path, *options: str) -> Iterator[ServedDemo]:
    """Runs `bdam demo` until the context ends; its output is in `folder`/demo.log."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "data_pipeline.commands.main", "demo", "--index", str(index), "--device", "cpu"]
    log = folder / "demo.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--port", "0", *options], env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + 120
        while not (printed := re.search(r"at (http://\S+:\d+)", log.read_text())):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield ServedDemo(printed[1], index, photos, folder)
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="session")
def demo(drawn_photos: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedDemo]:
    """A demo of the photos, with one malicious file name; at the end, all uploads must be deleted."""
    pytest.importorskip("gradio", reason="the demo needs gradio: pip install -e '.[demo]'")
    folder = tmp_path_factory.mktemp("demo")
    photos = Path(shutil.copytree(drawn_photos, folder / "photos"))
    malicious = photos / "${window.hit=1}<img src=x onerror='window.hit=1'>{{7*7}}.jpg"
    malicious.write_bytes(synthetic_row(0, PEOPLE, 0, 0, image_size=(64, 32))["image"]["bytes"])
    build_index(folder / "index", photos, model_folder, device="cpu", show_progress=False)
    with serve(folder / "index", photos, folder) as served:
        yield served
    assert not list(folder.glob("bdam-demo-*")), "uploads are left on the disk"


@pytest.fixture
def serve_demo() -> Callable[..., AbstractContextManager[ServedDemo]]:
    """`serve`, for a demo with other options."""
    return serve
