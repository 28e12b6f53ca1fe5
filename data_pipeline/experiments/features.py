"""Saves the features of a trained model on the test images, for the figures and probes that need no model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from modeling_bdam.evaluation.protocols import EncodedSplit, GalleryRows
from modeling_bdam.files import atomic_path
from modeling_bdam.training.trainer import BDAMTrainer

MEASURED = "measured-"  # prefix of the files that cache measurements on the features
_SPLIT_FIELDS = ("gallery", "described_gallery", "gallery_ids", "gallery_outfits", "queries", "query_rows")


@dataclass
class BranchFeatures:
    """The features of both branches for N images.

    Attributes:
        identity, clothing: f_id and f_clo, the gated features (paper, eq. 2), [N, D].
        identity_embeds, clothing_embeds: the normalized halves of the gallery vector, [N, projection_dim].
        gate: g of BDAM, [N, D]; None without it.
        fusion_gate: w of image and description, [N, 2]; None without descriptions or without that gate.
        person_ids, outfit_ids: [N].
    """

    identity: NDArray
    clothing: NDArray
    identity_embeds: NDArray
    clothing_embeds: NDArray
    gate: NDArray | None
    fusion_gate: NDArray | None
    person_ids: NDArray
    outfit_ids: NDArray


def branch_features(trainer: BDAMTrainer, rows: Any) -> BranchFeatures:
    """Computes the features of the images of a split, in one process."""
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    device = trainer.args.device
    loader: DataLoader[Any] = DataLoader(
        GalleryRows(rows),  # type: ignore[arg-type]  # it yields dictionaries
        batch_size=trainer.args.per_device_eval_batch_size,
        collate_fn=trainer.retrieval_collator,
        num_workers=trainer.args.dataloader_num_workers,
    )
    parts: dict[str, list[NDArray]] = {}
    for batch in loader:
        on_device = {name: batch[name].to(device) for name in ("input_ids", "attention_mask") if name in batch}
        with torch.no_grad(), trainer.accelerator.autocast():
            output = model(
                pixel_values=batch["pixel_values"].to(device),
                **{f"identity_{name}": value for name, value in on_device.items()},
            )
        found = {
            "identity": output.identity_features,
            "clothing": output.clothing_features,
            "identity_embeds": output.image_identity_embeds,
            "clothing_embeds": output.image_clothing_embeds,
            "gate": output.gate,
            "fusion_gate": output.fusion_gate,
            "person_ids": batch["person_ids"],
            "outfit_ids": batch["outfit_ids"],
        }
        for name, value in found.items():
            if value is not None:
                value = value if name.endswith("_ids") else value.float()
                parts.setdefault(name, []).append(value.cpu().numpy())
    whole: dict[str, Any] = {name: np.concatenate(values) for name, values in parts.items()}
    return BranchFeatures(**{"gate": None, "fusion_gate": None, **whole})


def save_features(
    path: Path, splits: dict[str, EncodedSplit], branches: dict[str, BranchFeatures], clothing_weight: float
) -> None:
    """Writes encoded splits and branch features, each by name, to one `.npz` file atomically."""
    arrays: dict[str, Any] = {"clothing_weight": np.array(clothing_weight)}
    for name, split in splits.items():
        arrays |= {f"{name}/{field}": getattr(split, field) for field in _SPLIT_FIELDS}
    for name, features in branches.items():
        for field, value in vars(features).items():
            # float16 is sufficient for probes and figures; retrieval vectors keep float32, because ranks depend on it.
            is_float = value is not None and value.dtype.kind == "f"
            arrays[f"{name}_branches/{field}"] = value.astype(np.float16) if is_float else value
    present: dict[str, Any] = {name: np.asarray(value) for name, value in arrays.items() if value is not None}
    with atomic_path(path) as temporary:
        np.savez(temporary, **present)
    for outdated in path.parent.glob(f"{MEASURED}*.json"):
        outdated.unlink()


class Features:
    """Reads the file that `save_features` wrote."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            self._arrays = dict(file)
        self.clothing_weight = float(self._arrays["clothing_weight"])

    def split(self, name: str) -> EncodedSplit:
        """An encoded split: `test` or `validation`."""
        tensors: dict[str, Any] = {field: torch.from_numpy(value) for field, value in self._fields(name).items()}
        return EncodedSplit(**{"described_gallery": None, **tensors})

    def branches(self, name: str) -> BranchFeatures:
        """Branch features of the `test` images, or of the additional people of the `probe`s."""
        fields: dict[str, Any] = self._fields(f"{name}_branches")
        full = {
            field: value.astype(np.float32) if value.dtype.kind == "f" else value for field, value in fields.items()
        }
        return BranchFeatures(**{"gate": None, "fusion_gate": None, **full})

    def has_branches(self, name: str) -> bool:
        """Whether `branches(name)` exists; `probe` does only for the synthetic data set."""
        return f"{name}_branches/identity" in self._arrays

    def _fields(self, name: str) -> dict[str, NDArray]:
        prefix = f"{name}/"
        return {key.removeprefix(prefix): value for key, value in self._arrays.items() if key.startswith(prefix)}
