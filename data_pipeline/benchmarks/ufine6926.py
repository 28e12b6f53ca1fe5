"""UFine6926 (Zuo et al., CVPR 2024): long captions, two per image, cameras unknown."""

from .annotations import read_annotations
from .benchmark import RESEARCH_ONLY, Benchmark

UFINE6926 = Benchmark(
    title="UFine6926",
    origin="its authors: the GitHub repository UFineBench of Zplusdragon",
    layout="one .json file with the captions, and the folder images/",
    read=read_annotations,
    url="https://github.com/Zplusdragon/UFineBench",
    paper="Zuo et al., UFineBench: Towards Text-based Person Retrieval with Ultra-fine Granularity, CVPR 2024",
    license=RESEARCH_ONLY,
    top_folders=("UFine6926", "UFineBench/UFine6926"),
    annotations=("UFine6926.json", "ufine6926.json", "data_captions.json", "*.json"),
    image_folders=("imgs", "."),  # paths begin with images/
)
