"""PRCC (Yang et al., TPAMI 2019): cameras A and B show one outfit of a person, camera C another."""

from .benchmark import RESEARCH_ONLY, Benchmark, PersonImage, Source
from .image_names import match_names

TRAIN = r"(?P<person>\d+)/(?P<camera>[ABC])[^/]*"
TEST = r"(?P<camera>[ABC])/(?P<person>\d+)/[^/]*"
FOLDERS = (("rgb/train", "train", TRAIN), ("rgb/val", "validation", TRAIN), ("rgb/test", "test", TEST))


def read(source: Source) -> list[PersonImage]:
    """Reads all images; test contains gallery A, same-clothes queries B and clothes-changing queries C."""
    return [
        PersonImage(path, int(name["person"]), split, "ABC".index(name["camera"]), int(name["camera"] == "C"))
        for path, split, name in match_names(source, FOLDERS, "001/A_cropped_rgb001.jpg (in test A/001/…)")
    ]


PRCC = Benchmark(
    title="PRCC",
    origin="its authors: the page 'Person Re-identification by Contour Sketch under Moderate Clothing Change'",
    layout="rgb/train, rgb/val with a folder for each person, and rgb/test/A, B, C",
    read=read,
    url="https://www.isee-ai.cn/~yangqize/clothing.html",
    paper="Yang et al., Person Re-identification by Contour Sketch under Moderate Clothing Change, TPAMI 2019",
    license=RESEARCH_ONLY,
    top_folders=("prcc", "PRCC"),
    markers=("rgb",),
    numbers_restart=True,
    shares_validation=True,
)
