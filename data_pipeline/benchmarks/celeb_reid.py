"""Celeb-reID and Celeb-reID-light (Huang et al., 2019): street snapshots of celebrities, new clothes in each image."""

from dataclasses import replace

from .benchmark import RESEARCH_ONLY, UNKNOWN, Benchmark, PersonImage, Source
from .image_names import match_names

NAME = r"(?P<person>\d+)_\d+_[^/]*"
FOLDERS = (("train", "train", NAME), ("query", "test", NAME), ("gallery", "test", NAME))


def read(source: Source) -> list[PersonImage]:
    """Reads images named `person_index_…`, each with its own outfit; test contains query and gallery."""
    return [
        PersonImage(path, int(name["person"]), split, UNKNOWN, outfit)
        for outfit, (path, split, name) in enumerate(match_names(source, FOLDERS, "1_1_0.jpg"))
    ]


CELEB_REID = Benchmark(
    title="Celeb-reID",
    origin="its authors: the GitHub repository Celeb-reID of Huang-3",
    layout="train, query and gallery with the images",
    read=read,
    url="https://github.com/Huang-3/Celeb-reID",
    paper="Huang et al., Celebrities-ReID: A Benchmark for Clothes Variation in Long-Term Person "
    "Re-Identification, IJCNN 2019",
    license=RESEARCH_ONLY,
    top_folders=("Celeb-reID",),
    markers=("train", "query", "gallery"),
    numbers_restart=True,
)
CELEB_REID_LIGHT = replace(CELEB_REID, title="Celeb-reID-light", top_folders=("Celeb-reID-light",))
