"""Speed and accuracy of int8 quantization on a CPU: `python tests/benchmarks/int8_embed.py --model outputs/tiny`.

Embeds and scores the test split of the synthetic set with torch in float32 and with onnxruntime in float32 and int8.
Then measures only the speed of ViT-B/16 and BERT-base with new weights. Target for int8: at least 1.5 times the rate of
torch in float32, and a difference in Rank-1 of at most 1 point. Times are processor times on one thread, the best of
several rounds in turns, which are reproducible on a machine with other load.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timing import time_in_turns
from transformers import BertConfig, ViTConfig

from data_pipeline import load_synthetic
from modeling_bdam import BDAMConfig, BDAMModel, BDAMProcessor, retrieval_metrics
from modeling_bdam.conversion.onnx import ImageSide, OnnxEmbedder, TextSide, export_onnx, quantize_int8
from modeling_bdam.files import write_json

Embed = Callable[..., NDArray[np.float32]]
RUNTIMES = ("torch fp32", "onnxruntime fp32", "onnxruntime int8")


def runtimes(model: BDAMModel, folder: str, size: tuple[int, int]) -> tuple[dict[str, Embed], dict[str, Embed]]:
    """Returns the image encoder and the text encoder of each runtime, as functions of arrays, on one thread."""
    files = export_onnx(model, folder, size)
    exact = OnnxEmbedder(files.image, files.text, threads=1)
    small = OnnxEmbedder(quantize_int8(files.image), quantize_int8(files.text), threads=1)
    for path in sorted(Path(folder).iterdir()):
        print(f"  {path.name:16} {path.stat().st_size / 1e6:8.1f} MB")

    def by_torch(side: torch.nn.Module) -> Embed:
        @torch.inference_mode()
        def embed(*arrays: NDArray) -> NDArray[np.float32]:
            return side(*(torch.from_numpy(array) for array in arrays)).numpy()

        return embed

    images = (by_torch(ImageSide(model)), exact.images, small.images)
    texts = (by_torch(TextSide(model)), exact.texts, small.texts)
    return dict(zip(RUNTIMES, images, strict=True)), dict(zip(RUNTIMES, texts, strict=True))


def measure(name: str, sides: dict[str, Embed], arrays: tuple[NDArray, ...], rounds: int) -> dict[str, Any]:
    """Prints and returns the rate of each runtime and the mean cosine similarity of its vectors with those of torch."""
    seconds = time_in_turns({runtime: lambda e=embed: e(*arrays) for runtime, embed in sides.items()}, rounds)
    best = {runtime: min(busy for _, busy in times) for runtime, times in seconds.items()}
    exact = sides[RUNTIMES[0]](*arrays)  # [B, 2D]
    result: dict[str, Any] = {}
    for runtime, embed in sides.items():
        cosine = float((embed(*arrays) * exact).sum(axis=1).mean() / 2)  # two halves, each of length 1
        rate, ratio = len(exact) / best[runtime], best[RUNTIMES[0]] / best[runtime]
        result[runtime] = {"per_second": rate, "speed_up": ratio, "cosine": cosine}
        print(f"  {name:8} {runtime:18} {rate:8.1f} /s  {ratio:5.2f} x  cosine {cosine:.5f}")
    return result


def score(images: Embed, texts: Embed, processor: Any, rows: Any, beta: float) -> dict[str, float]:
    """Returns the metrics of a split with the standard protocol in one runtime."""
    gallery, queries, people, query_people = [], [], [], []
    for start in range(0, len(rows), 32):
        part = rows[start : start + 32]
        gallery.append(images(processor(images=part["image"], return_tensors="np")["pixel_values"]))
        captions = [caption for captions in part["captions"] for caption in captions]
        tokens = processor(text=captions, return_tensors="np")
        queries.append(texts(tokens["input_ids"], tokens["attention_mask"]))
        people += part["person_id"]
        for person, own_captions in zip(part["person_id"], part["captions"], strict=True):
            query_people += [person] * len(own_captions)
    query = np.concatenate(queries)
    query[:, query.shape[1] // 2 :] *= beta
    return retrieval_metrics(query, np.concatenate(gallery), np.array(query_people), np.array(people))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="outputs/tiny", help="folder or Hub id of a model of the synthetic set")
    parser.add_argument("--people", type=int, default=120, help="number of people in the test split")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--output", help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = {"torch": torch.__version__, "batch_size": arguments.batch_size}

    with tempfile.TemporaryDirectory() as folder:
        print(arguments.model)
        model, processor = BDAMModel.from_pretrained(arguments.model), BDAMProcessor.from_pretrained(arguments.model)
        size = (processor.image_processor.size["height"], processor.image_processor.size["width"])
        images, texts = runtimes(model, folder, size)
        rows = load_synthetic(1000, 60, arguments.people, image_size=size)["test"]
        part = rows[: arguments.batch_size]
        pixels = processor(images=part["image"], return_tensors="np")["pixel_values"]
        tokens = processor(text=[captions[0] for captions in part["captions"]], return_tensors="np")
        report["tiny images"] = measure("images", images, (pixels,), arguments.rounds)
        report["tiny texts"] = measure(
            "texts", texts, (tokens["input_ids"], tokens["attention_mask"]), arguments.rounds
        )
        for name in RUNTIMES:
            metrics = score(images[name], texts[name], processor, rows, model.config.clothing_weight)
            report["tiny images"][name] |= metrics
            rank1, mean_precision = (f"{100 * metrics[metric]:.2f}" for metric in ("rank1", "mAP"))
            print(f"  {name:18} rank-1 {rank1}, mAP {mean_precision} ({len(rows)} images)")

    with tempfile.TemporaryDirectory() as folder:
        print("ViT-B/16 and BERT-base, new weights, 224x224")
        torch.manual_seed(0)
        model = BDAMModel(BDAMConfig(vision_config=ViTConfig().to_dict(), text_config=BertConfig().to_dict()))
        images, texts = runtimes(model.eval(), folder, (224, 224))
        generator = np.random.default_rng(0)
        pixels = generator.standard_normal((4, 3, 224, 224), dtype=np.float32)
        ids = generator.integers(1000, 30522, (arguments.batch_size, 32))
        rounds = max(2, arguments.rounds // 3)
        report["ViT-B images"] = measure("images", images, (pixels,), rounds)
        report["BERT texts"] = measure("texts", texts, (ids, np.ones_like(ids)), rounds)

    if arguments.output:
        write_json(arguments.output, report, indent=2)


if __name__ == "__main__":
    main()
