"""Embeds sentences without building the model: a traced text tower, with the weights of the model files.

Building a model imports most of transformers, which takes longer than a search. So indexing traces the text tower and
stores the graph, the tokenizer and the places of the weights in the index folder. A changed model file, an accelerator,
a long sentence or an image query loads the whole model instead.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import Tensor, nn

from modeling_bdam.files import atomic_folder

if TYPE_CHECKING:
    from .embedder import Embedder

FOLDER = "query-encoder"
_FACTS, _GRAPH, _TOKENIZER = "facts.json", "graph.pt", "tokenizer.json"
_LONGEST = 64  # tokens; sentences are padded to this length, because a traced graph has one
_TOLERANCE = 1e-5
_SAMPLES = ("a man", "a young woman in a red coat, black trousers and white shoes, carrying a grey backpack " * 2)
_IMAGE_PARTS = (
    "vision_model.",
    "vision_projection.",
    "visual_projection.",
    "decoupling.",
    "image_clothing_head.",
    "adversarial_",
    "matching.",
)


class QueryTokenizer:
    """A tokenizer with the part of the interface of transformers that `sentence_remarks` needs."""

    def __init__(self, file: Path, facts: dict[str, Any]) -> None:
        self._tokenizer = Tokenizer.from_file(str(file))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.unk_token_id: int | None = facts["unk_token_id"]
        self.model_max_length: int = facts["model_max_length"]

    def __call__(self, text: str, add_special_tokens: bool = True, verbose: bool = True) -> dict[str, list[int]]:
        """Returns the token ids of a text, `{"input_ids": [...]}`."""
        return {"input_ids": self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids}

    def num_special_tokens_to_add(self) -> int:
        """Returns the number of special tokens of each text."""
        return self._tokenizer.num_special_tokens_to_add(False)


class QueryEncoder:
    """Embeds sentences by the traced text tower in an index folder; see `open_query_encoder`."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.tokenizer = QueryTokenizer(folder / _TOKENIZER, facts)
        self._length, self._pad = facts["length"], facts["pad_token_id"]
        self.score_calibration: dict[str, Any] | None = facts.get("score_calibration")  # not in earlier indexes
        with warnings.catch_warnings(action="ignore"):
            self._graph = torch.jit.load(str(folder / _GRAPH))
        tensors: dict[tuple[str, str], Tensor] = {}
        for file in {file for file, _ in facts["weights"]}:
            with safe_open(file, "pt") as opened:
                tensors |= {(file, key): opened.get_tensor(key) for each, key in facts["weights"] if each == file}
        self._weights = [tensors[file, key] for file, key in facts["weights"]]

    @torch.inference_mode()
    def embed_sentence(self, sentence: str) -> np.ndarray | None:
        """Returns the vector of a sentence as `Embedder.embed_sentence`; None for one that needs the whole model."""
        ids = self.tokenizer(sentence)["input_ids"]
        pieces = self.tokenizer(sentence, add_special_tokens=False)["input_ids"]
        if len(ids) > self._length or all(piece == self.tokenizer.unk_token_id for piece in pieces):
            return None
        padding = self._length - len(ids)
        mask = torch.tensor([[1] * len(ids) + [0] * padding])  # [1, L]
        return self._graph(torch.tensor([ids + [self._pad] * padding]), mask, *self._weights)[0].numpy()


def open_query_encoder(index: Path, model: str, weights: str, config: str) -> QueryEncoder | None:
    """Opens the encoder in an index folder; None if there is none for this model, or the model's files have changed."""
    folder = index / FOLDER
    try:
        facts = json.loads((folder / _FACTS).read_text())
        if [facts["model"], facts["fingerprints"]] != [model, [weights, config]]:
            return None
        if any(_stamp(Path(file)) != stamp for file, stamp in facts["files"].items()):
            return None
        return QueryEncoder(folder, facts)
    except Exception:  # missing or damaged; tokenizers raises `Exception` itself
        return None


def write_query_encoder(index: Path, embedder: "Embedder") -> bool:
    """Writes the encoder of a model to an index folder unless it is there; returns whether there is one.

    There is none for a model on an accelerator, one without files, or if its traced graph has other results.
    """
    model = _folder(embedder.name)
    if embedder.device.type != "cpu" or model is None:
        return False
    if open_query_encoder(index, embedder.name, embedder.weights, embedder.config) is not None:
        return True
    files = {str(file): _stamp(file) for file in sorted(model.glob("*.safetensors"))}
    named = {
        name: tensor
        for name, tensor in [*embedder.model.named_parameters(), *embedder.model.named_buffers()]
        if not name.startswith(_IMAGE_PARTS)
    }
    places = _places(files, [tensor for tensor in named.values() if isinstance(tensor, nn.Parameter)])
    parameters = [name for name, tensor in named.items() if isinstance(tensor, nn.Parameter)]
    if len(places) < len(parameters):
        return False
    tokenizer = embedder.processor.tokenizer
    length = min(_LONGEST, tokenizer.model_max_length)
    graph = _traced(embedder, parameters, length)
    if graph is None:
        return False
    facts = {
        "model": embedder.name,
        "fingerprints": [embedder.weights, embedder.config],
        "files": files,
        "weights": places,
        "length": length,
        "pad_token_id": tokenizer.pad_token_id,
        "unk_token_id": tokenizer.unk_token_id,
        "model_max_length": tokenizer.model_max_length,
        "score_calibration": embedder.model.config.score_calibration,
    }
    _remove(index / FOLDER)
    with atomic_folder(index / FOLDER) as folder:
        with warnings.catch_warnings(action="ignore"):
            torch.jit.save(graph, str(folder / _GRAPH))
        (folder / _TOKENIZER).write_text(tokenizer.backend_tokenizer.to_str(), encoding="utf-8")
        (folder / _FACTS).write_text(json.dumps(facts))
    encoder = open_query_encoder(index, embedder.name, embedder.weights, embedder.config)
    for sentence in _SAMPLES:
        found = None if encoder is None else encoder.embed_sentence(sentence)
        if encoder is None or (found is not None and _differs(found, embedder.embed_sentence(sentence))):
            _remove(index / FOLDER)
            return False
    return True


def _folder(model: str) -> Path | None:
    """Returns the folder of a model, for a Hub name that of its cached snapshot."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(model, "config.json")
    return Path(config).parent if isinstance(config, str) else None


def _traced(embedder: "Embedder", parameters: list[str], length: int) -> Any:
    """Traces the text tower as a function of ids, mask and the parameters; None if it cannot be traced."""
    model = embedder.model
    owners = [(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in parameters]
    own = [owner._parameters[name] for owner, name in owners]

    def encode(ids: Tensor, mask: Tensor, *values: Tensor) -> Tensor:
        for (owner, name), value in zip(owners, values, strict=True):
            owner._parameters.pop(name, None)
            owner.__dict__[name] = value  # a plain tensor, which becomes an input of the graph
        return model.get_text_features(ids, mask).pooler_output

    ids = torch.full((1, length), embedder.processor.tokenizer.pad_token_id or 0)
    mask = (torch.arange(length) < length // 2).long()[None]
    try:
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            values = [value.detach() for value in own if value is not None]
            return torch.jit.trace(encode, (ids, mask, *values), check_trace=False)
    except (RuntimeError, TypeError, ValueError, AttributeError):
        return None
    finally:
        for (owner, name), value in zip(owners, own, strict=True):
            owner.__dict__.pop(name, None)
            owner._parameters[name] = value


def _places(files: dict[str, list[int]], wanted: list[Tensor]) -> list[tuple[str, str]]:
    """Returns file and key of each tensor by its content: names on a disk differ from those in memory."""
    shapes = {tuple(tensor.shape) for tensor in wanted}
    found: dict[str, tuple[str, str]] = {}
    for file, key, tensor in _stored(files):
        if tuple(tensor.shape) in shapes:
            found.setdefault(_digest(tensor), (file, key))
    return [found[digest] for digest in map(_digest, wanted) if digest in found]


def _stored(files: dict[str, list[int]]) -> Iterator[tuple[str, str, Tensor]]:
    for file in files:
        with safe_open(file, "pt") as opened:
            for key in opened.keys():  # noqa: SIM118 - no mapping
                yield file, key, opened.get_tensor(key)


def _digest(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{values.dtype} {tuple(values.shape)}".encode())
    digest.update(values.view(-1).view(torch.uint8).numpy().data if values.numel() else b"")
    return digest.hexdigest()


def _differs(one: np.ndarray, other: np.ndarray) -> bool:
    return not np.allclose(one, other, atol=_TOLERANCE)


def _remove(folder: Path) -> None:
    for file in folder.glob("*"):
        file.unlink()
    if folder.is_dir():
        folder.rmdir()


def _stamp(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]
