"""CUHK-PEDES (Li et al., CVPR 2017): 13,003 people, two captions per image, cameras unknown."""

from .annotations import read_annotations
from .benchmark import RESEARCH_ONLY, Benchmark, Counts

PARTS = ("cam_a", "cam_b", "CUHK01", "CUHK03", "Market", "test_query", "train_query")
CUHK_PEDES = Benchmark(
    title="CUHK-PEDES",
    origin="its authors by e-mail, see the page 'Person Search with Natural Language Description' (S. Li et al.)",
    layout=f"reid_raw.json and imgs/ with {', '.join(PARTS)}",
    read=read_annotations,
    url="https://github.com/ShuangLI59/Person-Search-with-Natural-Language-Description",
    paper="Li et al., Person Search with Natural Language Description, CVPR 2017",
    license=RESEARCH_ONLY,
    top_folders=("CUHK-PEDES",),
    annotations=("reid_raw.json", "caption_all.json"),  # the second has no splits
    image_folders=("imgs",),
    published={"train": Counts(11003, 34054, 68126), "validation": Counts(1000, 3078), "test": Counts(1000, 3074)},
    parts=PARTS,
)
