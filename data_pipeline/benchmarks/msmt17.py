"""MSMT17 (Wei et al., CVPR 2018): fifteen cameras, no outfits, no captions. Test people are numbered from 0 again."""

from .benchmark import RESEARCH_ONLY, Benchmark, PersonImage, Source
from .image_names import match_names

NAME = r"(?P<person>-1|\d+)/(?:-1|\d+)_\d+_(?P<camera>\d+)_[^/]*"
MARKERS = ("train", "mask_train_v2", "test", "mask_test_v2")
FOLDERS = tuple((folder, "train" if "train" in folder else "test", NAME) for folder in MARKERS)


def read(source: Source) -> list[PersonImage]:
    """Reads images from one folder per person; test contains query and gallery. Number 0 is a valid person.

    The list files beside the folders are ignored: their validation images show train people, so whole people are
    held out instead, and their query and gallery lists divide test.
    """
    return [
        PersonImage(path, int(name["person"]), split, int(name["camera"]))
        for path, split, name in match_names(source, FOLDERS, "0000/0000_000_01_0303morning_0015_0.jpg")
        if int(name["person"]) >= 0
    ]


MSMT17 = Benchmark(
    title="MSMT17",
    origin="its authors after an agreement, see the page 'MSMT17' of the PKU-VMC laboratory",
    layout="train and test (or mask_train_v2 and mask_test_v2) with a folder for each person",
    read=read,
    url="https://www.pkuvmc.com/dataset.html",
    paper="Wei et al., Person Transfer GAN to Bridge Domain Gap for Person Re-Identification, CVPR 2018",
    license=RESEARCH_ONLY,
    top_folders=("MSMT17_V1", "MSMT17_V2", "MSMT17"),
    markers=MARKERS,
    numbers_restart=True,
)
