"""Exports the image and the text encoder of a model to ONNX, for runtimes without torch, and quantizes them to 8 bits.

    files = export_onnx(model, "outputs/onnx", image_size=(384, 128))
    embedder = OnnxEmbedder(quantize_int8(files.image), files.text)

Needs the extra `onnx` of this package.
"""

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..modeling_bdam import BDAMModel

PathLike = str | os.PathLike[str]


@dataclass
class OnnxFiles:
    """Paths of the two exported encoders, and of the matching head if it was exported."""

    image: Path
    text: Path
    match: Path | None = None


class _Encoder(nn.Module):
    def __init__(self, model: BDAMModel) -> None:
        super().__init__()
        self.model = model


class ImageSide(_Encoder):
    """Pixels [B, 3, H, W] to `pooler_output` [B, 2 * projection_dim] of `BDAMModel.get_image_features`.

    Of a model with a matching head, also to `matching_tokens` [B, 2L, D].
    """

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        features = self.model.get_image_features(pixel_values, return_dict=True)
        return _without_none(features.pooler_output, features.matching_tokens)


class TextSide(_Encoder):
    """Token ids and mask [B, T] to `pooler_output` [B, 2 * projection_dim] of `BDAMModel.get_text_features`.

    Of a model with a matching head, also to `last_hidden_state` [B, T, D].
    """

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        features = self.model.get_text_features(input_ids, attention_mask, return_dict=True)
        return _without_none(
            features.pooler_output, None if self.model.matching is None else features.last_hidden_state
        )


class MatchSide(_Encoder):
    """Tokens [B, 2L, D], [B, T, D] and mask [B, T] of pairs of image and text to match logits [B]."""

    def forward(self, image_tokens: Tensor, text_tokens: Tensor, text_mask: Tensor) -> Tensor:
        return self.model.match(image_tokens[:, None], text_tokens, text_mask)[:, 0]


def _without_none(*tensors: Tensor | None) -> tuple[Tensor, ...]:
    return tuple(tensor for tensor in tensors if tensor is not None)


def export_onnx(
    model: BDAMModel, folder: PathLike, image_size: tuple[int, int], text_length: int | None = None
) -> OnnxFiles:
    """Writes `image.onnx` and `text.onnx`, for batches of any size and texts up to the length limit of the tower.

    Of a model with a matching head, both also return `tokens`, and with `text_length` there is a third file,
    `match.onnx`, which scores pairs of them.

    Args:
        model: moved to the CPU, to float32 and to evaluation mode.
        folder: created if it does not exist.
        image_size: height and width in pixels, those of the processor.
        text_length: fixed number of tokens that texts are padded to. Required with `fusion_sequence="token"`: the
            export unrolls the scan over the tokens. The same for `match.onnx`.

    Raises:
        ImportError: the extra `onnx` is not installed.
        ValueError: the model fuses tokens and `text_length` is not given.
    """
    if model.config.use_fusion and model.config.fusion_sequence == "token" and text_length is None:
        raise ValueError(
            "export_onnx: fusion_sequence='token' needs a fixed text length in ONNX: pass text_length, such as the "
            "tokenizer's model_max_length, and pad every text to it"
        )
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    model = model.eval().to("cpu", torch.float32)
    batch = torch.export.Dim("batch", min=1)
    length = text_length or 8
    lengths = {0: batch} if text_length else {0: batch, 1: torch.export.Dim("length", min=1, max=model.longest_text)}
    ids = torch.ones(2, length, dtype=torch.long)
    with _draft(target) as draft:
        for name, side, inputs, shapes in (
            ("image", ImageSide(model), {"pixel_values": torch.zeros(2, 3, *image_size)}, ({0: batch},)),
            ("text", TextSide(model), {"input_ids": ids, "attention_mask": ids.clone()}, (lengths, lengths)),
        ):
            outputs = ["embeddings", "tokens"][: 1 + (model.matching is not None)]
            _export(side.eval(), inputs, shapes, outputs, draft / f"{name}.onnx")
        if model.matching is None or text_length is None:
            return OnnxFiles(target / "image.onnx", target / "text.onnx")
        with torch.no_grad():
            image = model.get_image_features(torch.zeros(2, 3, *image_size)).matching_tokens
        width = model.config.hidden_size
        pairs = {"image_tokens": image, "text_tokens": torch.zeros(2, length, width), "text_mask": ids}
        _export(MatchSide(model).eval(), pairs, ({0: batch},) * 3, ["logits"], draft / "match.onnx")
    return OnnxFiles(target / "image.onnx", target / "text.onnx", target / "match.onnx")


def quantize_int8(path: PathLike) -> Path:
    """Quantizes an exported encoder to 8 bits, writes `image.onnx` as `image_int8.onnx`, and returns the new path.

    Weights of matrix products become 8-bit integers with one scale per column; activations are quantized dynamically.
    Convolutions are not quantized, since 8-bit convolutions of onnxruntime are slower.

    Raises:
        ImportError: the extra `onnx` is not installed.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = Path(path)
    target = path.with_name(f"{path.stem}_int8.onnx")
    with _draft(path.parent) as draft, _quiet():
        products = ["MatMul", "Gemm"]
        quantize_dynamic(path, draft / target.name, products, per_channel=True, weight_type=QuantType.QInt8)
    return target


class OnnxEmbedder:
    """Embeds images and texts with exported encoders, in onnxruntime on the CPU.

    Args:
        image: path of the image encoder.
        text: path of the text encoder.
        threads: threads per call; by default all cores.

    Raises:
        ImportError: the extra `onnx` is not installed.
    """

    def __init__(self, image: PathLike, text: PathLike, threads: int = 0) -> None:
        from onnxruntime import InferenceSession, SessionOptions

        options = SessionOptions()
        options.intra_op_num_threads = threads
        self._image, self._text = (
            InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"]) for path in (image, text)
        )

    def images(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Gallery vectors: [B, 3, H, W] to [B, 2 * projection_dim]."""
        return self._image.run(None, {"pixel_values": pixel_values})[0]

    def texts(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Query vectors: [B, T] each to [B, 2 * projection_dim]; β scales the second half."""
        return self._text.run(None, {"input_ids": input_ids, "attention_mask": attention_mask})[0]


def _export(side: nn.Module, inputs: dict[str, Any], shapes: tuple[dict, ...], outputs: list[str], path: Path) -> None:
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            side,
            tuple(inputs.values()),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(inputs),
            output_names=outputs,
            verbose=False,
        )
        assert program is not None
        program.save(path)


@contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder, and moves its files to `folder` on success; large models have files of raw weights."""
    with tempfile.TemporaryDirectory(prefix=".onnx.", dir=folder) as name:
        yield Path(name)
        for path in Path(name).iterdir():
            os.replace(path, folder / path.name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences warnings of the exporter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


__all__ = ["OnnxEmbedder", "OnnxFiles", "export_onnx", "quantize_int8"]
