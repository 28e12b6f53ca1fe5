"""Embeds the images and sentences of a gallery search."""

import hashlib
import json
import math
import os
import threading
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedConfig

from modeling_bdam import BDAMModel, BDAMProcessor
from modeling_bdam.files import default_device

from ..batches.collator import PixelBatcher
from ..offline import go_offline_if_unreachable
from .sentence_checks import check_sentence, sentence_remarks, shorten

_DIGITS = 16  # hexadecimal digits of a fingerprint
# Config fields that do not affect the vectors
_VOLATILE = (
    "_name_or_path",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "architectures",
    "auto_map",
    "score_calibration",
)


class Embedder:
    """A model in evaluation mode with its processor.

    Images are embedded under bfloat16 autocast where the hardware supports it, which is twice as fast; the vectors are
    float32.

    Attributes:
        name: absolute folder or Hub name of the model.
        weights: fingerprint of the weights, independent of their names and order.
        config: fingerprint of the config and the image processor.
        dimensions: length of a vector, twice `projection_dim`.
        clothing_weight: the model's default β.
    """

    def __init__(self, model: BDAMModel, processor: BDAMProcessor, name: str, device: str | None = None) -> None:
        self.device = _usable_device(device or default_device())
        self.model = model.eval()
        self.model.to(device=self.device)
        self.processor = processor
        self._tokenizing = threading.Lock()  # a fast tokenizer keeps padding and truncation, which threads would mix
        self.pixels = PixelBatcher(processor.image_processor)
        self.name = name
        self.weights = _weights_fingerprint(model)
        self.config = _config_fingerprint(model.config, processor)
        self.dimensions = 2 * model.config.projection_dim
        self.clothing_weight = float(model.config.clothing_weight)
        self.in_bfloat16 = _computes_in_bfloat16(self.device)

    @classmethod
    def load(cls, name: str | Path, device: str | None = None) -> "Embedder":
        """Loads a model from a folder or the Hub; raises `OSError`, or `ValueError` if its type is not `bdam`."""
        folder = Path(name)
        if not folder.is_dir() and (str(name).count("/") != 1 or str(name).startswith((".", "/", "~"))):
            raise FileNotFoundError(f"model {name}: no such folder, and not a Hub name (owner/name) either")
        if locked := [file for file in folder.glob("*.safetensors") if not os.access(file, os.R_OK)]:
            raise PermissionError(
                f"{locked[0]}: no permission to read the weights; its owner can allow it by chmod a+r"
            )
        go_offline_if_unreachable(str(name))
        kind = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
        if kind != "bdam":
            raise ValueError(f"model {name}: a gallery needs the model type bdam, but this is {kind or 'no model'}")
        shown = str(folder.resolve()) if folder.is_dir() else str(name)
        return cls(BDAMModel.from_pretrained(name), BDAMProcessor.from_pretrained(name), shown, device)

    def describe(self) -> str:
        """Returns name and fingerprints for a message."""
        return f"{self.name} (weights {self.weights}, config {self.config})"

    def embed_images(self, pixels: Sequence[np.ndarray], descriptions: Sequence[str | None]) -> np.ndarray:
        """Embeds images as gallery vectors, float32 [B, dimensions]; both halves of a vector have unit length.

        Args:
            pixels: uint8 [H, W, 3] each, from `Embedder.pixels.resize`.
            descriptions: an identity description to fuse with each image, or None.
        """
        return self._embed_images(pixels, descriptions)[0]

    def embed_with_tokens(
        self, pixels: Sequence[np.ndarray], descriptions: Sequence[str | None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embeds images as `embed_images`, and returns their tokens for `match` as well, float16 [B, 2L, D].

        Raises:
            ValueError: the model has no matching head.
        """
        self.check_matching()
        vectors, tokens = self._embed_images(pixels, descriptions)
        assert tokens is not None
        return vectors, tokens.half().cpu().numpy()

    @cached_property
    def token_shape(self) -> tuple[int, ...]:
        """The shape of the tokens of one image, (2L, D); raises as `embed_with_tokens`."""
        blank = np.zeros((self.pixels.height, self.pixels.width, 3), dtype=np.uint8)
        return self.embed_with_tokens([blank], [None])[1].shape[1:]

    def embed_image(self, image: Image.Image) -> np.ndarray:
        """Embeds one image as a gallery vector, [dimensions]."""
        return self.embed_images([self.pixels.resize(image)], [None])[0]

    def check_sentence(self, sentence: str) -> None:
        """Raises `ValueError` for a sentence that is empty, no valid Unicode, or has only unknown tokens."""
        check_sentence(sentence)
        tokenizer = self.processor.tokenizer
        with self._tokenizing:
            pieces = tokenizer(sentence, add_special_tokens=False, truncation=True)["input_ids"]
        if all(piece == tokenizer.unk_token_id for piece in pieces):
            raise ValueError(
                f"the model's vocabulary has no word of {shorten(sentence)!r}: use the language of its training data"
            )

    def remarks(self, sentence: str) -> list[str]:
        """Returns notes on what the model does not read in a sentence, see `sentence_remarks`."""
        with self._tokenizing:
            return sentence_remarks(sentence, self.processor.tokenizer)

    def embed_sentence(self, sentence: str) -> np.ndarray:
        """Embeds a sentence as a query vector, float32 [dimensions], without β; errors as `check_sentence`."""
        self.check_sentence(sentence)
        return self.embed_sentences([sentence])[0]

    @torch.inference_mode()
    def embed_sentences(self, sentences: Sequence[str]) -> np.ndarray:
        """Embeds sentences that `check_sentence` accepts, float32 [B, dimensions], in one forward pass."""
        tokens = self._tokens(sentences)
        features = self.model.get_text_features(tokens["input_ids"], tokens["attention_mask"])
        return features.pooler_output.float().cpu().numpy()

    def check_matching(self) -> None:
        """Raises `ValueError` if the model has no matching head."""
        if self.model.matching is None:
            raise ValueError(
                "the model has no matching head, so it cannot re-rank: train one with --config_overrides "
                "use_matching=true"
            )

    def image_tokens(self, images: Iterable[Image.Image]) -> np.ndarray:
        """Returns the tokens of images for `match`, float16 [K, 2L, D]; raises as `embed_with_tokens`."""
        pixels = [self.pixels.resize(image) for image in images]
        return self.embed_with_tokens(pixels, [None] * len(pixels))[1]

    @torch.inference_mode()
    def match(self, sentence: str, tokens: Iterable[np.ndarray]) -> np.ndarray:
        """Scores K images by the matching head, λ m, float32 [K].

        Args:
            sentence: a sentence that `check_sentence` accepts.
            tokens: those of the images in parts, float16 [k, 2L, D] each; one part at a time is in memory.

        Raises:
            ValueError: the model has no matching head.
        """
        self.check_matching()
        text = self._tokens([sentence])
        words = self.model.get_text_features(text["input_ids"], text["attention_mask"]).last_hidden_state
        logits = [
            self.model.match(torch.from_numpy(part)[None].to(self.device).float(), words, text["attention_mask"])[0]
            for part in tokens
        ]
        return (self.model.config.matching_weight * torch.cat(logits)).float().cpu().numpy()

    def _tokens(self, texts: Sequence[str]) -> Any:
        with self._tokenizing:
            return self.processor(text=list(texts), return_tensors="pt").to(self.device)

    @torch.inference_mode()
    def _embed_images(
        self, pixels: Sequence[np.ndarray], descriptions: Sequence[str | None]
    ) -> tuple[np.ndarray, Tensor | None]:
        """Returns the vectors of images, float32 [B, dimensions], and their tokens for the matching head if any."""
        values = self.pixels.normalize(pixels, len(pixels)).to(self.device, non_blocking=True)
        vectors = np.empty((len(pixels), self.dimensions), dtype=np.float32)
        tokens: Tensor | None = None
        # Images with and without descriptions need separate forward passes
        for described in (False, True):
            rows = [row for row, text in enumerate(descriptions) if (text is not None) == described]
            if rows:
                texts = [descriptions[row] or "" for row in rows] if described else None
                vectors[rows], found = self._embed(values if len(rows) == len(pixels) else values[rows], texts)
                if found is not None:
                    tokens = found.new_empty(len(pixels), *found.shape[1:]) if tokens is None else tokens
                    tokens[rows] = found
        return vectors, tokens

    def _embed(self, pixel_values: Tensor, texts: list[str] | None) -> tuple[np.ndarray, Tensor | None]:
        ids = mask = None
        if texts is not None:
            tokens = self._tokens(texts)
            ids, mask = tokens["input_ids"], tokens["attention_mask"]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.in_bfloat16):
            features = self.model.get_image_features(
                pixel_values=pixel_values, identity_input_ids=ids, identity_attention_mask=mask
            )
        halves = features.pooler_output.float().unflatten(-1, (2, -1))  # [B, 2, projection_dim]
        # Restores unit length, which rounding to bfloat16 loses
        return torch.nn.functional.normalize(halves, dim=-1).flatten(-2).cpu().numpy(), features.matching_tokens


def _usable_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # unknown, or without a driver
        reason = str(error).strip().partition("\n")[0].partition(". ")[0][:100]
        raise ValueError(
            f"the device {name!r} cannot be used here ({reason}); leave it out for the best one, or use cpu"
        ) from None
    return device


def _weights_fingerprint(model: BDAMModel) -> str:
    """Hashes all tensors without their names, which differ between versions of transformers."""
    digests = []
    for tensor in model.state_dict().values():
        values = tensor.detach().cpu().contiguous()
        digest = hashlib.sha256(f"{values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.view(-1).view(torch.uint8).numpy().data if values.numel() else b"")
        digests.append(digest.digest())
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()[:_DIGITS]


def _config_fingerprint(config: PreTrainedConfig, processor: BDAMProcessor) -> str:
    parts = [_lasting(config.to_dict()), _lasting(processor.image_processor.to_dict())]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:_DIGITS]


def _lasting(value: Any) -> Any:
    """Removes volatile fields from a nested config, and turns whole floats into integers."""
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
