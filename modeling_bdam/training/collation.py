"""The default collator of the trainer: rows of a data set to tensors, without augmentation."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..processing_bdam import BDAMProcessor

Collator = Callable[[list[dict[str, Any]]], dict[str, Tensor]]
DESCRIPTIONS = ("identity_description", "clothing_description")


class ProcessorCollator:
    """Collates rows by a processor, for training and for evaluation; `data_pipeline.batches` adds augmentation.

    Rows have `image` (as the processor takes it) and/or a text: `caption`, or the first of `captions`. Descriptions
    are used if every row of the batch has both. `person_id` becomes `person_ids` [B]; integers keep their names.
    """

    def __init__(self, processor: BDAMProcessor) -> None:
        self.processor = processor

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        batch: dict[str, Tensor] = {}
        if "image" in rows[0]:
            batch |= self.processor(images=[row["image"] for row in rows], return_tensors="pt")
        texts: dict[str, list[Any]] = {
            "": [row.get("caption") or next(iter(row.get("captions") or []), None) for row in rows]
        }
        if all(has_descriptions(row) for row in rows):
            texts |= {f"{name.split('_')[0]}_": [row[name] for row in rows] for name in DESCRIPTIONS}
        for prefix, values in texts.items():
            if all(values):
                tokens = self.processor(text=values, return_tensors="pt")
                batch |= {f"{prefix}{name}": tokens[name] for name in ("input_ids", "attention_mask")}
        for name in ("person_id", "person_ids", "outfit_ids", "index"):
            if name in rows[0]:
                key = "person_ids" if name == "person_id" else name
                batch[key] = torch.tensor([row[name] for row in rows], dtype=torch.int64)
        return batch


class WeightedCollator:
    """Adds the `pair_weights` [B] of the rows, by default 1, to the batches of another collator."""

    def __init__(self, collator: Collator) -> None:
        self.collator = collator

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        weights = torch.tensor([row.pop("pair_weight", 1.0) for row in rows])
        return self.collator(rows) | {"pair_weights": weights}


def has_descriptions(row: dict[str, Any]) -> bool:
    """Whether a row has both descriptions; a batch holds only rows with them, or only rows without them."""
    return all((row.get(name) or "").strip() for name in DESCRIPTIONS)


def described_rows(rows: Any) -> list[bool] | None:
    """Returns for each row of a data set whether it has both descriptions, or None if there are no such columns."""
    if not {*DESCRIPTIONS} <= {*(getattr(rows, "column_names", None) or ())}:
        return None
    columns = zip(*(rows[name][:] for name in DESCRIPTIONS), strict=True)  # [:] reads a column of `datasets` at once
    return [has_descriptions(dict(zip(DESCRIPTIONS, texts, strict=True))) for texts in columns]


__all__ = ["Collator", "ProcessorCollator", "WeightedCollator", "described_rows", "has_descriptions"]
