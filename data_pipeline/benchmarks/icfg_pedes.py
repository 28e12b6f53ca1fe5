"""ICFG-PEDES (Ding et al., 2021): images of MSMT17, one caption each. Folders train/ and test/ are not the split."""

from pathlib import PurePosixPath

from .annotations import read_annotations
from .benchmark import RESEARCH_ONLY, Benchmark, Counts, PersonImage, Source


def read(source: Source) -> list[PersonImage]:
    """Reads the annotated images; file names have MSMT17's form, `0000_000_01_0303morning_0015_0.jpg`: camera 1."""
    return read_annotations(source, camera_of)


def camera_of(path: str) -> int | None:
    """Returns the camera number in a file name of MSMT17's form, or None for another form."""
    fields = PurePosixPath(path).name.split("_")
    return int(fields[2]) if len(fields) > 3 and fields[2].isdecimal() else None


ICFG_PEDES = Benchmark(
    title="ICFG-PEDES",
    origin="its authors by e-mail, see the GitHub repository SSAN of zifyloo",
    layout="ICFG-PEDES.json (or ICFG_PEDES.json) and imgs/",
    read=read,
    url="https://github.com/zifyloo/SSAN",
    paper="Ding et al., Semantically Self-Aligned Network for Text-to-Image Part-aware Person "
    "Re-identification, arXiv:2107.12666",
    license=f"{RESEARCH_ONLY}; its images are those of MSMT17",
    top_folders=("ICFG-PEDES", "ICFG_PEDES"),
    annotations=("ICFG-PEDES.json", "ICFG_PEDES.json"),
    image_folders=("imgs", "ICFG_PEDES", "."),
    published={"train": Counts(3102, 34674, 34674), "test": Counts(1000, 19848, 19848)},
)
