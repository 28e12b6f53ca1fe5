"""Milvus: a wrong address, open readers, copies of an index, and a restarted server."""

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data_pipeline.search import PersonGallery, build_index
from data_pipeline.search.embedder import Embedder
from data_pipeline.search.index import collections_file, publishing
from data_pipeline.search.stores import milvus_store
from data_pipeline.search.stores.milvus_store import MilvusStore
from data_pipeline.synthetic.dataset import synthetic_row

SENTENCE = "a young woman in a red coat and blue jeans"
NOWHERE = "http://127.0.0.1:9"


def collections(address: str) -> set[str]:
    from pymilvus import MilvusClient

    client = MilvusClient(address, timeout=10)
    try:
        return set(client.list_collections())
    finally:
        client.close()


def add_photo(photos: Path, number: int) -> None:
    (photos / f"new_{number}.png").write_bytes(synthetic_row(0, number, 0, 0)["image"]["bytes"])


def test_wrong_address_is_tried_first_and_leaves_no_trace(
    photos: Path, embedder: Embedder, milvus_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "index"
    with monkeypatch.context() as patched:
        patched.setattr(embedder, "embed_images", lambda *arguments: pytest.fail("embedded before the address"))
        for address in (NOWHERE, "localhost:19530"):
            with pytest.raises((OSError, ValueError), match=r"no response of Milvus|give the address"):
                build_index(index, photos, embedder, store=address, show_progress=False)
    assert build_index(index, photos, embedder, store=milvus_address, show_progress=False).images == 24
    with pytest.raises(OSError, match="no response of Milvus"):
        build_index(index, photos, embedder, store=NOWHERE, show_progress=False)
    with PersonGallery.open(index, embedder) as gallery:
        assert len(gallery.search_text(SENTENCE)) == 20


def test_unreachable_old_collection_does_not_stop_a_run(
    photos: Path, embedder: Embedder, milvus_address: str, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    index.mkdir()
    (index / "collections.json").write_text(json.dumps([[NOWHERE, "bdam_left", 0.0]]))
    report = build_index(index, photos, embedder, store=milvus_address, show_progress=False)
    assert any("bdam_left is still in the cluster" in note for note in report.notes)
    assert json.loads((index / "collections.json").read_text()) == [[NOWHERE, "bdam_left", 0.0]]


def test_old_collection_lives_for_a_grace_time(
    photos: Path, embedder: Embedder, milvus_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "index"
    options: dict[str, Any] = {"store": milvus_address, "show_progress": False}
    with PersonGallery.build(index, photos, embedder, **options) as gallery:
        old = gallery.manifest.collection
        reload = gallery.reload
        monkeypatch.setattr(gallery, "reload", lambda: False)  # a reader in the middle of its search
        add_photo(photos, 7)
        build_index(index, photos, embedder, **options)
        assert len(gallery.search_text(SENTENCE, 100)) == 24
        assert reload()
        assert len(gallery.search_text(SENTENCE, 100)) == 25
    assert old in collections(milvus_address)
    monkeypatch.setattr(collections_file, "time", SimpleNamespace(time=lambda: 10.0**11))
    build_index(index, photos, embedder, **options)  # nothing is new
    assert old not in collections(milvus_address)
    assert not (index / "collections.json").exists()


def test_copied_index_keeps_its_collection(
    photos: Path, embedder: Embedder, milvus_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collections_file, "_GRACE", -1.0)
    index = tmp_path / "index"
    options: dict[str, Any] = {"store": milvus_address, "show_progress": False}
    build_index(index, photos, embedder, **options)
    copy = Path(shutil.copytree(index, tmp_path / "copy"))
    with PersonGallery.open(copy, embedder) as gallery:
        shared = gallery.manifest.collection
        add_photo(photos, 7)
        build_index(index, photos, embedder, **options)
        assert len(gallery.search_text(SENTENCE, 100)) == 24
        assert shared in collections(milvus_address)
    with PersonGallery.open(copy, embedder) as gallery:  # again
        assert len(gallery.search_text(SENTENCE, 100)) == 24

    # The copy gets its own collection with its next update, and the shared one is dropped by the original
    build_index(copy, photos, embedder, **options)
    add_photo(photos, 8)
    build_index(index, photos, embedder, **options)
    assert shared not in collections(milvus_address)
    for each, count in ((copy, 25), (index, 26)):
        with PersonGallery.open(each, embedder) as gallery:
            assert len(gallery.search_text(SENTENCE, 100)) == count


def test_open_gallery_recovers_from_a_restart(
    photos: Path, embedder: Embedder, serve_milvus: Callable, tmp_path: Path
) -> None:
    server = serve_milvus()
    options: dict[str, Any] = {"store": server.address, "show_progress": False}
    with PersonGallery.build(tmp_path / "index", photos, embedder, **options) as gallery:
        before = [hit.name for hit in gallery.search_text(SENTENCE)]
        server.stop()
        with pytest.raises(OSError, match="Milvus"):
            gallery.search_text(SENTENCE)
        server.start()
        assert [hit.name for hit in gallery.search_text(SENTENCE)] == before
        assert gallery.vector(3).shape == (32,)


@pytest.mark.parametrize(("ends", "continues"), [("SIGKILL", None), ("SIGSTOP", "SIGCONT")])
def test_server_that_ends_during_indexing_leaves_the_old_state(
    ends: str,
    continues: str | None,
    photos: Path,
    embedder: Embedder,
    serve_milvus: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, index = serve_milvus(), tmp_path / "index"
    options: dict[str, Any] = {"store": server.address, "show_progress": False}
    vectors = publishing._Vectors.vectors

    def ending(*arguments: Any) -> Iterator[Any]:
        for number, chunk in enumerate(vectors(*arguments)):
            if number == 2:
                server.send(signal.Signals[ends])
                monkeypatch.setattr(milvus_store, "_TIMEOUT", 1.0)
            yield chunk

    with PersonGallery.build(index, photos, embedder, **options) as gallery:
        before, manifest = gallery.search_text(SENTENCE), (index / "manifest.json").read_bytes()
        add_photo(photos, 7)
        with monkeypatch.context() as patched:
            patched.setattr(publishing, "_CHUNK", 5)
            patched.setattr(publishing._Vectors, "vectors", ending)
            with pytest.raises(OSError, match=f"^Milvus at {server.address}: ") as raised:
                build_index(index, photos, embedder, **options)
        assert "\n" not in str(raised.value) and len(str(raised.value)) < 300
        assert (index / "manifest.json").read_bytes() == manifest
        assert len(list(index.glob("generation-*"))) == 1
        [(_, unfinished, _)] = json.loads((index / "collections.json").read_text())
        monkeypatch.setattr(milvus_store, "_TIMEOUT", 60.0)
        server.start() if continues is None else server.send(signal.Signals[continues])
        assert gallery.search_text(SENTENCE) == before

        # The next run embeds nothing again and drops the unfinished collection
        with monkeypatch.context() as patched:
            patched.setattr(embedder, "embed_images", lambda *arguments: pytest.fail("embedded again"))
            assert build_index(index, photos, embedder, **options).images == 25
        assert unfinished not in collections(server.address)
        assert len(gallery.search_text(SENTENCE, 100)) == 25


def test_server_that_ends_during_a_search_is_one_error(
    photos: Path, embedder: Embedder, serve_milvus: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, search = serve_milvus(), MilvusStore.search

    def ending(*arguments: Any) -> Any:
        found = search(*arguments)
        server.send(signal.SIGKILL)
        return found

    options: dict[str, Any] = {"store": server.address, "show_progress": False}
    with PersonGallery.build(tmp_path / "index", photos, embedder, **options) as gallery:
        before = gallery.search_text(SENTENCE)
        with monkeypatch.context() as patched:
            patched.setattr(MilvusStore, "search", ending)
            with pytest.raises(OSError, match=f"^no response of Milvus at {server.address}: [^\n]{{1,200}}$"):
                gallery.search_text(SENTENCE)
        server.start()
        assert gallery.search_text(SENTENCE) == before
