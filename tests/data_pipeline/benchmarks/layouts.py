"""Writes small sets in the exact layouts of the benchmarks, with the irregularities of the real files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Entry = dict[str, Any]
CUHK_PARTS = ("cam_a", "cam_b", "CUHK01", "CUHK03", "Market", "test_query", "train_query")


def write_image(file: Path, seed: int = 0, size: tuple[int, int] = (16, 32)) -> None:
    """Writes a small image; the same seed gives the same bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    colors = np.random.default_rng(seed).integers(0, 256, (4, 2, 3), dtype=np.uint8)
    Image.fromarray(colors).resize(size, Image.Resampling.NEAREST).save(file)


def write_json(file: Path, value: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return file


def write_json_lines(file: Path, lines: Sequence[Any]) -> Path:
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return file


def write_annotated(folder: Path, annotation: str, entries: Sequence[Entry], image_folder: str = "imgs") -> Path:
    """Writes an annotation file and its images."""
    for number, entry in enumerate(entries):
        write_image(folder / image_folder / (entry["file_path"] if "file_path" in entry else entry["img_path"]), number)
    write_json(folder / annotation, list(entries))
    return folder


def cuhk_entries(
    people: Mapping[str, Sequence[int]] | None = None, images_each: int = 2, parts: Sequence[str] = CUHK_PARTS
) -> list[Entry]:
    """Entries of `reid_raw.json`: a person with one image, an image with three captions, numbers with gaps."""
    if people is None:
        people = {"train": [1, 2, 5, 9, 10, 4000], "val": [13, 14], "test": [77, 13003]}
    entries: list[Entry] = []
    for split, numbers in people.items():
        for number, shot in ((n, shot) for n in numbers for shot in range(1 if n == 13 else images_each)):
            captions = [f"Person {number} walks in a grey coat, view {shot}.", f"Somebody ({number}) in grey."]
            captions += ["A third sentence."] * (number == 77)
            path = f"{parts[len(entries) % len(parts)]}/{number:05d}_{shot}.jpg"
            tokens = [caption.lower().split() for caption in captions]
            entry = {"split": split, "captions": captions, "file_path": path, "processed_tokens": tokens, "id": number}
            entries.append(entry)
    return entries


PATHS = [entry["file_path"] for entry in cuhk_entries()]


def write_descriptions(file: Path, paths: Sequence[str] = PATHS, **more: Any) -> Path:
    """Writes a descriptions file with one line per path; `more` replaces or adds keys."""
    line = {"identity_description": "A tall man.", "clothing_description": "A red coat.", **more}
    return write_json_lines(file, [{"file_path": path, **line} for path in paths])


def write_cuhk_pedes(folder: Path, **options: Any) -> Path:
    return write_annotated(folder, "reid_raw.json", cuhk_entries(**options))


def icfg_entries(train: int = 5, test: int = 2) -> list[Entry]:
    """Entries of `ICFG-PEDES.json`: the folder is MSMT17's and independent of the split; there is no val."""
    return [
        {
            "split": "train" if person < train else "test",
            "captions": [f"The person {person} wears blue jeans. He holds bag {shot}."],
            "file_path": f"{('test', 'train')[(person + shot) % 2]}/{person:04d}/"
            f"{person:04d}_{shot:03d}_{person % 15 + 1:02d}_0303morning_0015_{shot}.jpg",
            "processed_tokens": [["the", "person"]],
            "id": person,
        }
        for person in range(train + test)
        for shot in range(2)
    ]


def write_icfg_pedes(folder: Path, annotation: str = "ICFG-PEDES.json", **options: Any) -> Path:
    return write_annotated(folder, annotation, icfg_entries(**options))


def rstp_entries(train: int = 4, val: int = 1, test: int = 2, images_each: int = 2) -> list[Entry]:
    """Entries of `data_captions.json`: CJK, code, and one sentence for several people."""
    odd = ["一个穿着红色外套的男人。", "print('hello')", "A woman in a white shirt and black trousers."]
    splits = ["train"] * train + ["val"] * val + ["test"] * test
    return [
        {
            "id": person,
            "img_path": f"{person:04d}_c{(person + shot) % 15 + 1}_{shot:04d}.jpg",
            "captions": [odd[person % 3], f"Person {person} in green, seen {shot} times."],
            "split": split,
        }
        for person, split in enumerate(splits)
        for shot in range(images_each)
    ]


def write_rstpreid(folder: Path, **options: Any) -> Path:
    return write_annotated(folder, "data_captions.json", rstp_entries(**options))


def write_ufine6926(folder: Path, annotation: str = "UFine6926.json", train: int = 4, test: int = 2) -> Path:
    entries: list[Entry] = [
        {
            "split": "train" if person <= train else "test",
            "captions": [f"A long caption of person {person}. " * 5, f"Another one, {person}. " * 5],
            "file_path": f"images/{2 * (person - 1) + shot + 1}.jpg",
            "id": person,
        }
        for person in range(1, train + test + 1)
        for shot in range(2)
    ]
    return write_annotated(folder, annotation, entries, image_folder=".")


def write_synth_pedes(folder: Path, annotation: str = "synthpedes_dataset.json", by_path: bool = False) -> Path:
    """People 7 and 8 with two images each; with `by_path`, `{path: captions}` without person numbers."""
    entries: list[Entry] = [
        {
            "id": person,
            "file_path": f"Part{person - 6}/{person}/{shot}.jpg",
            "attributes": ["man,black hair,black shirt,pink shorts,black shoes,unknown"],
            "captions": [f"A man, {person}, view {shot}.", "He wears pink shorts."],
            "prompt_caption": ["A man with black hair."],
        }
        for person in (7, 8)
        for shot in (1, 2)
    ]
    write_annotated(folder, annotation, entries, image_folder=".")
    if by_path:
        write_json(folder / annotation, {entry["file_path"]: entry["captions"] for entry in entries})
    return folder


def write_luperson_mllm(folder: Path, names: Sequence[str] = ("a", "b", "c")) -> Path:
    """Each image with a caption by two templates of two models; one caption repeats its template."""
    for number, name in enumerate(names):
        write_image(folder / "LUPerson-MLLM" / f"{name}.jpg", number)
    for template in ("Ts", "Td"):
        for model in ("qwen", "shikra"):
            captions = {f"/data/images/{name}.jpg": f"{template} {model} {name}." for name in names}
            if (template, model) == ("Td", "qwen"):
                captions[f"/data/images/{names[0]}.jpg"] = "The man has [clothes description]."
            write_json(folder / "caption" / f"{template}-{model}.json", captions)
    return folder


def write_names(folder: Path, names: Sequence[str]) -> Path:
    """Writes images without an annotation file."""
    for number, name in enumerate(names):
        write_image(folder / name, number)
    return folder


def write_prcc(folder: Path) -> Path:
    """Writes a PRCC with validation images of train people; test people are numbered separately."""
    names = [
        f"rgb/{split}/{person:03d}/{camera}_cropped_rgb{shot:03d}.jpg"
        for split, shots in (("train", (1, 2)), ("val", (3,)))
        for person in (1, 2, 4)
        for camera in "ABC"
        for shot in shots
    ]
    names += [f"rgb/test/{camera}/{person:03d}/cropped_rgb{person:03d}.jpg" for camera in "ABC" for person in (3, 5)]
    write_names(folder, [*names, "sketch/train/001/A_sketch001.jpg"])
    return folder


def write_ltcc(folder: Path) -> Path:
    names = [
        f"train/{person:03d}_{outfit}_c{camera}_01583{camera}.png"
        for person in (0, 1, 2)
        for outfit in (1, 2)
        for camera in (1, 12)
    ]
    names += [f"query/{person:03d}_1_c9_015833.png" for person in (100, 101)]
    names += [f"test/{person:03d}_{outfit}_c3_004859.png" for person in (100, 101) for outfit in (1, 2)]
    return write_names(folder, names)


def write_celeb_reid(folder: Path) -> Path:
    names = [f"train/{person}_{index}_0.jpg" for person in (1, 2, 3) for index in (1, 2)]
    names += [f"query/{person}_1_0.jpg" for person in (633, 634)]
    names += [f"gallery/{person}_{index}_0.jpg" for person in (633, 634) for index in (2, 3)]
    return write_names(folder, names)


def write_market_1501(folder: Path) -> Path:
    names = [
        f"bounding_box_train/{person:04d}_c{camera}s1_000451_03.jpg" for person in (2, 7, 1500) for camera in (1, 6)
    ]
    names += ["query/0001_c1s1_001051_00.jpg", "query/0003_c2s1_001051_00.jpg"]
    names += [f"bounding_box_test/{person}_c3s2_001051_01.jpg" for person in ("0001", "0003", "0000", "-1")]
    write_names(folder, names)
    (folder / "bounding_box_test" / "Thumbs.db").write_bytes(b"windows")
    return folder


def write_msmt17(folder: Path, train: str = "train", test: str = "test") -> Path:
    """Writes an MSMT17 with train and test people both numbered from 0."""
    names = [
        f"{part}/{person:04d}/{person:04d}_{shot:03d}_{camera:02d}_0303morning_0015_{shot}.jpg"
        for part, people in ((train, 4), (test, 3))
        for person in range(people)
        for shot, camera in enumerate((1, 15))
    ]
    write_names(folder, names)
    (folder / "list_train.txt").write_text("0000/0000_000_01_0303morning_0015_0.jpg 0\n")
    return folder


def read_json_lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
