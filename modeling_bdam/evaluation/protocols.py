"""Retrieval evaluation: encode a split once, then score it by each protocol of section 7."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..modeling_bdam import BDAMModel
from .retrieval_metrics import retrieval_metrics

UNKNOWN_OUTFIT = -1
Row = dict[str, Any]


@dataclass
class EncodedSplit:
    """Vectors of a split's images and captions, on the CPU; a query carries nothing of any image.

    Attributes:
        gallery: `pooler_output` of each image, [G, 2 * projection_dim].
        described_gallery: each image fused with its own identity description, as `gallery`; None without descriptions.
        gallery_ids, gallery_outfits: person and outfit of each image, [G].
        queries: `pooler_output` of each caption, [Q, 2 * projection_dim].
        query_rows: the image that each caption was written for, as a row of the gallery, [Q].
    """

    gallery: Tensor
    described_gallery: Tensor | None
    gallery_ids: Tensor
    gallery_outfits: Tensor
    queries: Tensor
    query_rows: Tensor

    def weighted_queries(self, clothing_weight: float) -> Tensor:
        """Queries whose clothing half is scaled by β: their dot product with a gallery vector is `s_id + β s_clo`."""
        identity, clothing = self.queries.chunk(2, dim=-1)
        return torch.cat([identity, clothing_weight * clothing], dim=-1)

    def standard(self, clothing_weight: float) -> dict[str, float]:
        """Every caption against every image; the same person is a hit."""
        return self._score(self.gallery, clothing_weight)

    def described(self, clothing_weight: float) -> dict[str, float]:
        """Every caption against every image fused with its description; the same person is a hit."""
        if self.described_gallery is None:
            raise ValueError("this split has no identity descriptions, so there is no described gallery")
        return self._score(self.described_gallery, clothing_weight)

    def clothes_changing(self, clothing_weight: float) -> dict[str, float]:
        """As standard, but images of the same person in the same clothes are left out."""
        return self._score(self.gallery, clothing_weight, self.gallery_outfits)

    @property
    def changes_clothes(self) -> bool:
        """Whether all outfits are known and some person wears more than one: what `clothes_changing` needs."""
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
    """All protocols that a split allows, as flat figures.

    Args:
        split: what `encode_split` returned.
        clothing_weight: β of the standard and described protocols. The clothes-changing one looks for people who
            may have changed, so its β is 0.

    Returns:
        `rank1`, ..., of the standard protocol; `described_rank1`, ...; `clothes_changing_rank1`, ....
    """
    metrics = split.standard(clothing_weight)
    if split.described_gallery is not None:
        metrics |= {f"described_{name}": value for name, value in split.described(clothing_weight).items()}
    if split.changes_clothes:
        metrics |= {f"clothes_changing_{name}": value for name, value in split.clothes_changing(0.0).items()}
    return metrics


def encode_split(
    model: BDAMModel,
    rows: Any,
    collator: Callable[[list[Row]], dict[str, Tensor]],
    batch_size: int,
    accelerator: Accelerator,
    num_workers: int = 0,
    show_progress: bool = True,
) -> EncodedSplit:
    """Encodes every image and every caption of a split, shared out over all processes.

    Args:
        model: in any mode and on its device; it is run in evaluation mode, without gradients.
        rows: a data set in the common schema (`image`, `person_id`, `outfit_id`, `captions`, ...).
        collator: rows with `image` and/or `caption`, and integers, to tensors.
        batch_size: rows of one process at a time.
        accelerator: prepares the loaders and gathers the vectors.
        num_workers: loader processes.
        show_progress: a progress bar on the main process.

    Raises:
        ValueError: no row has a caption.
    """
    gallery_rows, query_rows = GalleryRows(rows), QueryRows(rows)
    if len(query_rows) == 0:
        raise ValueError(f"none of the {len(gallery_rows)} images of this split has a caption, so there is no query")

    def encode(
        dataset: Dataset, what: str, embed: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        loader = accelerator.prepare(
            DataLoader(dataset, batch_size, collate_fn=collator, num_workers=num_workers)  # type: ignore[arg-type]
        )
        parts: list[dict[str, Tensor]] = []
        hidden = None if show_progress and accelerator.is_main_process else True  # None: shown in a terminal only
        for batch in tqdm(loader, desc=what, leave=False, disable=hidden):
            with accelerator.autocast():
                vectors = embed(batch)
            parts.append({name: value.cpu() for name, value in accelerator.gather_for_metrics(vectors).items()})
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    was_training = model.training
    model.eval()
    with torch.no_grad():
        gallery = encode(gallery_rows, "encoding images", lambda batch: _embed_images(model, batch))
        queries = encode(query_rows, "encoding captions", lambda batch: _embed_captions(model, batch))
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
    """The images of a split with person and outfit; `caption` is the identity description, if every row has one."""

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
    """Every caption of a split, with the row of the image that it describes; images are not decoded."""

    def __init__(self, rows: Any) -> None:
        self.queries = [
            {"caption": caption, "index": index}
            for index, captions in enumerate(rows["captions"])
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
    vectors = {
        "vectors": output.image_embeds.float(),
        "person_ids": batch["person_ids"],
        "outfit_ids": batch["outfit_ids"],
    }
    if output.fused_identity_embeds is not None:
        described = torch.cat([output.fused_identity_embeds, output.image_clothing_embeds], dim=-1)
        vectors["described"] = described.float()
    return vectors


def _embed_captions(model: BDAMModel, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    features = model.get_text_features(batch["input_ids"], batch["attention_mask"])
    return {"vectors": features.pooler_output.float(), "index": batch["index"]}


def chance_metrics(split: EncodedSplit, seed: int = 0) -> dict[str, float]:
    """`protocol_metrics` of random vectors in the place of the split's: the level of guessing."""
    generator = torch.Generator().manual_seed(seed)
    gallery = torch.randn(len(split.gallery), 64, generator=generator)
    queries = torch.randn(len(split.queries), 64, generator=generator)
    guess = EncodedSplit(gallery, None, split.gallery_ids, split.gallery_outfits, queries, split.query_rows)
    return protocol_metrics(guess, clothing_weight=1.0)
