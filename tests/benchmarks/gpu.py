"""Numerical parity and speed on a GPU: `PYTHONPATH=. python tests/benchmarks/gpu.py --output gpu.json`.

Towers of preset `paper` (ViT-B/16 and BERT-base) with new weights, in bf16, without downloads and without a data set.
Parity: the kernels of mamba_ssm, if installed, against our scan, and the whole model on the GPU against the CPU. Speed:
a training step, image and text embeddings and the fusion, in turns with the bare towers on the same inputs. Without a
GPU, or with `--tiny`, tiny towers run on the available device.

Exits with 1 if a difference exceeds its limit.
"""

import argparse
import importlib.metadata
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from paper_step import TEXTS, bare_step, paper_trainer, random_batch
from torch import Tensor, nn
from transformers.utils import logging

from modeling_bdam import BDAMConfig, BDAMModel, mamba_bdam
from modeling_bdam.files import write_json
from modeling_bdam.mamba_bdam import MambaBlock
from modeling_bdam.training.trainer import BDAMTrainer

PACKAGES = ("torch", "transformers", "accelerate", "mamba_ssm", "causal_conv1d", "triton")
TEXT_LENGTH = 77
TINY_TOWER = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 96}
TINY: dict[str, Any] = {
    "vision_config": TINY_TOWER | {"model_type": "vit", "patch_size": 32},
    "text_config": TINY_TOWER | {"model_type": "bert"},
    "hidden_size": 48,
    "num_bdam_layers": 1,
    "num_bdam_heads": 3,
    "fusion_hidden_size": 32,
}


@dataclass
class Parity:
    """Largest difference between two computations of the same tensor, divided by its largest value."""

    what: str
    difference: float
    allowed: float

    @property
    def holds(self) -> bool:
        return self.difference <= self.allowed


@dataclass
class Speed:
    """Median milliseconds per batch of our step and of the bare towers, and the peak memory of our step."""

    what: str
    batch: int
    ours_ms: float
    bare_ms: float | None
    peak_gib: float | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny towers and batches; the default without a GPU")
    parser.add_argument("--train_batch", type=int, default=64, help="images of a training step")
    parser.add_argument("--embed_batch", type=int, default=256, help="images or texts per batch")
    parser.add_argument("--pairs", type=int, default=10, help="timed calls of each step; the median is reported")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    start = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tiny = arguments.tiny or device.type == "cpu"
    if tiny:
        arguments.train_batch, arguments.embed_batch, arguments.pairs = 8, 8, 2
    # TF32 off, so that float32 comparisons use full precision.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    about = machine(device, tiny)
    print(*(f"{name}: {value}" for name, value in about.items()), "", sep="\n")

    parities: list[Parity] = []
    speeds: list[Speed] = []

    def check(found: Iterator[Parity]) -> None:
        for parity in found:
            print(f"{parity.what:58} {parity.difference:9.2e}  {'ok' if parity.holds else 'NOT'} <= {parity.allowed:g}")
            parities.append(parity)

    def show(found: Iterator[Speed]) -> None:
        for speed in found:
            bare = "" if speed.bare_ms is None else f"{speed.bare_ms:10.2f} {speed.ours_ms / speed.bare_ms:8.3f}"
            memory = "" if speed.peak_gib is None else f"{speed.peak_gib:.1f}"
            rate = 1000 * speed.batch / speed.ours_ms
            print(f"{speed.what:40} {speed.batch:6d} {speed.ours_ms:9.2f} {bare:19} {rate:9.0f} {memory:>8}")
            speeds.append(speed)

    print(f"{'parity: largest difference over the largest value':58}")
    kernels = fused_kernels(device)
    if kernels:
        check(kernel_parity(device))
    else:
        print("mamba_ssm: not installed, so the state-space layer uses our scan")
    with tempfile.TemporaryDirectory() as folder:
        model, trainer = paper_trainer(folder, bf16=True, **(TINY if tiny else {}))
        check(model_parity(model, device))
        print(f"\n{'speed, bf16':40} {'batch':>6} {'ms':>9} {'bare ms':>10} {'ratio':>8} {'per s':>9} {'peak GiB':>8}")
        clock = Clock(device, arguments.pairs)
        show(embed_speed(model, clock, arguments.embed_batch))
        show(fusion_speed(clock, arguments.embed_batch, tiny, kernels))
        show(train_speed(trainer, clock, arguments.train_batch))
    seconds = time.perf_counter() - start
    print(f"\n{seconds:.0f} s in total")

    if arguments.output is not None:
        report = {
            "machine": about,
            "parity": [asdict(parity) | {"holds": parity.holds} for parity in parities],
            "speed": [asdict(speed) for speed in speeds],
            "seconds": round(seconds, 1),
        }
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.output, report, indent=2)
    if not all(parity.holds for parity in parities):
        sys.exit("a difference exceeds its limit")


def machine(device: torch.device, tiny: bool) -> dict[str, Any]:
    """Returns the device and the versions of the packages, for the report."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU",
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "towers": "tiny" if tiny else "ViT-B/16, BERT-base",
        "python": platform.python_version(),
        **versions,
    }


def fused_kernels(device: torch.device) -> bool:
    """Returns whether the state-space layer uses the kernels of mamba_ssm on this device."""
    return mamba_bdam._fused_kernel(torch.zeros(1, device=device), 4, "auto") is not None


@contextmanager
def own_scan() -> Iterator[None]:
    """Makes the state-space layer use our scan on every device, as without mamba_ssm."""
    chosen = mamba_bdam._fused_kernel
    mamba_bdam._fused_kernel = lambda hidden, d_conv, scan: None  # type: ignore[assignment]
    try:
        yield
    finally:
        mamba_bdam._fused_kernel = chosen


def apart(found: Tensor, expected: Tensor) -> float:
    """Returns the largest difference, divided by the largest expected value."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((found - expected).abs().max() / expected.abs().max())


def kernel_parity(device: torch.device) -> Iterator[Parity]:
    """Compares the kernels of mamba_ssm with our scan in float32: outputs and all gradients, for 1 and 274 steps."""
    block = MambaBlock(256).to(device)
    for length in (1, 274):
        inputs = torch.randn(8, length, 256, device=device)  # [B, L, D]
        towards = torch.randn_like(inputs)
        with own_scan():
            expected = _output_and_gradients(block, inputs, towards, torch.float32)
        for dtype, allowed in ((torch.float32, 1e-3), (torch.bfloat16, 3e-2)):
            found = _output_and_gradients(block, inputs, towards, dtype)
            worst = max(found, key=lambda name: apart(found[name], expected[name]))
            name = str(dtype).removeprefix("torch.")
            yield Parity(
                f"kernels, {length} steps, {name}: output", apart(found["output"], expected["output"]), allowed
            )
            yield Parity(
                f"kernels, {length} steps, {name}: worst ({worst})", apart(found[worst], expected[worst]), 2 * allowed
            )


def _output_and_gradients(block: nn.Module, inputs: Tensor, towards: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    block.zero_grad()
    inputs = inputs.clone().requires_grad_()
    with torch.autocast(inputs.device.type, dtype, enabled=dtype != torch.float32):
        output = block(inputs)
    output.float().backward(towards)
    # With one step there is no decay: the gradient of A is zero up to rounding, so it is not compared.
    parameters = {name: parameter.grad for name, parameter in block.named_parameters() if name != "A_log"}
    if inputs.shape[1] > 1:
        parameters["A_log"] = block.get_parameter("A_log").grad
    found = {"output": output, "input": inputs.grad, **parameters}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


@torch.no_grad()  # not inference_mode, in which moved parameters could not be trained later
def model_parity(model: BDAMModel, device: torch.device) -> Iterator[Parity]:
    """Compares embeddings on the device in float32, bf16 and fp16 with those of the CPU in float32."""
    move(model.eval(), torch.device("cpu"))
    batch = random_batch(4, TEXT_LENGTH)
    expected = _embeddings(model, batch)
    move(model, device)
    batch = {name: value.to(device) for name, value in batch.items()}
    for what, dtype, allowed in (
        ("float32", torch.float32, 1e-3),
        ("bf16 autocast", torch.bfloat16, 5e-2),
        ("fp16 autocast", torch.float16, 1e-2),
    ):
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            found = _embeddings(model, batch)
        for side, vectors in found.items():
            yield Parity(f"{side}: {device.type}, {what}, against the CPU", apart(vectors, expected[side]), allowed)


def _embeddings(model: BDAMModel, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    pixels, ids, mask = batch["pixel_values"], batch["input_ids"], batch["attention_mask"]
    return {
        "images": model.get_image_features(pixels).pooler_output,
        "texts": model.get_text_features(ids, mask).pooler_output,
        "described images": model.get_image_features(pixels, ids, mask).pooler_output,
    }


class Clock:
    """Times two steps in turns, so that other load on the device affects both equally.

    Args:
        device: device of the steps.
        pairs: timed calls of each, after two that warm up.
    """

    def __init__(self, device: torch.device, pairs: int) -> None:
        self.device = device
        self.pairs = pairs

    def compare(self, what: str, batch: int, ours: Callable[[], object], bare: Callable[[], object] | None) -> Speed:
        """Returns the medians of both under bf16 autocast, with device synchronization."""
        times: list[tuple[float, float]] = []
        peak = None
        with torch.autocast(self.device.type, torch.bfloat16):
            for number in range(self.pairs + 2):
                if number == 2 and self.device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                ours_ms = self._milliseconds(ours)
                if number == 2 and self.device.type == "cuda":
                    peak = torch.cuda.max_memory_allocated() / 2**30
                bare_ms = self._milliseconds(bare) if bare is not None else 0.0
                if number >= 2:
                    times.append((ours_ms, bare_ms))
        ours_median, bare_median = (statistics.median(column) for column in zip(*times, strict=True))
        return Speed(what, batch, ours_median, None if bare is None else bare_median, peak)

    def _milliseconds(self, step: Callable[[], object]) -> float:
        self._wait()
        start = time.perf_counter()
        step()
        self._wait()
        return 1000 * (time.perf_counter() - start)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


@torch.no_grad()  # not inference_mode, in which moved parameters could not be trained later
def embed_speed(model: BDAMModel, clock: Clock, size: int) -> Iterator[Speed]:
    """Compares image, text and fused embeddings with the towers that they call."""
    move(model.eval(), clock.device)
    batch = {name: value.to(clock.device) for name, value in random_batch(size, TEXT_LENGTH).items()}
    pixels, ids, mask = batch["pixel_values"], batch["input_ids"], batch["attention_mask"]

    def image_tower() -> None:
        model.vision_model(pixel_values=pixels)

    def text_tower() -> None:
        model.text_model(input_ids=ids, attention_mask=mask)

    def both_towers() -> None:
        image_tower()
        text_tower()

    yield clock.compare("image embed", size, lambda: model.get_image_features(pixels), image_tower)
    yield clock.compare("text embed", size, lambda: model.get_text_features(ids, mask), text_tower)
    described = "image + description, fused"
    yield clock.compare(described, size, lambda: model.get_image_features(pixels, ids, mask), both_towers)


@torch.no_grad()  # not inference_mode, in which moved parameters could not be trained later
def fusion_speed(clock: Clock, size: int, tiny: bool, kernels: bool) -> Iterator[Speed]:
    """Times only the fusion head, on one vector per modality and on the tokens of both, with each available scan."""
    for sequence, image_tokens, text_tokens in (("global", 1, 1), ("token", 197, TEXT_LENGTH)):
        config = BDAMConfig(**{**(TINY if tiny else {}), "fusion_sequence": sequence})
        head = BDAMModel(config).fusion.to(clock.device).eval()
        image = torch.randn(size, image_tokens, config.hidden_size, device=clock.device)
        text = torch.randn(size, text_tokens, config.hidden_size, device=clock.device)
        what = f"fusion head, {image_tokens + text_tokens if sequence == 'token' else 1} steps"
        if kernels:
            yield clock.compare(f"{what}, kernels", size, lambda: head(image, text, None), None)  # noqa: B023
        with own_scan():
            yield clock.compare(f"{what}, own scan", size, lambda: head(image, text, None), None)  # noqa: B023


def train_speed(trainer: BDAMTrainer, clock: Clock, size: int) -> Iterator[Speed]:
    """Compares the step of the trainer (all losses, GradNorm, AdamW) with forward and backward of the towers and BDAM.

    The bare steps have the same images, three texts and AdamW on the same parameters.
    """
    model = trainer.model
    assert isinstance(model, BDAMModel)
    move(model.train(), clock.device)
    trainer.accelerator.prepare_model(model)  # `train()` would do it: bf16 in the forward pass
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=clock.device.type == "cuda")
    batch = {name: value.to(clock.device) for name, value in random_batch(size, TEXT_LENGTH).items()}
    texts = [
        {"input_ids": batch[f"{kind}input_ids"], "attention_mask": batch[f"{kind}attention_mask"]} for kind in TEXTS
    ]

    def ours() -> None:
        with torch.autocast(clock.device.type, enabled=False):  # the trainer uses autocast only in the forward pass
            trainer.training_step(model, dict(batch))

    def towers() -> None:
        states = [model.vision_model(pixel_values=batch["pixel_values"]), *(model.text_model(**text) for text in texts)]
        torch.stack([state.last_hidden_state.float().sum() for state in states]).sum().backward()

    def update_after(backward: Callable[[], None]) -> Callable[[], None]:
        def step() -> None:
            backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    for what, bare in (("the towers", towers), ("towers and BDAM", lambda: bare_step(model, batch))):
        yield clock.compare(f"train step, beside {what}", size, update_after(ours), update_after(bare))


def move(model: nn.Module, device: torch.device) -> None:
    """Moves a module; the `to` of transformers models has no types."""
    model.to(device)


if __name__ == "__main__":
    main()
