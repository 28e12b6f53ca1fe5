"""UFine6926 (Zuo et al., CVPR 2024): long captions, two an image, cameras unknown."""

from .annotations import read_annotations
from .benchmark import Benchmark

UFINE6926 = Benchmark(
    title="UFine6926",
    origin="its authors: the GitHub repository UFineBench of Zplusdragon",
    layout="one .json file with the captions, and the folder images/",
    read=read_annotations,
    top_folders=("UFine6926", "UFineBench/UFine6926"),
    annotations=("UFine6926.json", "ufine6926.json", "data_captions.json", "*.json"),
    image_folders=("imgs", "."),  # paths begin with images/
)
