"""Runs that would lose images, planned runs, and a second folder in one index."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline.search import PersonGallery, build_index
from data_pipeline.search.embedder import Embedder
from data_pipeline.synthetic.dataset import synthetic_row

SENTENCE = "a young woman in a red coat and blue jeans"


@pytest.fixture
def index(photos: Path, embedder: Embedder, tmp_path: Path) -> Path:
    build_index(tmp_path / "index", photos, embedder, show_progress=False)
    return tmp_path / "index"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another folder of 30 people, with the camera in its metadata."""
    folder = tmp_path / "other"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}.png").write_bytes(synthetic_row(1, number, 0, 0)["image"]["bytes"])
    (folder / "metadata.csv").write_text("\n".join(["file_name,camera", *(f"{n}.png,{n}" for n in range(30))]))
    return folder


def names(index: Path, embedder: Embedder) -> set[str]:
    with PersonGallery.open(index, embedder) as gallery:
        return {hit.path.name for hit in gallery.search_text(SENTENCE, 100)}


def half_mounted(photos: Path, other: Path) -> Path:
    shutil.rmtree(photos / "camera_1")
    shutil.rmtree(photos / "camera_2")
    return photos


def unreadable(photos: Path, other: Path) -> Path:
    for file in sorted(photos.rglob("*.jpg"))[:8]:
        file.write_bytes(b"")
    return photos


def another_folder(photos: Path, other: Path) -> Path:
    return other


def another_folder_with_most(photos: Path, other: Path) -> Path:
    shutil.copytree(photos, other / "copied")
    next((other / "copied").rglob("*.jpg")).unlink()
    return other


@pytest.mark.parametrize("change", [half_mounted, unreadable, another_folder, another_folder_with_most])
def test_build_index_refuses_to_lose_images(
    change: Callable[[Path, Path], Path], index: Path, photos: Path, other: Path, embedder: Embedder
) -> None:
    before = names(index, embedder)
    images = change(photos, other)
    with pytest.raises(ValueError, match=r"this run would remove \d+ of 24 images .* --allow-removals") as caught:
        build_index(index, images, embedder, show_progress=False)
    assert "\n" not in str(caught.value)
    assert names(index, embedder) == before
    build_index(index, images, embedder, show_progress=False, allow_removals=True)
    assert names(index, embedder) != before


def test_build_index_removes_a_few_images(index: Path, photos: Path, embedder: Embedder) -> None:
    for file in sorted(photos.rglob("*.jpg"))[:4]:
        file.unlink()
    assert build_index(index, photos, embedder, show_progress=False).removed == 4


def test_build_index_replaces_the_contents_of_all_files(index: Path, photos: Path, embedder: Embedder) -> None:
    for number, file in enumerate(sorted(photos.rglob("*.jpg"))):
        file.write_bytes(synthetic_row(2, number, 0, 0)["image"]["bytes"])
    assert build_index(index, photos, embedder, show_progress=False).embedded == 24


def test_dry_run_reports_and_writes_nothing(
    index: Path, photos: Path, other: Path, embedder: Embedder, tmp_path: Path
) -> None:
    files = {path: path.read_bytes() for path in index.rglob("*") if path.is_file()}
    plan = build_index(index, other, embedder, dry_run=True)
    assert plan.is_planned and (plan.images, plan.embedded, plan.removed) == (30, 30, 24)
    assert len(plan.lost) == 24 and "this run would remove 24 of 24 images" in plan.notes[-1]
    (photos / "new.png").write_bytes((other / "1.png").read_bytes())
    plan = build_index(index, photos, embedder, dry_run=True)
    assert (plan.images, plan.embedded, plan.removed, plan.lost) == (25, 1, 0, [])
    assert {path: path.read_bytes() for path in index.rglob("*") if path.is_file()} == files
    build_index(tmp_path / "none", photos, embedder, dry_run=True)
    assert not (tmp_path / "none").exists()


def test_add_puts_a_second_folder_into_the_index(index: Path, photos: Path, other: Path, embedder: Embedder) -> None:
    first, second = ({path.name for path in folder.rglob("*.[jp][pn]g")} for folder in (photos, other))
    report = build_index(index, other, embedder, show_progress=False, add=True)
    assert (report.images, report.embedded, report.removed) == (54, 30, 0)
    assert names(index, embedder) == first | second
    with PersonGallery.open(index, embedder) as gallery:
        assert {hit.path.parent for hit in gallery.search_text(SENTENCE, 100, where="camera >= 9")} == {other}

    # An update of one folder keeps the other
    (other / "0.png").unlink()
    next(photos.rglob("*.jpg")).unlink()
    for folder in (other, photos):
        assert build_index(index, folder, embedder, show_progress=False, add=True).removed == 1
    assert len(names(index, embedder)) == 52

    # An update without `add` would lose the other
    with pytest.raises(ValueError, match="this run would remove 29 of 52 images"):
        build_index(index, photos, embedder, show_progress=False)


def test_add_refuses_columns_of_other_types(index: Path, other: Path, embedder: Embedder) -> None:
    (other / "metadata.csv").write_text("file_name,camera\n1.png,lobby\n")
    with pytest.raises(ValueError, match=r"does not fit the index's columns: .*camera") as caught:
        build_index(index, other, embedder, show_progress=False, add=True)
    assert "\n" not in str(caught.value)
