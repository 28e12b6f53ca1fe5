"""Building and updating an index: incremental, resumable, distributed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from PIL import Image

from data_pipeline.images import open_image
from data_pipeline.schema import PERSON_FEATURES
from data_pipeline.search import PersonGallery, build_index
from data_pipeline.search.embedder import Embedder
from data_pipeline.search.index import indexing
from data_pipeline.search.stores import faiss_store
from data_pipeline.synthetic.dataset import synthetic_row

ROOT = Path(__file__).parents[4]
SENTENCE = "a young woman in a red coat and blue jeans"


def build(index: Path, images: Any, model: Any, **options: Any) -> indexing.IndexReport:
    return build_index(index, images, model, show_progress=False, **options)


def contents(index: Path) -> dict[str, bytes]:
    """Returns all files of an index but its lock file, the traced graph (counters) and the tokenizer (last padding)."""
    return {
        path.relative_to(index).as_posix(): path.read_bytes()
        for path in sorted(index.rglob("*"))
        if path.is_file() and path.name not in (".lock", "graph.pt", "tokenizer.json")
    }


def vectors_by_name(index: Path, embedder: Embedder) -> dict[str, np.ndarray]:
    with PersonGallery.open(index, embedder) as gallery:
        names = [hit.name for hit in sorted(gallery.search_row(0, top_k=10**6), key=lambda hit: hit.row)]
        return {name: gallery.vector(row) for row, name in enumerate(names)}


def test_build_index_stores_the_vectors_of_the_model(photos: Path, embedder: Embedder, tmp_path: Path) -> None:
    build(tmp_path / "index", photos, embedder)
    for name, vector in vectors_by_name(tmp_path / "index", embedder).items():
        pixels = embedder.processor(images=open_image(photos / name), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            expected = embedder.model.get_image_features(pixel_values=pixels).pooler_output[0].numpy()
        # Halves have unit length in any precision; bfloat16 changes their direction a little
        np.testing.assert_allclose(np.linalg.norm(vector.reshape(2, -1), axis=1), 1, atol=1e-6)
        assert vector @ expected > 2 * (0.999 if embedder.in_bfloat16 else 0.999999)


def test_build_index_embeds_only_changed_images(photos: Path, embedder: Embedder, tmp_path: Path) -> None:
    index = tmp_path / "index"
    assert build(index, photos, embedder).embedded == 24
    unchanged = contents(index)
    again = build(index, photos, embedder)
    assert (again.images, again.embedded, again.removed) == (24, 0, 0)
    assert contents(index) == unchanged

    files = sorted(photos.rglob("*.jpg"))
    before = vectors_by_name(index, embedder)
    files[0].unlink()
    files[1].write_bytes(synthetic_row(0, 6, 0, 0, image_size=(64, 32))["image"]["bytes"])
    (photos / "new.png").write_bytes(synthetic_row(0, 7, 0, 0)["image"]["bytes"])
    report = build(index, photos, embedder)
    assert (report.images, report.embedded, report.removed) == (24, 2, 2)

    after = vectors_by_name(index, embedder)
    changed = files[1].relative_to(photos).as_posix()
    assert after.keys() == before.keys() - {files[0].relative_to(photos).as_posix()} | {"new.png"}
    assert all(np.array_equal(after[name], before[name]) for name in before.keys() & after.keys() - {changed})
    build(tmp_path / "fresh", photos, embedder)
    for name, vector in vectors_by_name(tmp_path / "fresh", embedder).items():
        np.testing.assert_allclose(after[name], vector, atol=2e-2 if embedder.in_bfloat16 else 1e-5)


def test_build_index_reuses_vectors_for_new_metadata_and_root(photos: Path, embedder: Embedder, tmp_path: Path) -> None:
    index = tmp_path / "index"
    build(index, photos, embedder)
    file = photos / "metadata.csv"
    file.write_text(file.read_text().replace(",2026-05-", ",2027-05-"))
    assert build(index, photos, embedder).embedded == 0
    with PersonGallery.open(index, embedder) as gallery:
        assert len(gallery.search_text(SENTENCE, 100, where="time > '2027-01-01'")) == 24
    moved = photos.rename(tmp_path / "moved")
    assert build(index, moved, embedder).embedded == 0
    with PersonGallery.open(index, embedder) as gallery:
        assert gallery.path(0).is_relative_to(moved)


@pytest.mark.parametrize("change", ["copied", "copied over", "below another folder", "renamed"])
def test_build_index_reuses_vectors_of_equal_contents(
    change: str, photos: Path, embedder: Embedder, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    build(index, photos, embedder)
    before = vectors_by_name(index, embedder)
    now = photos
    if change == "copied":
        now = Path(shutil.copytree(photos, tmp_path / "copy", copy_function=shutil.copy))
    elif change == "copied over":
        for file in photos.rglob("*.jpg"):
            os.utime(file, (1, 1))
    elif change == "below another folder":
        now = tmp_path / "new"
        shutil.copytree(photos, now / "deep", copy_function=shutil.copy)
    else:
        photos = photos.rename(tmp_path / "other")
        now = photos
        (photos / "metadata.csv").unlink()
        for folder in photos.glob("camera_*"):
            folder.rename(photos / f"gate_{folder.name}")
    first = sorted(now.rglob("*.jpg"))[0]
    changed = bytearray(first.read_bytes())
    changed[-3] ^= 1  # of the same size
    first.write_bytes(changed)
    report = build(index, now, embedder, allow_removals=True)
    assert (report.images, report.embedded, report.removed) == (24, 1, 1)
    after = {
        name.removeprefix("deep/").removeprefix("gate_"): v for name, v in vectors_by_name(index, embedder).items()
    }
    assert sum(np.array_equal(after[name], vector) for name, vector in before.items()) >= 23
    assert build(index, now, embedder).embedded == 0


def test_build_index_moved_from_a_folder(photos: Path, embedder: Embedder, tmp_path: Path) -> None:
    index = tmp_path / "index"
    build(index, tmp_path, embedder, exclude=["index"])  # paths begin with photos/
    table = next(index.glob("generation-*/metadata.parquet"))
    pq.write_table(pq.read_table(table).drop_columns(["_content"]), table)  # as earlier versions wrote it
    new = Path(shutil.copytree(photos, tmp_path / "new", copy_function=shutil.copy))
    shutil.rmtree(photos)
    with pytest.raises(ValueError, match=r"moved_from .*nowhere: no image of the index was in it; the images of .* in"):
        build(index, new, embedder, moved_from=tmp_path / "nowhere")
    before = vectors_by_name(index, embedder)
    report = build(index, new, embedder, moved_from=photos)
    assert (report.images, report.embedded, report.removed) == (24, 0, 0)
    after = vectors_by_name(index, embedder)
    assert all(np.array_equal(before[f"photos/{name}"], vector) for name, vector in after.items())
    with PersonGallery.open(index, embedder) as gallery:
        assert gallery.path(0).is_relative_to(new)
        assert "_content" not in gallery.columns


def stop_after(shards: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupts later runs, as by Ctrl-C, after some shards."""
    write = indexing.Shards.write
    left = [shards]

    def write_or_stop(self: indexing.Shards, *arguments: Any) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        write(self, *arguments)

    monkeypatch.setattr(indexing.Shards, "write", write_or_stop)


def count_embedded(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Returns a list to which each later forward pass appends its number of images."""
    counts: list[int] = []
    embed_images = embedder._embed_images

    def count(pixels: Any, descriptions: Any) -> Any:
        counts.append(len(pixels))
        return embed_images(pixels, descriptions)

    monkeypatch.setattr(embedder, "_embed_images", count)
    return counts


@pytest.mark.parametrize("with_tokens", [False, True])
def test_interrupted_run_resumes_to_a_bitwise_equal_index(
    with_tokens: bool, photos: Path, matching: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "SHARD_SIZE", 5)
    options: dict[str, Any] = {"batch_size": 2, "with_tokens": with_tokens}
    build(tmp_path / "unbroken", photos, matching, **options)
    for shards in (1, 2):
        with monkeypatch.context() as patched:
            stop_after(shards, patched)
            with pytest.raises(KeyboardInterrupt):
                build(tmp_path / "stopped", photos, matching, **options)
    counts = count_embedded(matching, monkeypatch)
    build(tmp_path / "stopped", photos, matching, **options)
    assert sum(counts) == 24 - 3 * 5
    assert contents(tmp_path / "stopped") == contents(tmp_path / "unbroken")
    assert any(name.endswith("tokens.npy") for name in contents(tmp_path / "stopped")) == with_tokens


def test_interrupted_run_resumes_with_changed_images(
    photos: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "SHARD_SIZE", 5)
    with monkeypatch.context() as patched:
        stop_after(2, patched)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path / "index", photos, embedder)
    (photos / "a_new_first.png").write_bytes(synthetic_row(0, 7, 0, 0)["image"]["bytes"])
    sorted(photos.rglob("*.jpg"))[0].unlink()
    counts = count_embedded(embedder, monkeypatch)
    report = build(tmp_path / "index", photos, embedder)
    assert report.images == 24
    assert sum(counts) == 24 - 9  # nine of the ten embedded before are still there
    build(tmp_path / "fresh", photos, embedder)
    fresh = vectors_by_name(tmp_path / "fresh", embedder)
    for name, vector in vectors_by_name(tmp_path / "index", embedder).items():
        np.testing.assert_allclose(vector, fresh[name], atol=2e-2 if embedder.in_bfloat16 else 1e-5)


PROGRAM = """
import sys
from accelerate import PartialState
from data_pipeline.search import build_index
from data_pipeline.search.index import indexing
indexing.SHARD_SIZE = 5
index, images, model, *tokens = sys.argv[1:]
options = {"batch_size": 2, "workers": 1, "show_progress": False, "with_tokens": bool(tokens)}
report = build_index(index, images, model, device="cpu", **options)
print(f"{PartialState().num_processes} processes, {report.images} images, {report.token_bytes} bytes")
"""


def start(launcher: list[str], tmp_path: Path, *arguments: object) -> subprocess.Popen:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*launcher, str(program), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


@pytest.mark.slow
def test_killed_run_resumes_to_a_bitwise_equal_index(photos: Path, model_folder: Path, tmp_path: Path) -> None:
    for number in range(40):  # copies, so that the run is long enough to be killed
        shutil.copytree(photos / "camera_1", photos / f"copy_{number:02d}", copy_function=shutil.copy2)
    index = tmp_path / "killed"
    run = start([sys.executable], tmp_path, index, photos, model_folder)
    while len(list(index.glob("partial-*/shard-*"))) < 3:
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.001)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert not (index / "manifest.json").exists()
    for target in (index, tmp_path / "unbroken"):
        run = start([sys.executable], tmp_path, target, photos, model_folder)
        assert run.wait() == 0, run.communicate()[1]
    assert contents(index) == contents(tmp_path / "unbroken")


@pytest.mark.slow
def test_two_processes_build_an_equal_index(photos: Path, matching_folder: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    runs = [
        start([sys.executable], tmp_path, tmp_path / "one", photos, matching_folder, "tokens"),
        start(torchrun, tmp_path, tmp_path / "two", photos, matching_folder, "tokens"),
    ]
    printed = [run.communicate() for run in runs]
    assert [run.returncode for run in runs] == [0, 0], printed
    assert printed[0][0].splitlines() == ["1 processes, 24 images, 15360 bytes"]
    assert printed[1][0].splitlines() == ["2 processes, 24 images, 15360 bytes"] * 2
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_build_index_reads_json_lines_and_parquet(
    photos: Path, exact: PersonGallery, embedder: Embedder, tmp_path: Path
) -> None:
    rows = Dataset.from_csv(str(photos / "metadata.csv"), cache_dir=str(tmp_path / "cache"))
    (photos / "metadata.csv").unlink()
    for suffix, write in (("jsonl", rows.to_json), ("parquet", rows.to_parquet)):
        file = photos / f"metadata.{suffix}"
        write(str(file))
        build(tmp_path / suffix, photos, embedder)
        file.unlink()
        with PersonGallery.open(tmp_path / suffix, embedder) as gallery:
            for where in ("camera > 3", "person_id == 2 and time > '2026-05-14'"):
                hits, expected = (each.search_text(SENTENCE, 100, where=where) for each in (gallery, exact))
                assert [hit.name for hit in hits] == [hit.name for hit in expected]
                assert 0 < len(hits) < 24


def test_build_index_notes_incomplete_metadata(photos: Path, embedder: Embedder, tmp_path: Path) -> None:
    file = photos / "metadata.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:-2], "camera_9/gone.jpg,8,9,2026-05-01"]))
    notes = build(tmp_path / "index", photos, embedder).notes
    assert len(notes) == 2
    assert "1 of the images in it do not exist: camera_9/gone.jpg" in notes[0]
    assert "2 of 24 images have no row in it" in notes[1]
    notes = build(tmp_path / "other", photos, embedder, exclude=["camera_1", "camera_9"]).notes
    assert not any("do not exist" in note for note in notes)
    with PersonGallery.open(tmp_path / "index", embedder) as gallery:
        assert len(gallery.search_text(SENTENCE, 100, where="person_id is null")) == 2


def test_build_index_fuses_descriptions(
    photos: Path, embedder: Embedder, tmp_path: Path, write_descriptions: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedder, "in_bfloat16", False)
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.jpg"))
    texts = {name: f"a tall {word} man" for name, word in zip(names[::3], ["slim", "heavy"] * 4, strict=True)}
    index = tmp_path / "index"
    build(index, photos, embedder, descriptions=write_descriptions(texts))
    for name, vector in vectors_by_name(index, embedder).items():
        inputs = embedder.processor(images=open_image(photos / name), return_tensors="pt")
        if name in texts:
            tokens = embedder.processor(text=texts[name], return_tensors="pt")
            inputs |= {f"identity_{key}": value.reshape(1, -1) for key, value in tokens.items()}
        with torch.no_grad():
            expected = embedder.model.get_image_features(**inputs).pooler_output[0].numpy()
        np.testing.assert_allclose(vector, expected, atol=1e-5)

    texts[names[0]] = "an old short woman"
    assert build(index, photos, embedder, descriptions=write_descriptions(texts)).embedded == 1
    assert build(index, photos, embedder).embedded == len(texts)


def dataset_of(files: list[Path] | None) -> Dataset:
    """Returns six rows of the common schema, with images as bytes or as files."""
    rows = [synthetic_row(0, person, 0, shot, image_size=(64, 32)) for person in range(3) for shot in range(2)]
    for row, file in zip(rows, files or [], strict=False):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(row["image"]["bytes"])
        row["image"] = {"bytes": None, "path": str(file)}
    dataset = Dataset.from_list(rows, features=PERSON_FEATURES)
    if files is not None:
        dataset = dataset.add_column("file_path", [str(file).split("/imgs/")[1] for file in files])
    return dataset


def test_build_index_exports_dataset_images_without_files(embedder: Embedder, tmp_path: Path) -> None:
    index, rows = tmp_path / "index", dataset_of(None)
    assert build(index, rows, embedder).images == 6
    index = index.rename(tmp_path / "moved")  # with its images
    with PersonGallery.open(index, embedder) as gallery:
        for row, image in enumerate(rows["image"]):
            assert np.array_equal(np.asarray(gallery.image(row)), np.asarray(image.convert("RGB")))
        hit = gallery.search_row(5, top_k=1)[0]
        assert (hit.metadata["person_id"], hit.metadata["captions"]) == (2, rows[5]["captions"])
    report = build(index, rows.select([1, 4]), embedder, allow_removals=True)
    assert (report.images, report.embedded, report.removed) == (2, 0, 4)  # the row numbers of 1 and 4 changed
    assert len(list((index / "exported-images").iterdir())) == 2


def test_build_index_refers_to_dataset_image_files(embedder: Embedder, tmp_path: Path) -> None:
    files = [tmp_path / "set" / "imgs" / f"cam_{number % 2}" / f"{number}.png" for number in range(6)]
    rows = dataset_of(files)
    build(tmp_path / "index", rows, embedder)
    with PersonGallery.open(tmp_path / "index", embedder) as gallery:
        assert {gallery.path(row) for row in range(6)} == set(files)
        assert gallery.search_row(0, top_k=1, where="path == 'cam_0/0.png'")[0].path == files[0]
        assert not (tmp_path / "index" / "exported-images").exists()


def test_build_index_lists_missing_images_of_a_dataset(embedder: Embedder, tmp_path: Path) -> None:
    files = [tmp_path / "set" / "imgs" / f"{number}.png" for number in range(6)]
    rows = dataset_of(files)
    files[2].unlink()
    report = build(tmp_path / "index", rows, embedder)
    assert (report.images, report.unreadable) == (5, [("2.png", "there is no such file")])
    with PersonGallery.open(tmp_path / "index", embedder) as gallery:
        assert [hit.metadata["person_id"] for hit in gallery.search_row(4, where="path == '5.png'")] == [2]
    shutil.rmtree(tmp_path / "set")
    with pytest.raises(FileNotFoundError, match=r"0\.png in .*: there is no such file, as of all 6 images"):
        build(tmp_path / "index", rows, embedder)


def test_build_index_fuses_descriptions_of_a_dataset(embedder: Embedder, tmp_path: Path) -> None:
    rows = dataset_of(None)
    build(tmp_path / "plain", rows, embedder)
    build(tmp_path / "fused", rows, embedder, fuse_descriptions=True)
    plain, fused = (vectors_by_name(tmp_path / name, embedder) for name in ("plain", "fused"))
    for name in plain:
        assert plain[name][:16] @ fused[name][:16] < 0.999  # the identity half differs
        np.testing.assert_allclose(plain[name][16:], fused[name][16:], atol=2e-2)


def test_build_index_reports_unreadable_images(photos: Path, embedder: Embedder, tmp_path: Path) -> None:
    (photos / "empty.jpg").touch()
    (photos / "text.png").write_text("no picture")
    whole = sorted(photos.rglob("*.jpg"))[0].read_bytes()
    (photos / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "outside.jpg").write_bytes(whole)
    (photos / "link.jpg").symlink_to(tmp_path / "outside.jpg")
    index = tmp_path / "index"
    Image.effect_noise((64, 36), 60).save(photos / "frame.png")
    report = build(index, photos, embedder)
    assert (report.images, report.shapes) == (25, {"frames (wider than high)": 1})
    assert [path for path, _ in report.unreadable] == ["empty.jpg", "half.jpg", "link.jpg", "text.png"]
    assert dict(report.unreadable)["empty.jpg"] == "zero bytes"
    assert "leads out of the folder" in dict(report.unreadable)["link.jpg"]
    assert "1 links lead out of the folder, such as link.jpg; follow them with --follow-links" in report.notes[0]
    stored = json.loads(next(index.glob("generation-*/unreadable.json")).read_text())
    assert [tuple(entry) for entry in stored] == report.unreadable


@pytest.mark.parametrize(("recall", "is_noted"), [(0.58, True), (0.97, False)])
def test_build_index_notes_a_low_recall(
    recall: float, is_noted: bool, photos: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss_store, "_sampled_recall", lambda *arguments: recall)
    notes = build(tmp_path / "index", photos, embedder, index_type="hnsw").notes
    message = "the hnsw index finds 58% of the exact first 20 hits of sampled queries: searches may miss images"
    assert any(message in note for note in notes) == is_noted


def test_build_index_notes_times_with_an_offset_and_keeps_the_zone(
    photos: Path, embedder: Embedder, tmp_path: Path
) -> None:
    file = photos / "metadata.csv"
    file.write_text(file.read_text().replace("T10:00:00", "T00:30:00+02:00"))
    where = "time >= '2026-05-06' and time < '2026-05-07'"
    for options, zone in (({}, "UTC"), ({"time_zone": "Europe/Berlin"}, "Europe/Berlin"), ({}, "Europe/Berlin")):
        report = build(tmp_path / "index", photos, embedder, **options)
        assert f"times with an offset, in time, are shown and compared in the zone {zone}" in report.notes[-1]
        with PersonGallery.open(tmp_path / "index", embedder) as gallery:
            assert gallery.has_zones and gallery.time_zone == zone
            [hit] = gallery.search_text(SENTENCE, 100, where=where)
            assert (
                hit.metadata["time"].isoformat()
                == {"UTC": "2026-05-06T22:30:00+00:00", "Europe/Berlin": "2026-05-06T00:30:00+02:00"}[zone]
            )
    with pytest.raises(ValueError, match="there is no time zone 'Mars'"):
        build(tmp_path / "index", photos, embedder, time_zone="Mars")


def test_build_index_keeps_why_a_column_is_text(photos: Path, embedder: Embedder, tmp_path: Path) -> None:
    file = photos / "metadata.csv"
    file.write_text(file.read_text().replace("2026-05-05T10:00:00", "May 5 2026"))
    reason = "is text: 23 of 24 values are dates of one form; line 5 'May 5 2026' is not"
    assert any(reason in note for note in build(tmp_path / "index", photos, embedder).notes)
    with (
        PersonGallery.open(tmp_path / "index", embedder) as gallery,
        pytest.raises(ValueError, match=re.escape(reason)),
    ):
        gallery.search_text(SENTENCE, where="time > '2026-05-06'")
