"""Retrieval evaluation: encodes a split once, then scores it by each protocol."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..modeling_bdam import BDAMModel
from ..outputs_bdam import weigh_clothing
from .reranking import Candidates, match_candidates
from .retrieval_metrics import retrieval_metrics

UNKNOWN_PERSON = UNKNOWN_OUTFIT = -1
Row = dict[str, Any]
_BY_TOKEN = {"tokens", "mask"}


@dataclass
class EncodedSplit:
    """Vectors of the images and captions of a split, on the CPU; queries contain no image information.

    Attributes:
        gallery: `pooler_output` of each image, [G, 2 * projection_dim].
        described_gallery: each image fused with its own identity description, as `gallery`; None without descriptions.
        gallery_ids, gallery_outfits: person and outfit of each image, [G].
        queries: `pooler_output` of each caption, [Q, 2 * projection_dim].
        query_rows: gallery row of the image that each caption describes, [Q].
        candidates: the first images of each caption with match logits; None for a model without a matching head.
        image_weight: mean weight of the image in `described_gallery`; None without a fusion gate.
    """

    gallery: Tensor
    described_gallery: Tensor | None
    gallery_ids: Tensor
    gallery_outfits: Tensor
    queries: Tensor
    query_rows: Tensor
    candidates: Candidates | None = None
    image_weight: float | None = None

    def weighted_queries(self, clothing_weight: float) -> Tensor:
        """Scales the clothing half of the queries by β: the dot product with a gallery vector is `s_id + β s_clo`."""
        return weigh_clothing(self.queries, clothing_weight)

    def standard(self, clothing_weight: float) -> dict[str, float]:
        """Scores every caption against every image; images of the same person are correct."""
        return self._score(self.gallery, clothing_weight)

    def described(self, clothing_weight: float) -> dict[str, float]:
        """Scores every caption against every image fused with its description."""
        if self.described_gallery is None:
            raise ValueError(
                "this split has no identity descriptions, so there is no described gallery; add --descriptions"
            )
        return self._score(self.described_gallery, clothing_weight)

    def clothes_changing(self, clothing_weight: float) -> dict[str, float]:
        """As `standard`, without images of the same person in the same clothes."""
        return self._score(self.gallery, clothing_weight, self.gallery_outfits)

    def composed(self, clothing_weight: float) -> dict[str, float]:
        """Scores queries of a picture and words: the identity half of a picture, the clothing half of a caption.

        Each caption is composed with one picture of the same person in another outfit. Images of this person in the
        outfit of the caption are correct, among them the image that the caption describes, as in `standard`. Images of
        this person in other outfits, among them the query picture, are neither positives nor negatives, as in
        `clothes_changing`.

        Returns:
            `rank1`, ... of the composed queries; `picture_rank1`, ... of the pictures, with β = 0, since their clothes
            are others; `words_rank1`, ... of the captions.
        """
        vectors, captions, pictures = self.composed_queries()
        queries = {
            "": weigh_clothing(vectors, clothing_weight),
            "picture_": weigh_clothing(self.gallery[pictures], 0.0),
            "words_": weigh_clothing(self.queries[captions], clothing_weight),
        }
        rows = self.query_rows[captions]
        ids, outfits = (self.gallery_ids[rows], self.gallery_ids), (self.gallery_outfits[rows], self.gallery_outfits)
        metrics: dict[str, float] = {}
        for prefix, embeds in queries.items():
            scored = retrieval_metrics(
                embeds, self.gallery, *ids, query_outfits=outfits[0], gallery_outfits=outfits[1], same_outfit=True
            )
            metrics |= {f"{prefix}{name}": value for name, value in scored.items()}
        return metrics

    def composed_queries(self) -> tuple[Tensor, Tensor, Tensor]:
        """Composes each caption with one of the pictures of the same person in other outfits, all of them in turn.

        Returns:
            the composed vectors, [C, 2 * projection_dim], their captions and the gallery rows of their pictures, [C]
            each. C is the number of captions of people with another outfit.
        """
        captions, pictures = [], []
        for caption, row in enumerate(self.query_rows.tolist()):
            is_other = (self.gallery_ids == self.gallery_ids[row]) & (self.gallery_outfits != self.gallery_outfits[row])
            others = is_other.nonzero()[:, 0].tolist()
            if others:
                captions.append(caption)
                pictures.append(others[caption % len(others)])
        identity, clothing = self.gallery[pictures].chunk(2, dim=1)[0], self.queries[captions].chunk(2, dim=1)[1]
        return torch.cat([identity, clothing], dim=1), torch.tensor(captions), torch.tensor(pictures)

    def reranked(self, clothing_weight: float, matching_weight: float, count: int) -> dict[str, float]:
        """As `standard`; the first K images of each caption are ordered by `s_id + β (s_clo + λ m)`.

        Args:
            clothing_weight: β.
            matching_weight: λ.
            count: K.
        """
        if self.candidates is None:
            raise ValueError("this split was encoded by a model without a matching head, so it cannot be re-ranked")
        candidates = self.candidates.first(count)
        queries, factor = self.weighted_queries(clothing_weight), clothing_weight * matching_weight
        scores = torch.einsum("qd,qkd->qk", queries, self.gallery[candidates.rows]) + factor * candidates.logits
        return self._score(self.gallery, clothing_weight, reranked=(candidates.rows, scores))

    @property
    def changes_clothes(self) -> bool:
        """Whether all outfits are known and at least one person has two, as `clothes_changing` requires."""
        if bool((self.gallery_outfits == UNKNOWN_OUTFIT).any()):
            return False
        pairs = torch.stack([self.gallery_ids, self.gallery_outfits], dim=1).unique(dim=0)
        return len(pairs) > len(self.gallery_ids.unique())

    @property
    def has_compositions(self) -> bool:
        """Whether `composed` has a query: a caption of a person with another outfit."""
        return self.changes_clothes and len(self.composed_queries()[1]) > 0

    def _score(
        self,
        gallery: Tensor,
        clothing_weight: float,
        outfits: Tensor | None = None,
        reranked: tuple[Tensor, Tensor] | None = None,
    ) -> dict[str, float]:
        return retrieval_metrics(
            self.weighted_queries(clothing_weight),
            gallery,
            self.gallery_ids[self.query_rows],
            self.gallery_ids,
            query_outfits=None if outfits is None else outfits[self.query_rows],
            gallery_outfits=outfits,
            reranked=reranked,
        )


def protocol_metrics(
    split: EncodedSplit, clothing_weight: float, matching: tuple[float, int] | None = None
) -> dict[str, float]:
    """Computes the metrics of every protocol that the split supports.

    Args:
        split: the encoded split.
        clothing_weight: β of the standard, described gallery and composed protocols; the clothes-changing protocol uses
            0, at which re-ranking changes nothing.
        matching: λ and K of the re-ranked protocol, for a model with a matching head.

    Returns:
        `rank1`, ... of the standard protocol; `reranked_rank1`, ...; `described_rank1`, ...;
        `clothes_changing_rank1`, ...; `composed_rank1`, ....
    """
    by_prefix = {"": split.standard(clothing_weight)}
    if split.candidates is not None and matching is not None:
        by_prefix["reranked_"] = split.reranked(clothing_weight, *matching)
    if split.described_gallery is not None:
        by_prefix["described_"] = split.described(clothing_weight)
        if split.image_weight is not None:
            by_prefix["described_"]["image_weight"] = split.image_weight
    if split.changes_clothes:
        by_prefix["clothes_changing_"] = split.clothes_changing(0.0)
    if split.has_compositions:
        by_prefix["composed_"] = split.composed(clothing_weight)
    return {f"{prefix}{name}": value for prefix, metrics in by_prefix.items() for name, value in metrics.items()}


def encode_split(
    model: BDAMModel,
    rows: Any,
    collator: Callable[[list[Row]], dict[str, Tensor]],
    batch_size: int,
    accelerator: Accelerator,
    num_workers: int = 0,
    show_progress: bool = True,
    candidates: int = 0,
) -> EncodedSplit:
    """Encodes every image and every caption of a split, divided over all processes.

    Args:
        model: on its device; runs in evaluation mode without gradients, its mode is restored.
        rows: a data set in the common schema (`image`, `person_id`, `outfit_id`, `captions`, ...).
        collator: rows with `image` and/or `caption`, and integers, to tensors.
        batch_size: rows per process and forward pass.
        accelerator: prepares the loaders and gathers the vectors.
        num_workers: loader processes.
        show_progress: shows a progress bar on the main process, if it has a terminal.
        candidates: K, the first images of each caption that the matching head scores; 0 for none.

    Raises:
        ValueError: no row of a known person has a caption.
    """
    gallery_rows, query_rows = GalleryRows(rows), QueryRows(rows)
    if len(query_rows) == 0:
        raise ValueError(
            f"none of the {len(gallery_rows)} images of this split has a caption and a known person, so there is no "
            "query; add captions and person_id"
        )

    def encode(rows: Dataset, label: str, embed: Callable[[BDAMModel, Any], dict[str, Tensor]]) -> dict[str, Tensor]:
        loader: Any = DataLoader(rows, batch_size, collate_fn=collator, num_workers=num_workers)  # type: ignore[arg-type]
        parts: list[dict[str, Tensor]] = []
        hidden = None if show_progress and accelerator.is_main_process else True  # None: shown in a terminal only
        for batch in tqdm(accelerator.prepare(loader), desc=label, leave=False, disable=hidden):
            with accelerator.autocast():
                vectors = embed(model, batch)
            for name in vectors.keys() & _BY_TOKEN:  # the texts of each batch and process are padded differently
                vectors[name] = accelerator.pad_across_processes(vectors[name], dim=1)
            parts.append({name: value.cpu() for name, value in accelerator.gather_for_metrics(vectors).items()})
        return {name: _joined([part[name] for part in parts]) for name in parts[0]}

    was_training = model.training
    model.eval()
    with torch.no_grad():
        gallery = encode(gallery_rows, "encoding images", partial(_embed_images, with_tokens=candidates > 0))
        queries = encode(query_rows, "encoding captions", partial(_embed_captions, with_tokens=candidates > 0))
    split = EncodedSplit(
        gallery["vectors"],
        gallery.get("described"),
        gallery["person_ids"],
        gallery["outfit_ids"],
        queries["vectors"],
        queries["index"],
        image_weight=float(gallery["image_weight"].mean()) if "image_weight" in gallery else None,
    )
    if candidates:
        scores = split.weighted_queries(model.config.clothing_weight) @ split.gallery.T  # [Q, G]
        first = scores.topk(min(candidates, len(split.gallery)), dim=1).indices  # [Q, K]
        tokens = gallery["tokens"], queries["tokens"], queries["mask"]
        split.candidates = match_candidates(model, first, *tokens, accelerator, show_progress=show_progress)
    model.train(was_training)
    return split


def _joined(parts: list[Tensor]) -> Tensor:
    """Concatenates [B, ...]; of tokens [B, T, ...] with different T, the shorter ones are padded by zeros."""
    if parts[0].ndim > 1:
        longest = max(part.shape[1] for part in parts)
        padding = [[0] * (2 * (part.ndim - 2) + 1) + [longest - part.shape[1]] for part in parts]
        parts = [torch.nn.functional.pad(part, pad) for part, pad in zip(parts, padding, strict=True)]
    return torch.cat(parts)


class GalleryRows(Dataset[Row]):
    """Images of a split with person and outfit; `caption` is the identity description if all rows are described.

    Descriptions that are part of the captions are left out: a query would be matched with its own text.
    """

    def __init__(self, rows: Any) -> None:
        self.rows = rows
        described = all(rows["identity_description"]) and all(rows["clothing_description"])
        texts = zip(rows["identity_description"], rows["captions"], strict=True)
        self.described = described and not any(text in caption for text, captions in texts for caption in captions)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        row = self.rows[index]
        item = {"image": row["image"], "person_ids": row["person_id"], "outfit_ids": row["outfit_id"]}
        return item | {"caption": row["identity_description"]} if self.described else item


class QueryRows(Dataset[Row]):
    """Captions of known people, each with the row of its image; images are not decoded."""

    def __init__(self, rows: Any) -> None:
        self.queries = [
            {"caption": caption, "index": index}
            for index, (person, captions) in enumerate(zip(rows["person_id"], rows["captions"], strict=True))
            if person != UNKNOWN_PERSON
            for caption in captions
        ]

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, index: int) -> Row:
        return self.queries[index]


def _embed_images(model: BDAMModel, batch: dict[str, Tensor], with_tokens: bool) -> dict[str, Tensor]:
    output = model(
        pixel_values=batch["pixel_values"],
        identity_input_ids=batch.get("input_ids"),
        identity_attention_mask=batch.get("attention_mask"),
    )
    vectors = {name: batch[name] for name in ("person_ids", "outfit_ids")}
    vectors["vectors"] = output.image_embeds.float()  # [B, 2 * projection_dim]
    if output.fused_identity_embeds is not None:
        described = torch.cat([output.fused_identity_embeds, output.image_clothing_embeds], dim=-1)
        vectors["described"] = described.float()  # [B, 2 * projection_dim]
        if output.fusion_gate is not None:
            vectors["image_weight"] = output.fusion_gate[:, 0].float()  # [B]
    if with_tokens:
        vectors["tokens"] = output.matching_tokens.half()  # [B, 2L, D]
    return vectors


def _embed_captions(model: BDAMModel, batch: dict[str, Tensor], with_tokens: bool) -> dict[str, Tensor]:
    features = model.get_text_features(batch["input_ids"], batch["attention_mask"])
    vectors = {"vectors": features.pooler_output.float(), "index": batch["index"]}
    if with_tokens:
        vectors |= {"tokens": features.last_hidden_state.half(), "mask": batch["attention_mask"]}  # [B, T, D], [B, T]
    return vectors


def chance_metrics(split: EncodedSplit, seed: int = 0) -> dict[str, float]:
    """Computes `protocol_metrics` of random vectors: the level of chance."""
    generator = torch.Generator().manual_seed(seed)
    gallery = torch.randn(len(split.gallery), 64, generator=generator)
    queries = torch.randn(len(split.queries), 64, generator=generator)
    guess = EncodedSplit(gallery, None, split.gallery_ids, split.gallery_outfits, queries, split.query_rows)
    return protocol_metrics(guess, clothing_weight=1.0)
