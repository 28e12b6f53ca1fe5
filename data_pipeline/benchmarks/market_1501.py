"""Market-1501 (Zheng et al., ICCV 2015): six cameras, no outfits, no captions."""

from collections import Counter

from .benchmark import RESEARCH_ONLY, UNKNOWN, Benchmark, PersonImage, Source
from .image_names import match_names

NAME = r"(?P<person>-1|\d+)_c(?P<camera>\d+)s\d+_[^/]*"
FOLDERS = (("bounding_box_train", "train", NAME), ("query", "test", NAME), ("bounding_box_test", "test", NAME))


def read(source: Source) -> list[PersonImage]:
    """Reads images named `person_camera…`; drops junk (-1) and keeps distractors (0) in the gallery.

    Distractors are detections of background and of other people. They match no query, so their `person_id` is unknown.
    """
    images, gallery = [], Counter[str]()
    for path, split, name in match_names(source, FOLDERS, "0002_c1s1_000451_03.jpg"):
        person = int(name["person"])
        kind = "people" if person > 0 else "distractors" if person == 0 and split == "test" else "junk"
        gallery[kind] += path.startswith("bounding_box_test/")
        if kind != "junk":
            images.append(PersonImage(path, person or UNKNOWN, split, int(name["camera"])))
    if gallery.total():
        source.notes.append(
            f"Market-1501: the gallery has {gallery['people'] + gallery['distractors']} images, "
            f"{gallery['people']} of people and {gallery['distractors']} distractors (0 in the file name, person_id -1)"
            f"; {gallery['junk']} junk images (-1 in the file name) are left out"
        )
    return images


MARKET_1501 = Benchmark(
    title="Market-1501",
    origin="its authors: the page 'Market-1501 Dataset' of Liang Zheng",
    layout="bounding_box_train, query and bounding_box_test with the images",
    read=read,
    url="https://zheng-lab-anu.github.io/Project/project_reid.html",
    paper="Zheng et al., Scalable Person Re-identification: A Benchmark, ICCV 2015",
    license=RESEARCH_ONLY,
    top_folders=("Market-1501-v15.09.15", "Market-1501"),
    markers=("bounding_box_train", "query", "bounding_box_test"),
)
