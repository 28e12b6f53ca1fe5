"""Retrieval evaluation: encodes a split once, then scores it by each protocol."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..modeling_bdam import BDAMModel
from ..outputs_bdam import weigh_clothing
from .retrieval_metrics import retrieval_metrics

UNKNOWN_PERSON = UNKNOWN_OUTFIT = -1
Row = dict[str, Any]


@dataclass
class EncodedSplit:
    """Vectors of the images and captions of a split, on the CPU; queries contain no image information.

    Attributes:
        gallery: `pooler_output` of each image, [G, 2 * projection_dim].
        described_gallery: each image fused with its own identity description, as `gallery`; None without descriptions.
        gallery_ids, gallery_outfits: person and outfit of each image, [G].
        queries: `pooler_output` of each caption, [Q, 2 * projection_dim].
        query_rows: gallery row of the image that each caption describes, [Q].
    """

    gallery: Tensor
    described_gallery: Tensor | None
    gallery_ids: Tensor
    gallery_outfits: Tensor
    queries: Tensor
    query_rows: Tensor

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

    @property
    def changes_clothes(self) -> bool:
        """Whether all outfits are known and at least one person has two, as `clothes_changing` requires."""
        if bool((self.gallery_outfits == UNKNOWN_OUTFIT).any()):
            return False
        pairs = torch.stack([self.gallery_ids, self.gallery_outfits], dim=1).unique(dim=0)
        return len(pairs) > len(self.gallery_ids.unique())

    def _score(self, gallery: Tensor, clothing_weight: float, outfits: Tensor | None = None) -> dict[str, float]:
        return retrieval_metrics(
            self.weighted_queries(clothing_weight),
            gallery,
            self.gallery_ids[self.query_rows],
            self.gallery_ids,
            query_outfits=None if outfits is None else outfits[self.query_rows],
            gallery_outfits=outfits,
        )


def protocol_metrics(split: EncodedSplit, clothing_weight: float) -> dict[str, float]:
    """Computes the metrics of every protocol that the split supports.

    Args:
        split: the encoded split.
        clothing_weight: β of the standard and described gallery protocols; the clothes-changing protocol uses 0.

    Returns:
        `rank1`, ... of the standard protocol; `described_rank1`, ...; `clothes_changing_rank1`, ....
    """
    by_prefix = {"": split.standard(clothing_weight)}
    if split.described_gallery is not None:
        by_prefix["described_"] = split.described(clothing_weight)
    if split.changes_clothes:
        by_prefix["clothes_changing_"] = split.clothes_changing(0.0)
    return {f"{prefix}{name}": value for prefix, metrics in by_prefix.items() for name, value in metrics.items()}


def encode_split(
    model: BDAMModel,
    rows: Any,
    collator: Callable[[list[Row]], dict[str, Tensor]],
    batch_size: int,
    accelerator: Accelerator,
    num_workers: int = 0,
    show_progress: bool = True,
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
            parts.append({name: value.cpu() for name, value in accelerator.gather_for_metrics(vectors).items()})
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    was_training = model.training
    model.eval()
    with torch.no_grad():
        gallery = encode(gallery_rows, "encoding images", _embed_images)
        queries = encode(query_rows, "encoding captions", _embed_captions)
    model.train(was_training)
    return EncodedSplit(
        gallery["vectors"],
        gallery.get("described"),
        gallery["person_ids"],
        gallery["outfit_ids"],
        queries["vectors"],
        queries["index"],
    )


class GalleryRows(Dataset[Row]):
    """Images of a split with person and outfit; `caption` is the identity description if all rows are described."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows
        self.described = all(rows["identity_description"]) and all(rows["clothing_description"])

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


def _embed_images(model: BDAMModel, batch: dict[str, Tensor]) -> dict[str, Tensor]:
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
    return vectors


def _embed_captions(model: BDAMModel, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    features = model.get_text_features(batch["input_ids"], batch["attention_mask"])
    return {"vectors": features.pooler_output.float(), "index": batch["index"]}


def chance_metrics(split: EncodedSplit, seed: int = 0) -> dict[str, float]:
    """Computes `protocol_metrics` of random vectors: the level of chance."""
    generator = torch.Generator().manual_seed(seed)
    gallery = torch.randn(len(split.gallery), 64, generator=generator)
    queries = torch.randn(len(split.queries), 64, generator=generator)
    guess = EncodedSplit(gallery, None, split.gallery_ids, split.gallery_outfits, queries, split.query_rows)
    return protocol_metrics(guess, clothing_weight=1.0)
