"""RSTPReid (Zhu et al., 2021): five images of each person by different cameras, two captions an image."""

import re
from pathlib import PurePosixPath

from .annotations import read_annotations
from .benchmark import RESEARCH_ONLY, Benchmark, Counts, PersonImage, Source

OLD_SPLIT = {"train": 3901, "validation": 100, "test": 100}


def read(source: Source) -> list[PersonImage]:
    """The annotated images, named `person_camera_sequence`: `0000_c14_0031.jpg`. The early split is accepted, named."""
    images = read_annotations(source, camera_of)
    people = {split: len({image.person_id for image in images if image.split == split}) for split in OLD_SPLIT}
    if people == OLD_SPLIT:
        source.notes.append(
            f"{source.annotation} has RSTPReid's early split of 3901/100/100 people; published results are on the "
            "split of 3701/200/200, which the authors' page has by now: figures of the two do not compare"
        )
    return images


def camera_of(path: str) -> int | None:
    """The camera in a file name, or None."""
    match = re.match(r"[^_]+_c(\d+)_", PurePosixPath(path).name)
    return int(match[1]) if match else None


RSTPREID = Benchmark(
    title="RSTPReid",
    origin="its authors: the GitHub repository RSTPReid-Dataset of NjtechCVLab",
    layout="data_captions.json and imgs/",
    read=read,
    url="https://github.com/NjtechCVLab/RSTPReid-Dataset",
    paper="Zhu et al., DSSL: Deep Surroundings-person Separation Learning for Text-based Person Retrieval, ACM MM 2021",
    license=f"{RESEARCH_ONLY}; its images are those of MSMT17",
    top_folders=("RSTPReid",),
    annotations=("data_captions.json",),
    image_folders=("imgs", "."),
    published={
        "train": Counts(3701, 18505, 37010),
        "validation": Counts(200, 1000, 2000),
        "test": Counts(200, 1000, 2000),
    },
)
