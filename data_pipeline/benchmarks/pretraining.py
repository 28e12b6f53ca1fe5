"""Sets for pretraining with captions of multimodal LLMs: SYNTH-PEDES, HAM-PEDES and LUPerson-MLLM; all of it is train.

Convert them once by `bdam data convert NAME --to-parquet FOLDER`; `shards` then starts in seconds. The annotation
format of HAM-PEDES is not documented by its authors: a list as in SYNTH-PEDES, or `{path: captions}`, is accepted.
"""

from pathlib import PurePosixPath
from typing import Any

from .annotations import read_annotations, read_captions
from .benchmark import RESEARCH_ONLY, Benchmark, PersonImage, Source
from .text_files import read_json

_FAILED = ("description]", "<")  # an answer that repeats the template of its instruction


def read_synth_pedes(source: Source) -> list[PersonImage]:
    """Reads `{"id": 7, "file_path": "Part1/7/1.jpg", "captions": [...]}`, or `{path: captions}`."""
    assert source.annotation is not None
    content = read_json(source.annotation)
    if not isinstance(content, dict):
        return read_annotations(source, split="train")
    images = []
    irregular = {"single": 0, "blank": 0}
    for path, value in content.items():
        where = f"{source.annotation} ({path})"
        person = PurePosixPath(path).parent.name
        if not person.isdecimal():
            raise ValueError(f"{where}: the folder of an image must be the number of its person, as in Part1/7/1.jpg")
        images.append(PersonImage(path, int(person), "train", captions=read_captions(value, where, irregular)))
    return images


def read_luperson_mllm(source: Source) -> list[PersonImage]:
    """Reads `{path: caption}` of each file beside the annotation; images are found by name, each is one person."""
    assert source.annotation is not None
    path_of = {PurePosixPath(path).name: path for path in source.images.images()}
    captions: dict[str, list[str]] = {}
    irregular = {"single": 0, "blank": 0}
    failed = 0
    for file in sorted(source.annotation.parent.glob("*.json")):
        content: Any = read_json(file)
        if not isinstance(content, dict):
            raise ValueError(f"{file}: expected an object {{path: caption}}, not a {type(content).__name__}")
        for path, value in content.items():
            for caption in read_captions(value, f"{file} ({path})", irregular):
                name = PurePosixPath(path).name
                is_failed = any(mark in caption for mark in _FAILED)
                failed += is_failed
                captions.setdefault(path_of.get(name, name), []).extend([] if is_failed else [caption])
    if failed:
        source.notes.append(f"{source.annotation.parent}: {failed} captions repeat their instruction: dropped")
    return [PersonImage(path, number, "train", captions=captions[path]) for number, path in enumerate(sorted(captions))]


SYNTH_PEDES = Benchmark(
    title="SYNTH-PEDES",
    origin="its authors: the GitHub repository PLIP of Zplusdragon",
    layout="synthpedes_dataset.json and the folders Part1 to Part11",
    read=read_synth_pedes,
    url="https://github.com/Zplusdragon/PLIP",
    paper="Zuo et al., PLIP: Language-Image Pre-training for Person Representation Learning, NeurIPS 2024",
    license=RESEARCH_ONLY,
    top_folders=("SYNTH-PEDES",),
    annotations=("synthpedes_dataset.json", "synthpedes-dataset.json"),
)
HAM_PEDES = Benchmark(
    title="HAM-PEDES",
    origin="its authors: the GitHub repository HAM of sssaury; its images are those of SYNTH-PEDES",
    layout="one .json file with the captions, and the folders Part1 to Part11 of SYNTH-PEDES",
    read=read_synth_pedes,
    url="https://github.com/sssaury/HAM",
    paper="Jiang et al., Modeling Thousands of Human Annotators for Generalizable Text-to-Image Person "
    "Re-identification, CVPR 2025",
    license=f"{RESEARCH_ONLY}; its images are those of SYNTH-PEDES",
    top_folders=("HAM_PEDES", "HAM-PEDES"),
    annotations=("HAM_PEDES.json", "HAM-PEDES.json", "*.json"),
)
LUPERSON_MLLM = Benchmark(
    title="LUPerson-MLLM",
    origin="its authors: captions of the Hub repository TwT-6/LUPerson-MLLM-captions, images of LUPerson",
    layout="caption/ with Ts-qwen.json, Td-qwen.json, Ts-shikra.json, Td-shikra.json, and the images in LUPerson-MLLM/",
    read=read_luperson_mllm,
    url="https://github.com/WentaoTan/MLLM4Text-ReID",
    paper="Tan et al., Harnessing the Power of MLLMs for Transferable Text-to-Image Person ReID, CVPR 2024",
    license=f"{RESEARCH_ONLY}; its images are those of LUPerson",
    top_folders=("LUPerson-MLLM",),
    annotations=("caption/Ts-qwen.json", "caption/Td-qwen.json", "caption/Ts-shikra.json", "caption/Td-shikra.json"),
    image_folders=("LUPerson-MLLM", "train", "images", "."),
)
