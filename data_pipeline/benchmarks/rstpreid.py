"""RSTPReid (Zhu et al., 2021): five images per person from different cameras, two captions per image."""

import re
from pathlib import PurePosixPath

from .annotations import read_annotations
from .benchmark import RESEARCH_ONLY, Benchmark, Counts, PersonImage, Source

OLD_SPLIT = {"train": 3901, "validation": 100, "test": 100}


def read(source: Source) -> list[PersonImage]:
    """Reads images named `person_camera_sequence` (`0000_c14_0031.jpg`); accepts the early split with a warning."""
    images = read_annotations(source, camera_of)
    people = {split: len({image.person_id for image in images if image.split == split}) for split in OLD_SPLIT}
    if people == OLD_SPLIT:
        source.notes.append(
            f"{source.annotation} has RSTPReid's early split of 3901/100/100 people; published results use the split "
            "of 3701/200/200 people, now on the authors' page: results on the two splits are not comparable"
        )
    return images


def camera_of(path: str) -> int | None:
    """Returns the camera number in a file name, or None."""
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
        **dict.fromkeys(("validation", "test"), Counts(200, 1000, 2000)),
    },
)
