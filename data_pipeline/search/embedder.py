"""A model as a gallery uses it: images and sentences in, vectors out."""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedConfig

from modeling_bdam import BDAMModel, BDAMProcessor

from ..batches.collator import PixelBatcher

_DIGITS = 16  # of a fingerprint, in hexadecimal
# What a config says of the file it was read from, or of the way a model is run, and not of what it computes.
_VOLATILE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "auto_map")
_PIECES_OF_A_KNOWN_WORD = 2.5


class Embedder:
    """A model with its processor, on its device, in evaluation mode.

    On hardware that computes in bfloat16 images are embedded in it, which is twice as fast; the vectors are float32.

    Attributes:
        name: folder (absolute) or Hub name that the model was loaded from.
        weights: fingerprint of the weights, whatever their names and order.
        config: fingerprint of what else decides a vector: the config and the image processor.
        dimensions: length of a vector.
        clothing_weight: the model's own β.
    """

    def __init__(self, model: BDAMModel, processor: BDAMProcessor, name: str, device: str | None = None) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model.eval()
        self.model.to(device=self.device)
        self.processor = processor
        self.pixels = PixelBatcher(processor.image_processor)
        self.name = name
        self.weights = _weights_fingerprint(model)
        self.config = _config_fingerprint(model.config, processor)
        self.dimensions = 2 * model.config.projection_dim
        self.clothing_weight = float(model.config.clothing_weight)
        self.in_bfloat16 = _computes_in_bfloat16(self.device)

    @classmethod
    def load(cls, name: str | Path, device: str | None = None) -> "Embedder":
        """A model from a folder or from the Hub.

        Raises:
            OSError: there is no such model, or it cannot be read.
            ValueError: it is another kind of model.
        """
        folder = Path(name)
        if not folder.is_dir() and (str(name).count("/") != 1 or str(name).startswith((".", "/", "~"))):
            raise FileNotFoundError(f"model {name}: no such folder, and no name of the Hub (owner/name) either")
        kind = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
        if kind != "bdam":
            raise ValueError(f"model {name}: a gallery needs a model of type bdam, and this is {kind or 'no model'}")
        shown = str(folder.resolve()) if folder.is_dir() else str(name)
        return cls(BDAMModel.from_pretrained(name), BDAMProcessor.from_pretrained(name), shown, device)

    def describe(self) -> str:
        """The model in words, for messages: name and fingerprints."""
        return f"{self.name} (weights {self.weights}, config {self.config})"

    def embed_images(self, pixels: Sequence[np.ndarray], descriptions: Sequence[str | None]) -> np.ndarray:
        """Gallery vectors of images, float32 [B, dimensions], each half of length 1.

        Args:
            pixels: uint8 [H, W, 3] each, as `pixels.resize` of this class returns them.
            descriptions: of each image, an identity description to fuse with it, or None.
        """
        values = self.pixels.normalize(pixels, len(pixels)).to(self.device, non_blocking=True)
        vectors = np.empty((len(pixels), self.dimensions), dtype=np.float32)
        # A batch holds images with and without descriptions; each kind goes through the model by itself.
        for described in (False, True):
            rows = [row for row, text in enumerate(descriptions) if (text is not None) == described]
            if rows:
                texts = [descriptions[row] or "" for row in rows] if described else None
                vectors[rows] = self._embed(values if len(rows) == len(pixels) else values[rows], texts)
        return vectors

    def embed_image(self, image: Image.Image) -> np.ndarray:
        """The gallery vector of one image, [dimensions]."""
        return self.embed_images([self.pixels.resize(image)], [None])[0]

    @torch.inference_mode()
    def embed_sentence(self, sentence: str) -> np.ndarray:
        """The query vector of a sentence, float32 [dimensions], before its clothing half is scaled by β.

        Raises:
            ValueError: the sentence is empty, or holds nothing that the model's tokenizer knows.
        """
        if not sentence.strip():
            raise ValueError("the sentence is empty: describe the person to look for")
        tokenizer = self.processor.tokenizer
        pieces = tokenizer(sentence, add_special_tokens=False, truncation=True)["input_ids"]
        if all(piece == tokenizer.unk_token_id for piece in pieces):
            raise ValueError(
                f"the model knows no word of {_shorten(sentence)!r}: write it in the language that the model was "
                "trained on"
            )
        tokens = self.processor(text=[sentence], return_tensors="pt").to(self.device)
        features = self.model.get_text_features(tokens["input_ids"], tokens["attention_mask"])
        return features.pooler_output[0].float().cpu().numpy()

    def remark(self, sentence: str) -> str | None:
        """One line about what the model cannot read in a sentence, or None: foreign words, or more than it takes."""
        tokenizer = self.processor.tokenizer
        words = sentence.split()
        pieces = [tokenizer(word, add_special_tokens=False, verbose=False)["input_ids"] for word in words]
        count = sum(len(word) for word in pieces) + tokenizer.num_special_tokens_to_add()
        if count > tokenizer.model_max_length:
            return f"the sentence has {count} tokens; the model reads the first {tokenizer.model_max_length}"
        odd = [
            word
            for word, ids in zip(words, pieces, strict=True)
            if tokenizer.unk_token_id in ids or len(ids) > _PIECES_OF_A_KNOWN_WORD
        ]
        if 2 * len(odd) > len(words):
            return (
                f"the model does not know most words of the sentence ({_shorten(', '.join(odd))}): is it in the "
                "language that the model was trained on?"
            )
        return None

    @torch.inference_mode()
    def _embed(self, pixel_values: Tensor, texts: list[str] | None) -> np.ndarray:
        ids = mask = None
        if texts is not None:
            tokens = self.processor(text=texts, return_tensors="pt").to(self.device)
            ids, mask = tokens["input_ids"], tokens["attention_mask"]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.in_bfloat16):
            features = self.model.get_image_features(
                pixel_values=pixel_values, identity_input_ids=ids, identity_attention_mask=mask
            )
        halves = features.pooler_output.float().unflatten(-1, (2, -1))  # [B, 2, projection_dim]
        # Rounded to bfloat16 a half is no longer of length 1.
        return torch.nn.functional.normalize(halves, dim=-1).flatten(-2).cpu().numpy()


def _weights_fingerprint(model: BDAMModel) -> str:
    """A digest of all tensors that does not depend on their names, which differ between versions of transformers."""
    tensors = sorted(_tensor_digest(tensor) for tensor in model.state_dict().values())
    return hashlib.sha256(b"".join(tensors)).hexdigest()[:_DIGITS]


def _tensor_digest(tensor: Tensor) -> bytes:
    values = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{values.dtype} {tuple(values.shape)}".encode())
    digest.update(values.view(-1).view(torch.uint8).numpy().data if values.numel() else b"")
    return digest.digest()


def _config_fingerprint(config: PreTrainedConfig, processor: BDAMProcessor) -> str:
    parts = [_lasting(config.to_dict()), _lasting(processor.image_processor.to_dict())]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:_DIGITS]


def _lasting(value: Any) -> Any:
    """A config without its volatile fields, at every depth; whole floats and integers are alike."""
    if isinstance(value, dict):
        return {key: _lasting(item) for key, item in value.items() if key not in _VOLATILE}
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return int(value)
    return [_lasting(item) for item in value] if isinstance(value, list | tuple) else value


def _computes_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return device.type == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _shorten(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
