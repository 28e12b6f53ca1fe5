"""The interface of the objectives: the model, the inputs and the losses of a run, and its choice of texts per epoch."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..losses_bdam import gate_regularization
from ..modeling_bdam import BDAMModel
from ..objective_bdam import PairLabels
from ..outputs_bdam import BDAMOutput
from .collation import Collator
from .robust_pairs import RowEncoder
from .sampler import IdentityBalancedSampler, KeyedDataset
from .training_args import BDAMTrainingArguments


@dataclass
class PairedOutputs:
    """Outputs of the local batch against those of the batch of all processes.

    Attributes:
        local: outputs of the N local rows.
        gathered: outputs of the M rows of all processes; `local` in a single process.
        labels: the positive pairs between them, [N, M].
        epoch: number of epochs trained.
    """

    local: Any  # a BDAMOutput, or that of a dual encoder with more fields
    gathered: BDAMOutput
    labels: PairLabels
    epoch: float = 0.0

    def directions(self) -> list[tuple[Tensor, Tensor]]:
        """Returns queries [N, P] and keys [M, P]: identity embeddings of images to captions, and captions to images."""
        image, caption = "image_identity_embeds", "caption_identity_embeds"
        return [(self.local[one], self.gathered[other]) for one, other in ((image, caption), (caption, image))]


class Objective:
    """Base of the objectives; by itself for losses on images and captions only.

    Args:
        args: of the training.
    """

    is_decoupled = False  # trains on descriptions, by several tasks with balanced weights
    chooses_texts = False  # the choice of texts is part of a checkpoint

    def __init__(self, args: BDAMTrainingArguments) -> None:
        self.args = args

    def prepare(self, model: BDAMModel | None, rows: Any, processor: Any) -> BDAMModel | None:
        """Returns the model to train, made from the given one, the training rows and the processor."""
        return model

    def prepare_collator(self, collator: Collator) -> Collator:
        """Returns the collator of the training batches."""
        return collator

    def inputs(self, model: BDAMModel, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Selects the arguments of the model from a batch."""
        names = ("pixel_values", "input_ids", "attention_mask", *getattr(model, "extra_inputs", ()))
        return {name: batch[name] for name in names}

    def losses(self, model: BDAMModel, batch: PairedOutputs) -> dict[str, Tensor]:
        """Computes the unweighted losses of outputs of the model, scalars by task."""
        raise NotImplementedError

    def gate_loss(self, gathered: BDAMOutput) -> Tensor | float:
        """Computes the weighted gate regularization of the outputs of all processes, a scalar."""
        weight = self.args.gate_regularization_weight
        if weight == 0 or (gathered.gate is None and gathered.fusion_gate is None):
            return 0.0
        return weight * gate_regularization(gathered.gate, gathered.fusion_gate)

    def choose_texts(
        self, encoder: RowEncoder, rows: Any, sampler: IdentityBalancedSampler, trained: float
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Chooses the texts of the training rows for an epoch.

        Args:
            encoder: of the model.
            rows: training rows of the common schema.
            sampler: set to the epoch.
            trained: fraction of the steps.

        Returns:
            index of the row that supplies the texts of each row, [N], -1 for none, or None to keep the last choice; and
            kinds of rows, bool, [N] each: the log gets the share of each kind.
        """
        return None, {}

    def use_texts(self, text_rows: Tensor | None, sampler: IdentityBalancedSampler, dataset: KeyedDataset) -> None:
        """Applies the result of `choose_texts` to the batches of an epoch."""
        sampler.use_texts(None if text_rows is None else text_rows.numpy())


__all__ = ["Objective", "PairedOutputs"]
