"""Lists folders with hidden files, files of other formats, and links."""

import os
from pathlib import Path

import pytest
from PIL import Image

from data_pipeline import check_image, load_person_dataset, open_image
from data_pipeline.benchmarks.image_listing import list_images

from .layouts import write_image, write_json_lines, write_names

HIDDEN = [".ipynb_checkpoints", "@eaDir", ".Trash-1000", "__MACOSX", "$RECYCLE.BIN", "lost+found", ".thumbnails"]


@pytest.mark.parametrize("name", [f"{folder}/x.jpg" for folder in HIDDEN] + ["._a.jpg", "Thumbs.db", ".DS_Store"])
def test_list_images_passes_over_hidden_files(name: str, tmp_path: Path) -> None:
    write_names(tmp_path, ["a.jpg", "sub/b.png"])
    for folder in (tmp_path, tmp_path / "sub"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"no image")
    listing = list_images(tmp_path)
    assert listing.images() == ["a.jpg", "sub/b.png"]
    shown = name.partition("/")[0]
    note = f"passed over 2 hidden or system files and folders ({shown}, sub/{shown})"
    assert listing.notes() == [f"{listing.root}: {note}"]


def test_list_images_counts_other_files_by_suffix(tmp_path: Path) -> None:
    write_names(tmp_path, ["a.jpg"])
    for name in ("film.MP4", "b.mp4", "data", "metadata.csv"):
        (tmp_path / name).touch()
    (note,) = list_images(tmp_path).notes(["metadata.csv"])
    assert note.endswith(": passed over other files: 2 .mp4, 1 without a suffix")


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (["*.png"], ["a.jpg", "old/c.jpg", "x/old/d.jpg"]),
        (["old"], ["a.jpg", "b.png"]),
        (["./old/"], ["a.jpg", "b.png"]),
        (["old/*"], ["a.jpg", "b.png", "x/old/d.jpg"]),
        (["**/old/*"], ["a.jpg", "b.png"]),
        (["x/*/*.jpg", "?.png"], ["a.jpg", "old/c.jpg"]),
    ],
)
def test_list_images_excludes_patterns(patterns: list[str], left: list[str], tmp_path: Path) -> None:
    write_names(tmp_path, ["a.jpg", "b.png", "old/c.jpg", "x/old/d.jpg"])
    listing = list_images(tmp_path, [*patterns, "typo*"])
    assert listing.images() == left
    assert "files and folders by exclude" in listing.notes()[0]
    assert [note for note in listing.notes() if "no file or folder matches" in note] == [listing.notes()[-1]]


def test_load_excludes_rows_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_names(tmp_path / "mine", ["a.jpg", "old/b.jpg"])
    write_json_lines(tmp_path / "mine/metadata.jsonl", [{"file_name": name} for name in ("a.jpg", "old/b.jpg")])
    for exclude, kept in (((), 2), (("old",), 1)):
        splits = load_person_dataset("folder", tmp_path / "mine", exclude=exclude, cache_dir=tmp_path / "cache")
        assert splits.num_rows == {"test": kept}
    assert "1 files and folders by exclude (old)" in caplog.text
    with pytest.raises(ValueError, match="synthetic: the set has no folder of images; drop exclude"):
        load_person_dataset("synthetic", exclude=["x"])


@pytest.mark.parametrize(("suffix", "kind"), [("jp2", None), ("avif", None), ("jfif", "JPEG"), ("heic", None)])
def test_list_images_reads_further_formats(suffix: str, kind: str | None, tmp_path: Path) -> None:
    if suffix == "heic":
        pytest.importorskip("pillow_heif", reason="HEIC needs pillow-heif: pip install -e '.[formats]'")
    Image.new("RGB", (16, 32), "red").save(tmp_path / f"a.{suffix}", kind)
    assert list_images(tmp_path).images() == [f"a.{suffix}"]
    image = open_image(tmp_path / f"a.{suffix}")
    assert image.size == (16, 32) and image.getpixel((8, 8))[0] > 240  # type: ignore[index]


def test_list_images_hints_at_missing_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_names(tmp_path, ["a.jpg"])
    (tmp_path / "b.HEIC").write_bytes(b"heic")
    for module in ("images", "benchmarks.image_listing"):
        monkeypatch.setattr(f"data_pipeline.{module}.readable_suffixes", lambda: (".jpg",))
    assert check_image(tmp_path / "b.HEIC") == ".heic needs a plug-in: pip install -U pillow pillow-heif"
    assert "to read .heic files: pip install -U pillow pillow-heif" in list_images(tmp_path).notes()[1]


def test_list_images_of_a_hub_snapshot(tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshots/abc"
    write_image(tmp_path / "blobs/0.jpg")
    (snapshot / "train").mkdir(parents=True)
    for name in ("train/a.jpg", "b.jpg"):
        (snapshot / name).symlink_to(tmp_path / "blobs/0.jpg")
    error = list_images(snapshot).no_images()
    assert "there are no images in it (.jpg, .png, .webp, ...); 2 links lead out of the folder, such as" in str(error)
    assert "follow them with --follow-links" in str(error)
    assert list_images(snapshot, follow_links=True).images() == ["b.jpg", "train/a.jpg"]
    assert list_images(tmp_path).images() == ["blobs/0.jpg", "snapshots/abc/b.jpg", "snapshots/abc/train/a.jpg"]


def test_list_images_ends_loops_of_links(tmp_path: Path) -> None:
    root = write_names(tmp_path / "root", ["a.jpg"])
    out = write_names(tmp_path / "out", ["b.jpg", "deep/c.jpg"])
    links = {"root/one": out, "root/two": out, "root/up": tmp_path, "root/self": root, "root/knot": root / "knot"}
    for link, target in {**links, "out/back": root, "out/deep/again": out, "out/deep/me": out / "deep"}.items():
        (tmp_path / link).symlink_to(target)
    listing = list_images(root, follow_links=True)
    assert listing.images() == ["a.jpg", "one/b.jpg", "one/deep/c.jpg"]
    assert listing.left_out == {"knot": "a broken link"}
    assert "4 links to folders that are listed already (one/deep/again, one/deep/me, two, …)" in listing.notes()[0]
    assert list_images(root).images() == ["a.jpg"]


def test_list_images_lists_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_names(tmp_path, ["a.jpg", "locked/b.jpg"])
    scandir = os.scandir

    def refuse(folder: Path) -> object:
        if folder.name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    listing = list_images(tmp_path)
    assert listing.images() == ["a.jpg"]
    assert listing.left_out == {"locked": "a folder that cannot be read (Permission denied)"}


def test_list_images_passes_over_pipes(tmp_path: Path) -> None:
    write_names(tmp_path, ["a.jpg"])
    os.mkfifo(tmp_path / "b.jpg")
    assert list_images(tmp_path).images() == ["a.jpg"]
