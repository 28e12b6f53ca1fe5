"""The image side and the text side of a model as ONNX files, for runtimes without torch; and their 8-bit form.

    files = export_onnx(model, "outputs/onnx", image_size=(384, 128))
    embedder = OnnxEmbedder(quantize_int8(files.image), files.text)

Needs the extra `onnx` of this package.
"""

import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..modeling_bdam import BDAMModel

PathLike = str | os.PathLike[str]


@dataclass
class OnnxFiles:
    """Where the two sides lie."""

    image: Path
    text: Path


class ImageSide(nn.Module):
    """Pixels [B, 3, H, W] to `pooler_output` [B, 2 * projection_dim]."""

    def __init__(self, model: BDAMModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """See `BDAMModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, return_dict=True).pooler_output


class TextSide(nn.Module):
    """Token ids and their mask [B, T] to `pooler_output` [B, 2 * projection_dim]."""

    def __init__(self, model: BDAMModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """See `BDAMModel.get_text_features`."""
        return self.model.get_text_features(input_ids, attention_mask, return_dict=True).pooler_output


def export_onnx(
    model: BDAMModel, folder: PathLike, image_size: tuple[int, int], text_length: int | None = None
) -> OnnxFiles:
    """Writes `image.onnx` and `text.onnx`; batches of any size go in, texts of any length that the tower takes.

    Args:
        model: is put in evaluation mode, on the CPU and in float32.
        folder: made if it does not exist.
        image_size: height and width in pixels, as the processor resizes to.
        text_length: tokens of every text, padded to it. Needed with `fusion_sequence="token"`, whose scan is written
            out token by token; otherwise lengths stay free.

    Raises:
        ImportError: the extra `onnx` is not installed.
        ValueError: the model fuses tokens and `text_length` is not given.
    """
    if model.config.use_fusion and model.config.fusion_sequence == "token" and text_length is None:
        raise ValueError(
            "export_onnx: with fusion_sequence='token' texts have one length in ONNX: give text_length, such as the "
            "tokenizer's model_max_length, and pad every text to it"
        )
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    model = model.eval().to("cpu", torch.float32)
    batch = torch.export.Dim("batch", min=1)
    length = text_length or 8
    lengths = {0: batch} if text_length else {0: batch, 1: torch.export.Dim("length", min=1, max=model.longest_text)}
    ids = torch.ones(2, length, dtype=torch.long)
    with tempfile.TemporaryDirectory(prefix=".onnx.", dir=target) as draft:
        for name, side, inputs, shapes in (
            ("image", ImageSide(model), {"pixel_values": torch.zeros(2, 3, *image_size)}, ({0: batch},)),
            ("text", TextSide(model), {"input_ids": ids, "attention_mask": ids.clone()}, (lengths, lengths)),
        ):
            _export(side.eval(), inputs, shapes, Path(draft, f"{name}.onnx"))
        for path in Path(draft).iterdir():
            os.replace(path, target / path.name)
    return OnnxFiles(target / "image.onnx", target / "text.onnx")


def quantize_int8(path: PathLike) -> Path:
    """Writes the 8-bit form beside an exported side, `image.onnx` to `image_int8.onnx`, and returns its path.

    Weights of matrix products are 8-bit integers, one scale a column; activations are rounded as they come.
    Convolutions stay as they are: in 8 bits onnxruntime's are slower.

    Raises:
        ImportError: the extra `onnx` is not installed.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = Path(path)
    target = path.with_name(f"{path.stem}_int8.onnx")
    with tempfile.TemporaryDirectory(prefix=".onnx.", dir=path.parent) as draft, _quiet():
        quantize_dynamic(
            path,
            Path(draft, target.name),
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
        for written in Path(draft).iterdir():
            shutil.move(written, target.parent / written.name)
    return target


class OnnxEmbedder:
    """Embeds images and texts by exported sides, in onnxruntime on the CPU.

    Args:
        image: path of the image side.
        text: path of the text side.
        threads: of one call; by default every core.

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
        """Query vectors: [B, T] each to [B, 2 * projection_dim]; β goes on the second half."""
        return self._text.run(None, {"input_ids": input_ids, "attention_mask": attention_mask})[0]


def _export(side: nn.Module, inputs: dict[str, Tensor], shapes: tuple[dict, ...], path: Path) -> None:
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            side,
            tuple(inputs.values()),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(inputs),
            output_names=["embeddings"],
            verbose=False,
        )
        assert program is not None
        program.save(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes to its own developers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


__all__ = ["OnnxEmbedder", "OnnxFiles", "export_onnx", "quantize_int8"]
