"""What 8 bits save and cost on a CPU: `python tests/benchmarks/int8_embed.py --model outputs/tiny`.

Embeds the test split of the synthetic set by torch in float32, by onnxruntime in float32 and in 8 bits (image and text
side), and scores each. Then the image side of ViT-B/16 with new weights at 224x224, for speed alone. Wanted: 8 bits
at least 1.5 times as fast as torch in float32, with rank-1 within 1 point. Times are processor time on one thread,
the runtimes taking turns, the best of several rounds: that holds on a machine that others use as well.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BertConfig, ViTConfig

from data_pipeline import load_synthetic
from modeling_bdam import BDAMConfig, BDAMModel, BDAMProcessor, retrieval_metrics
from modeling_bdam.conversion.onnx import ImageSide, OnnxEmbedder, TextSide, export_onnx, quantize_int8

Embed = Callable[..., NDArray[np.float32]]
RUNTIMES = ("torch fp32", "onnxruntime fp32", "onnxruntime int8")


def runtimes(model: BDAMModel, folder: str, size: tuple[int, int]) -> tuple[dict[str, Embed], dict[str, Embed]]:
    """The image side and the text side in each runtime, on one thread, as functions of arrays."""
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


def seconds(sides: dict[str, Embed], arrays: tuple[NDArray, ...], rounds: int) -> dict[str, float]:
    """Processor time of one call in each runtime: the best of the rounds."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, embed in sides.items():
            start = time.process_time()
            embed(*arrays)
            if number:  # the first round warms up
                times[name].append(time.process_time() - start)
    return {name: min(measured) for name, measured in times.items()}


def measure(what: str, sides: dict[str, Embed], arrays: tuple[NDArray, ...], rounds: int) -> dict[str, Any]:
    """Prints and returns the speed of each runtime, and how near its vectors are to torch's."""
    spent = seconds(sides, arrays, rounds)
    exact = sides[RUNTIMES[0]](*arrays)
    result: dict[str, Any] = {}
    for name, embed in sides.items():
        cosine = float((embed(*arrays) * exact).sum(axis=1).mean() / 2)  # two halves of length 1 each
        rate, ratio = len(exact) / spent[name], spent[RUNTIMES[0]] / spent[name]
        result[name] = {"per_second": rate, "speed_up": ratio, "cosine": cosine}
        print(f"  {what:8} {name:18} {rate:8.1f} /s  {ratio:5.2f} x  cosine {cosine:.5f}")
    return result


def score(images: Embed, texts: Embed, processor: Any, rows: Any, beta: float) -> dict[str, float]:
    """Figures of the standard protocol of a split in one runtime."""
    gallery, queries, people, wanted = [], [], [], []
    for start in range(0, len(rows), 32):
        part = rows[start : start + 32]
        gallery.append(images(processor(images=part["image"], return_tensors="np")["pixel_values"]))
        captions = [caption for captions in part["captions"] for caption in captions]
        tokens = processor(text=captions, return_tensors="np")
        queries.append(texts(tokens["input_ids"], tokens["attention_mask"]))
        people += part["person_id"]
        wanted += [
            person for person, captions in zip(part["person_id"], part["captions"], strict=True) for _ in captions
        ]
    query = np.concatenate(queries)
    query[:, query.shape[1] // 2 :] *= beta
    return retrieval_metrics(query, np.concatenate(gallery), np.array(wanted), np.array(people))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="outputs/tiny", help="folder or Hub id of a model of the synthetic set")
    parser.add_argument("--people", type=int, default=120, help="people of the test split")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--output", help="a JSON file for the figures")
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
            figures = score(images[name], texts[name], processor, rows, model.config.clothing_weight)
            report["tiny images"][name] |= figures
            print(
                f"  {name:18} rank-1 {100 * figures['rank1']:.2f}, mAP {100 * figures['mAP']:.2f} ({len(rows)} images)"
            )

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
        unfinished = Path(f"{arguments.output}.part")
        unfinished.write_text(json.dumps(report, indent=2))
        os.replace(unfinished, arguments.output)


if __name__ == "__main__":
    main()
