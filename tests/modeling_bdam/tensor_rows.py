"""A batch of tensors as a data set, and back."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset


class TensorRows(Dataset[dict[str, Tensor]]):
    """A batch of tensors, row by row."""

    def __init__(self, batch: dict[str, Tensor]) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch["person_ids"])

    def __getitem__(self, key: Any) -> Any:
        if key == "person_id":
            return self.batch["person_ids"].tolist()
        return {name: value[key] for name, value in self.batch.items()}


def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Rows to a batch."""
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0] if name != "augmentation_seed"}
