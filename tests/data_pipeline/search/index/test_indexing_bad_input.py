"""What cannot be indexed or opened is told in one line, and an index that was there still works."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from PIL import Image

from data_pipeline.search import PersonGallery, build_index
from data_pipeline.search.embedder import Embedder
from data_pipeline.synthetic.dataset import synthetic_row

SENTENCE = "a young woman in a red coat and blue jeans"


def refused(kind: type[Exception], message: str, *arguments: Any, **options: Any) -> None:
    """Indexing ends with one line that holds `message`."""
    with pytest.raises(kind, match=re.escape(message)) as caught:
        build_index(*arguments, show_progress=False, **options)
    assert "\n" not in str(caught.value)


@pytest.fixture
def index(photos: Path, embedder: Embedder, tmp_path: Path) -> Iterator[Path]:
    """An index of the photos; after the test it finds what it found before."""
    folder = tmp_path / "index"
    with PersonGallery.build(folder, photos, embedder, show_progress=False) as gallery:
        before = gallery.search_text(SENTENCE)
    yield folder
    with PersonGallery.open(folder, embedder) as gallery:
        assert gallery.search_text(SENTENCE) == before


def test_an_empty_folder_is_refused(index: Path, embedder: Embedder, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(FileNotFoundError, "empty: there are no images in it", index, tmp_path / "empty", embedder)


def test_a_missing_folder_is_refused(index: Path, embedder: Embedder, tmp_path: Path) -> None:
    refused(FileNotFoundError, "nowhere: there is no such folder", index, tmp_path / "nowhere", embedder)


def test_a_folder_of_unreadable_images_is_refused(index: Path, embedder: Embedder, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (broken / name).write_text("no picture")
    refused(ValueError, "none of the 2 images can be read: a.jpg: no image", index, broken, embedder)


def test_another_model_is_refused_by_both_names(
    index: Path, photos: Path, embedder: Embedder, other_model_folder: Path
) -> None:
    with pytest.raises(ValueError, match="was built by the model") as caught:
        build_index(index, photos, other_model_folder, device="cpu", show_progress=False)
    assert str(embedder.name) in str(caught.value)
    assert str(other_model_folder) in str(caught.value)
    with pytest.raises(ValueError, match="was built by the model") as caught:
        PersonGallery.open(index, other_model_folder, device="cpu")
    assert f"{embedder.name} (weights {embedder.weights}" in str(caught.value)
    assert str(other_model_folder) in str(caught.value)


def test_other_weights_in_the_same_folder_are_noticed(
    photos: Path, model_folder: Path, other_model_folder: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in model_folder.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    PersonGallery.build(tmp_path / "index", photos, model, device="cpu", show_progress=False).close()
    (model / "model.safetensors").write_bytes((other_model_folder / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="was built by the model"):
        PersonGallery.open(tmp_path / "index", device="cpu")


def test_another_version_is_refused_by_both_names(photos: Path, embedder: Embedder, tmp_path: Path) -> None:
    index = tmp_path / "index"
    build_index(index, photos, embedder, show_progress=False)
    manifest = json.loads((index / "manifest.json").read_text())
    own = manifest["package_version"]
    (index / "manifest.json").write_text(json.dumps({**manifest, "package_version": f"{own}.post1"}))
    PersonGallery.open(index, embedder).close()  # a patch release
    (index / "manifest.json").write_text(json.dumps({**manifest, "package_version": "99.0.0"}))
    message = f"built by version 99.0.0 (format 1), and this is version {own} (format 1)"
    refused(ValueError, message, index, photos, embedder)
    with pytest.raises(ValueError, match=re.escape(message)):
        PersonGallery.open(index, embedder)


def test_a_missing_index_is_told(embedder: Embedder, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere: no index is here .* make one with `bdam index"):
        PersonGallery.open(tmp_path / "nowhere", embedder)


def test_a_damaged_index_is_told(photos: Path, embedder: Embedder, tmp_path: Path) -> None:
    index = tmp_path / "index"
    build_index(index, photos, embedder, show_progress=False)
    vectors = next(index.glob("generation-*/vectors.faiss"))
    whole = vectors.read_bytes()
    for damage in (lambda: vectors.write_bytes(whole[:20]), vectors.unlink):
        damage()
        with pytest.raises(ValueError, match=r"the index is damaged .* remove the folder and build it again") as caught:
            PersonGallery.open(index, embedder)
        assert "\n" not in str(caught.value)
    (index / "manifest.json").write_text('{"package_version": ')
    with pytest.raises(ValueError, match=r"manifest\.json, line 1, column .*: no valid JSON"):
        PersonGallery.open(index, embedder)


def test_a_missing_model_is_told(photos: Path, tmp_path: Path) -> None:
    refused(FileNotFoundError, "nowhere: no such folder", tmp_path / "index", photos, tmp_path / "nowhere")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    refused(ValueError, "needs a model of type bdam, and this is bert", tmp_path / "index", photos, tmp_path / "bert")


def test_a_folder_of_other_things_does_not_become_an_index(photos: Path, embedder: Embedder) -> None:
    refused(ValueError, "holds other things than an index, such as camera_1; choose a new", photos, photos, embedder)


def test_two_runs_at_once_are_refused(index: Path, photos: Path, embedder: Embedder) -> None:
    with FileLock(index / ".lock"):
        refused(ValueError, "another run is at work on this index", index, photos, embedder)


METADATA = {
    "metadata.csv without names": ("metadata.csv", "camera\n1\n", "no column file_name names the images"),
    "metadata.csv with a short row": ("metadata.csv", "file_name,camera\n1\n", "metadata.csv: it cannot be read"),
    "metadata.csv that is empty": ("metadata.csv", "", "metadata.csv: it cannot be read"),
    "metadata.jsonl that is none": ("metadata.jsonl", "no json", "metadata.jsonl: it cannot be read"),
    "metadata.parquet that is none": ("metadata.parquet", "no table", "metadata.parquet: it cannot be read"),
    "an image twice": ("metadata.csv", "file_name,camera\na.jpg,1\na.jpg,2\n", "the image a.jpg has two rows"),
    "only strangers": (
        "metadata.csv",
        "file_name,camera\nb.jpg,1\n",
        "none of the images it names is there, such as b",
    ),
    "a column of the index": ("metadata.csv", "file_name,path\na.jpg,1\n", "uses the column 'path' itself"),
}


@pytest.mark.parametrize(("name", "content", "message"), METADATA.values(), ids=METADATA)
def test_metadata_that_cannot_be_used_is_refused(
    index: Path, embedder: Embedder, tmp_path: Path, name: str, content: str, message: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    Image.new("RGB", (32, 64)).save(folder / "a.jpg")
    (folder / name).write_text(content)
    refused(ValueError, message, index, folder, embedder)


def test_two_metadata_files_are_refused(index: Path, photos: Path, embedder: Embedder) -> None:
    (photos / "metadata.jsonl").write_text('{"file_name": "a.jpg"}')
    refused(ValueError, "which metadata counts, metadata.csv or metadata.jsonl?", index, photos, embedder)


def test_a_broken_line_of_descriptions_is_refused(index: Path, photos: Path, embedder: Embedder) -> None:
    file = photos / "descriptions.jsonl"
    file.write_text('{"file_path": "a.jpg"}\n')
    refused(ValueError, "descriptions.jsonl, line 1: no key", index, photos, embedder, descriptions=file)


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ("milvus.db", "store 'milvus.db': give the address of a Milvus cluster"),
        ("http://root:secret@localhost:19530", "give the cluster's token in MILVUS_TOKEN"),
    ],
)
def test_a_store_that_is_no_address_is_refused(
    index: Path, photos: Path, embedder: Embedder, store: str, message: str
) -> None:
    pytest.importorskip("pymilvus")
    refused(ValueError, message, index, photos, embedder, store=store)


def test_a_cluster_that_does_not_answer_is_told(index: Path, photos: Path, embedder: Embedder) -> None:
    pytest.importorskip("pymilvus")
    message = "no Milvus answers at http://127.0.0.1:9"
    refused(ConnectionError, message, index, photos, embedder, store="http://127.0.0.1:9")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, 1 MiB large."""
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("only root can mount a small tmpfs")
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # an error that was caught may hold a file


@pytest.mark.parametrize("free", [0, 2048, 16384])
def test_a_full_disk_is_told_and_the_old_index_works_and_is_brought_up_to_date_later(
    small_disk: Path, photos: Path, embedder: Embedder, free: int
) -> None:
    index, filler = small_disk / "index", small_disk / "filler"
    with PersonGallery.build(index, photos, embedder, show_progress=False) as gallery:
        before = gallery.search_text(SENTENCE)
    for person in range(40, 52):
        (photos / f"{person}.png").write_bytes(synthetic_row(0, person, 0, 0)["image"]["bytes"])
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(1024))
    os.truncate(filler, max(0, filler.stat().st_size - free))
    with pytest.raises(OSError, match="the disk is full; free some space and run the same again") as caught:
        build_index(index, photos, embedder, show_progress=False)
    assert "\n" not in str(caught.value)
    with PersonGallery.open(index, embedder) as gallery:
        assert gallery.search_text(SENTENCE) == before

    filler.unlink()
    assert build_index(index, photos, embedder, show_progress=False).images == 36
    assert not list(index.glob("partial-*"))
