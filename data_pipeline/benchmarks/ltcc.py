"""LTCC (Qian et al., ACCV 2020): people in several outfits, twelve cameras."""

from .benchmark import RESEARCH_ONLY, Benchmark, PersonImage, Source
from .image_names import match_names

NAME = r"(?P<person>\d+)_(?P<outfit>\d+)_c(?P<camera>\d+)_[^/]*"
FOLDERS = (("train", "train", NAME), ("query", "test", NAME), ("test", "test", NAME))


def read(source: Source) -> list[PersonImage]:
    """Reads images named `person_outfit_camera_…`; test contains query and gallery."""
    return [
        PersonImage(path, int(name["person"]), split, int(name["camera"]), int(name["outfit"]))
        for path, split, name in match_names(source, FOLDERS, "000_1_c9_015833.png")
    ]


LTCC = Benchmark(
    title="LTCC",
    origin="its authors after an agreement, see the page 'Long-Term Cloth-Changing Person Re-identification'",
    layout="train, query and test with the images",
    read=read,
    url="https://naiq.github.io/LTCC_Perosn_ReID.html",
    paper="Qian et al., Long-Term Cloth-Changing Person Re-identification, ACCV 2020",
    license=RESEARCH_ONLY,
    top_folders=("LTCC_ReID", "LTCC"),
    markers=("train", "query", "test"),
)
