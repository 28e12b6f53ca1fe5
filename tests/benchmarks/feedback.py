"""Weights of relevance feedback: `python -m tests.benchmarks.feedback --model outputs/tiny`.

Searches the images of the synthetic validation split by every caption, marks the first one or two right images and the
first three wrong ones among the first 24 hits, and searches again. Prints rank-1 and mAP of the other images for a grid
of b and c (`data_pipeline/search/feedback.py`); b = c = 0 is the search before the marks. Marked images are left out.
"""

import argparse

import numpy as np
from accelerate import Accelerator

from data_pipeline.batches.collator import RetrievalCollator
from data_pipeline.benchmarks.loading import load_person_dataset
from data_pipeline.images import with_image_files
from data_pipeline.search.feedback import move_query
from modeling_bdam import BDAMModel, BDAMProcessor
from modeling_bdam.evaluation.protocols import EncodedSplit, encode_split

WRONG, SHOWN = 3, 24


def measure(split: EncodedSplit, beta: float, marks: int, b: float, c: float) -> tuple[float, float]:
    """Returns rank-1 and mAP in per cent after one round of marks; b = c = 0 is the search before them."""
    gallery, people = split.gallery.numpy(), split.gallery_ids.numpy()
    half = gallery.shape[1] // 2
    weights = np.repeat(np.array([1, beta], np.float32), half)
    first, precisions = [], []
    for query, row in zip(split.queries.numpy(), split.query_rows.numpy(), strict=True):
        is_right = people == people[row]
        shown = np.argsort(-(gallery @ (query * weights)), kind="stable")[:SHOWN]
        right, wrong = shown[is_right[shown]][:marks], shown[~is_right[shown]][:WRONG]
        scores = gallery @ (move_query(query, gallery[right], gallery[wrong], b, c) * weights)
        scores[[*right, *wrong]] = -np.inf
        order = np.argsort(-scores, kind="stable")[: len(people) - len(right) - len(wrong)]
        places = np.flatnonzero(is_right[order])
        if len(right) and len(places):
            first.append(places[0] == 0)
            precisions.append(np.mean(np.arange(1, len(places) + 1) / (places + 1)))
    return 100 * float(np.mean(first)), 100 * float(np.mean(precisions))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--people", type=int, default=60, help="people of the split")
    given = parser.parse_args()
    model, processor = BDAMModel.from_pretrained(given.model), BDAMProcessor.from_pretrained(given.model)
    size = processor.image_processor.size
    sizes = {"num_train_people": 2500, "num_val_people": given.people, "image_size": (size["height"], size["width"])}
    images = with_image_files(load_person_dataset("synthetic", synthetic=sizes)["validation"])
    split = encode_split(model, images, RetrievalCollator(processor), 64, Accelerator(), show_progress=False)
    print(f"{len(split.gallery)} images, {len(split.queries)} captions")
    for marks in (1, 2):
        print(f"{marks} right, {WRONG} wrong")
        for b, c in [(0.0, 0.0), *((b, c) for b in (0.25, 0.5, 0.75, 1.0, 2.0) for c in (0.0, 0.15, 0.3, 0.5))]:
            rank1, mean = measure(split, model.config.clothing_weight, marks, b, c)
            print(f"b {b:.2f}  c {c:.2f}  rank-1 {rank1:.2f}  mAP {mean:.2f}")


if __name__ == "__main__":
    main()
