"""Embeddings of texts by an encoder of the Hub or of a folder, kept on the disk for the next time."""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import config as datasets_config
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModel, AutoTokenizer, BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

_TEXTS_A_FILE = 4096
_UNUSED = "pooler."  # BERT's, over its first token


class StyleEncoder:
    """A text encoder with its tokenizer.

    A model that has a text tower beside an image tower (CLIP) gives its text features, a plain encoder the mean
    over its tokens.

    Args:
        model: on any device, in any mode; it is set to evaluation.
        tokenizer: the model's own.
        cache_dir: where embeddings are kept; a folder in the cache of `datasets` by default.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        cache_dir: str | Path | None = None,
    ) -> None:
        self.name = name
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._has_image_tower = "vision_config" in model.config.sub_configs
        self._max_length = min(tokenizer.model_max_length, int(model.config.get_text_config().max_position_embeddings))
        self._cache = Path(cache_dir or datasets_config.HF_DATASETS_CACHE) / "style_embeddings"
        self._fingerprint = _fingerprint(model, tokenizer)

    @classmethod
    def load(cls, name: str, device: str | None = None, cache_dir: str | Path | None = None) -> "StyleEncoder":
        """An encoder from a folder or from the Hub.

        Raises:
            OSError: there is no such model, or it cannot be read.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(name)
            model, loaded = AutoModel.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
        except (OSError, ValueError) as error:
            raise OSError(
                f"style encoder {name}: {' '.join(str(error).split())} Name a folder or a Hub id of a CLIP model or a "
                "sentence encoder (--style-encoder)"
            ) from None
        missing = sorted(key for key in loaded["missing_keys"] if not key.startswith(_UNUSED))
        if missing:
            raise OSError(f"style encoder {name}: {len(missing)} weights are missing in it, such as {missing[0]}")
        return cls(model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")), tokenizer, name, cache_dir)

    def embed(self, texts: Sequence[str], batch_size: int = 64, progress: bool = True) -> np.ndarray:
        """Embeds texts, float32 [N, D], each of length 1. Equal texts are embedded once and get equal vectors.

        Embeddings are kept by the content of encoder and texts, 4096 a file, so that a stopped run goes on.

        Raises:
            OSError: the cache cannot be written.
        """
        distinct = sorted(set(texts), key=lambda text: (len(text), text))  # neighbors need little padding
        chunks = [distinct[start : start + _TEXTS_A_FILE] for start in range(0, len(distinct), _TEXTS_A_FILE)]
        bar = tqdm(
            total=len(distinct),
            unit=" texts",
            desc="embedding captions",
            disable=not progress,
            mininterval=0.2 if sys.stderr.isatty() else 30.0,
        )
        with bar:
            vectors = np.concatenate([self._embed_chunk(chunk, batch_size, bar) for chunk in chunks])
        place = {text: index for index, text in enumerate(distinct)}
        return vectors[[place[text] for text in texts]]

    def _embed_chunk(self, texts: Sequence[str], batch_size: int, bar: tqdm) -> np.ndarray:
        """The embeddings of texts, from the cache if they are there."""
        file = self._cache / f"{_digest([self._fingerprint, *texts])}.npy"
        if file.is_file():
            bar.update(len(texts))
            return np.load(file)
        parts = []
        for start in range(0, len(texts), batch_size):
            parts.append(self._embed_batch(texts[start : start + batch_size]))
            bar.update(len(parts[-1]))
        vectors = np.concatenate(parts)
        _save(vectors, file)
        return vectors

    @torch.inference_mode()
    def _embed_batch(self, texts: Sequence[str]) -> np.ndarray:
        batch = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=self._max_length, return_tensors="pt"
        ).to(self._model.device)
        vectors = torch.nn.functional.normalize(self._pooled(batch), dim=-1)  # [B, D]
        return vectors.cpu().numpy()

    def _pooled(self, batch: BatchEncoding) -> Tensor:
        """[B, D]"""
        if self._has_image_tower:
            return self._model.get_text_features(**batch).pooler_output
        hidden = self._model(**batch).last_hidden_state  # [B, L, D]
        mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)  # [B, L, 1]
        return (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def _fingerprint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """Stands for all that decides an embedding: weights, vocabulary, architecture."""
    digest = hashlib.sha256(f"{type(model).__name__} {type(tokenizer).__name__}".encode())
    for name, value in sorted(model.state_dict().items()):
        if not name.startswith(_UNUSED):
            digest.update(name.encode())
            digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    digest.update(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode())
    return digest.hexdigest()


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:32]


def _save(vectors: np.ndarray, file: Path) -> None:
    """Writes an array; it appears complete or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=file.parent, suffix=".unfinished")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            np.save(stream, vectors)
        os.replace(draft, file)
    except BaseException:
        os.unlink(draft)
        raise
