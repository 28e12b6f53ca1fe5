"""Invalid input of `build_index` is refused in one line, and an existing index stays usable."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from filelock import FileLock
from PIL import Image

from data_pipeline.search import PersonGallery, build_index
from data_pipeline.search.embedder import Embedder
from data_pipeline.synthetic.dataset import synthetic_row

SENTENCE = "a young woman in a red coat and blue jeans"


def refused(kind: type[Exception], message: str, *arguments: Any, **options: Any) -> None:
    """Asserts that indexing fails with one line that contains `message`."""
    with pytest.raises(kind, match=re.escape(message)) as caught:
        build_index(*arguments, show_progress=False, **options)
    assert "\n" not in str(caught.value)


@pytest.fixture
def index(exact: PersonGallery, embedder: Embedder) -> Iterator[Path]:
    """A shared index; its search results must be the same after the test."""
    before = exact.search_text(SENTENCE)
    yield exact.index
    with PersonGallery.open(exact.index, embedder) as gallery:
        assert gallery.search_text(SENTENCE) == before


@pytest.fixture
def index_copy(exact: PersonGallery, tmp_path: Path) -> Path:
    """A copy of the index that a test may damage."""
    return Path(shutil.copytree(exact.index, tmp_path / "index"))


@pytest.mark.parametrize(
    ("files", "kind", "message"),
    [
        (None, FileNotFoundError, "images: there is no such folder"),
        ([], FileNotFoundError, "images: there are no images in it"),
        (["a.jpg", "b.jpg"], ValueError, "none of the 2 images can be read: a.jpg: no image"),
    ],
)
def test_build_index_refuses_folders_without_images(
    index: Path, embedder: Embedder, tmp_path: Path, files: list[str] | None, kind: type[Exception], message: str
) -> None:
    folder = tmp_path / "images"
    for name in [] if files is None else [".", *files]:
        folder.mkdir(exist_ok=True)
        if name != ".":
            (folder / name).write_text("no picture")
    refused(kind, message, index, folder, embedder, allow_removals=True)


def test_index_of_another_model_is_refused(
    index: Path, photos: Path, embedder: Embedder, other_model_folder: Path
) -> None:
    with pytest.raises(ValueError, match="was built by the model") as building:
        build_index(index, photos, other_model_folder, device="cpu", show_progress=False)
    with pytest.raises(ValueError, match="was built by the model") as opening:
        PersonGallery.open(index, other_model_folder, device="cpu")
    for caught in (building, opening):
        assert f"{embedder.name} (weights {embedder.weights}" in str(caught.value)
        assert str(other_model_folder) in str(caught.value)


def test_open_detects_other_weights_in_the_same_folder(
    photos: Path, model_folder: Path, other_model_folder: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(model_folder, tmp_path / "model"))
    PersonGallery.build(tmp_path / "index", photos, model, device="cpu", show_progress=False).close()
    shutil.copy(other_model_folder / "model.safetensors", model)
    with pytest.raises(ValueError, match="was built by the model"):
        PersonGallery.open(tmp_path / "index", device="cpu")


def test_saved_weights_are_readable_as_by_the_umask(model_folder: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    assert (model_folder / "model.safetensors").stat().st_mode & 0o777 == 0o666 & ~mask


def test_open_names_weights_without_permission(
    index: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda file, mode: False)
    with pytest.raises(PermissionError, match=r"model\.safetensors: no permission to read the weights"):
        PersonGallery.open(index, embedder.name, device="cpu")


def test_index_of_another_version_is_refused(index_copy: Path, photos: Path, embedder: Embedder) -> None:
    file = index_copy / "manifest.json"
    manifest = json.loads(file.read_text())
    own = manifest["package_version"]
    file.write_text(json.dumps({**manifest, "package_version": f"{own}.post1"}))
    PersonGallery.open(index_copy, embedder).close()  # a patch release is compatible
    file.write_text(json.dumps({**manifest, "package_version": "99.0.0"}))
    message = f"built by version 99.0.0 (format 1), but this is version {own} (format 1)"
    refused(ValueError, message, index_copy, photos, embedder)
    with pytest.raises(ValueError, match=re.escape(message)):
        PersonGallery.open(index_copy, embedder)


def test_open_refuses_a_missing_index(embedder: Embedder, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere: there is no index .* create one with `bdam index"):
        PersonGallery.open(tmp_path / "nowhere", embedder)


def test_open_refuses_a_damaged_index(index_copy: Path, embedder: Embedder) -> None:
    vectors = next(index_copy.glob("generation-*/vectors.faiss"))
    whole = vectors.read_bytes()
    for damage in (lambda: vectors.write_bytes(whole[:20]), vectors.unlink):
        damage()
        with pytest.raises(ValueError, match=r"the index is damaged .* remove the folder and build") as caught:
            PersonGallery.open(index_copy, embedder)
        assert "\n" not in str(caught.value)
    (index_copy / "manifest.json").write_text('{"package_version": ')
    with pytest.raises(ValueError, match=r"manifest\.json, line 1, column .*: no valid JSON"):
        PersonGallery.open(index_copy, embedder)


def test_build_index_refuses_a_missing_or_foreign_model(photos: Path, tmp_path: Path) -> None:
    refused(FileNotFoundError, "nowhere: no such folder", tmp_path / "index", photos, tmp_path / "nowhere")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    refused(ValueError, "needs the model type bdam, but this is bert", tmp_path / "index", photos, tmp_path / "bert")


def test_build_index_refuses_a_folder_with_other_files(photos: Path, embedder: Embedder) -> None:
    refused(ValueError, "contains other files, such as camera_1; choose a new", photos, photos, embedder)


def test_build_index_refuses_a_locked_index(index: Path, photos: Path, embedder: Embedder) -> None:
    with FileLock(index / ".lock"):
        refused(ValueError, "another run is updating this index", index, photos, embedder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.csv", "file_name,camera\n1\n", "metadata.csv, line 2: the number of cells differs"),
        ("metadata.csv", "file_name,camera\nb.jpg,1\n", "none of the images in it exists, such as b"),
    ],
)
def test_build_index_refuses_invalid_metadata(
    index: Path, embedder: Embedder, tmp_path: Path, name: str, content: str, message: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    Image.new("RGB", (32, 64)).save(folder / "a.jpg")
    (folder / name).write_text(content)
    refused(ValueError, message, index, folder, embedder)


def test_build_index_refuses_exclude_for_a_data_set(index: Path, photos: Path, embedder: Embedder) -> None:
    rows = Dataset.from_dict({"image": [str(photos / "a.jpg")]})
    refused(ValueError, "exclude and follow_links apply to a folder", index, rows, embedder, exclude=["x"])


def test_build_index_refuses_two_metadata_files(index: Path, photos: Path, embedder: Embedder) -> None:
    (photos / "metadata.jsonl").write_text('{"file_name": "a.jpg"}')
    refused(ValueError, "metadata.csv and metadata.jsonl", index, photos, embedder)


def test_build_index_refuses_an_invalid_description(index: Path, photos: Path, embedder: Embedder) -> None:
    file = photos / "descriptions.jsonl"
    file.write_text('{"file_path": "a.jpg"}\n')
    refused(ValueError, "descriptions.jsonl, line 1: no key", index, photos, embedder, descriptions=file)


@pytest.mark.parametrize(
    ("store", "kind", "message"),
    [
        ("milvus.db", ValueError, "store 'milvus.db': give the address of a Milvus cluster"),
        ("http://root:secret@localhost:19530", ValueError, "give the cluster's token in MILVUS_TOKEN"),
        ("http://127.0.0.1:9", ConnectionError, "no response of Milvus at http://127.0.0.1:9"),
    ],
)
def test_build_index_refuses_a_bad_milvus_address(
    index: Path, photos: Path, embedder: Embedder, store: str, kind: type[Exception], message: str
) -> None:
    pytest.importorskip("pymilvus")
    refused(kind, message, index, photos, embedder, store=store)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("only root can mount a small tmpfs")
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # a caught error may keep a file open


@pytest.mark.parametrize("free", [0, 2048, 16384])
def test_build_index_keeps_the_last_generation_on_a_full_disk(
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
    refused(OSError, "the disk is full; free some space and run the command again", index, photos, embedder)
    with PersonGallery.open(index, embedder) as gallery:
        assert gallery.search_text(SENTENCE) == before

    filler.unlink()
    assert build_index(index, photos, embedder, show_progress=False).images == 36
    assert not list(index.glob("partial-*"))
