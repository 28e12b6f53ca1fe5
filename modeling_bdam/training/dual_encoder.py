"""A dual encoder of two towers without decoupling and fusion, the base of the baselines IRRA, RDE and TBPS-CLIP."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from ..decoupling_bdam import LinearDecoupling
from ..fusion_bdam import LinearFusion, masked_mean
from ..modeling_bdam import BDAMModel
from ..towers_bdam import run_text_tower, run_vision_tower
from .objective import Objective
from .training_args import DUAL_ENCODER_FIELDS

HEADS_FILE = "objective_heads.safetensors"
_HEADS = "heads."


@dataclass
class Encoded:
    """A batch of images or texts in the space of the embeddings, not normalized.

    Attributes:
        tokens: [B, L, P].
        pooled: the embedding, [B, P].
        tower: the tower's whole output.
    """

    tokens: Tensor
    pooled: Tensor
    tower: BaseModelOutput


@dataclass
class Vocabulary:
    """Token ids for masked language modeling.

    Attributes:
        mask: the mask token or, of a tokenizer without one (CLIP), the last ordinary token, as in IRRA.
        special: ids that are never masked.
        size: number of ids.
    """

    mask: int
    special: tuple[int, ...]
    size: int

    @classmethod
    def of(cls, tokenizer: Any, size: int) -> "Vocabulary":
        """Reads the special tokens of a tokenizer; None has none."""
        special = () if tokenizer is None else tuple(sorted(tokenizer.all_special_ids))
        mask = None if tokenizer is None else tokenizer.mask_token_id
        ordinary = max(set(range(size)) - set(special))
        return cls(ordinary if mask is None else mask, special, size)


class DualEncoder(BDAMModel):
    """The towers of a model and their projections, with the heads of a baseline's losses in `heads`.

    The embeddings are those of the joint space of the towers (CLIP), or means of linearly projected tokens. A saved
    folder is a `BDAMModel` with the same embeddings; the heads are in a file of their own.

    Args:
        model: supplies towers and weights; the towers are shared with it.
        people: person ids of the training rows; empty for evaluation.
        tokenizer: of the texts; None if no token is special.

    Raises:
        ValueError: the model has decoupling or fusion layers.
    """

    extra_inputs: tuple[str, ...] = ()  # of `forward`, in addition to images and captions

    def __init__(self, model: BDAMModel, people: Sequence[int] = (), tokenizer: Any = None) -> None:
        fields = DUAL_ENCODER_FIELDS.keys() - {"clothing_weight"}
        if given := sorted(name for name in fields if getattr(model.config, name) != DUAL_ENCODER_FIELDS[name]):
            wanted = ",".join(f"{name}={DUAL_ENCODER_FIELDS[name]}" for name in given).lower()
            raise ValueError(f"the objective trains a plain dual encoder: set --config_overrides {wanted}")
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        super().__init__(model.config, vision_model=model.vision_model, text_model=model.text_model)
        self.load_state_dict(weights)
        self.name_or_path = model.name_or_path
        self.heads = nn.ModuleDict()
        if self.config.joint_embeds:  # no branches beside the joint space
            for unused in (self.decoupling, self.fusion):
                unused.requires_grad_(False)
            final = cast(LinearFusion, self.fusion).output_layers()
            for layer in (*final, self.image_clothing_head, self.text_clothing_head):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def encode_images(self, pixel_values: Tensor, **kwargs: Any) -> Encoded:
        """Encodes images [B, 3, H, W]; `kwargs` are of the tower."""
        size = self.vision_takes_one_size, self.config.interpolate_pos_encoding
        tokens, tower = run_vision_tower(self.vision_model, pixel_values, *size, **kwargs)
        if self.visual_projection is not None:
            return Encoded(self.visual_projection(tokens), self.visual_projection(tower["pooler_output"]), tower)
        heads = cast(LinearDecoupling, self.decoupling).identity, cast(LinearFusion, self.fusion).image_projection
        tokens = heads[1](heads[0](self.vision_projection(tokens)))  # [B, L, P]
        return Encoded(tokens, tokens.mean(dim=1), tower)

    def encode_texts(self, input_ids: Tensor, attention_mask: Tensor, **kwargs: Any) -> Encoded:
        """Encodes texts [B, T]; `kwargs` are of the tower."""
        tower = run_text_tower(self.text_model, input_ids, attention_mask, self.longest_text, **kwargs)
        tokens = cast(Tensor, tower.last_hidden_state)
        if self.textual_projection is not None:
            return Encoded(self.textual_projection(tokens), self.textual_projection(tower["pooler_output"]), tower)
        tokens = cast(LinearFusion, self.fusion).text_projection(self.text_projection(tokens))  # [B, T, P]
        return Encoded(tokens, masked_mean(tokens, attention_mask), tower)

    def save_heads(self, folder: Path) -> None:
        """Writes the heads to `HEADS_FILE` of a folder."""
        weights = {name: value.contiguous() for name, value in self.heads.state_dict().items()}
        save_file(weights, folder / HEADS_FILE)

    def load_heads(self, folder: Path) -> None:
        """Reads the heads from a folder."""
        self.heads.load_state_dict(load_file(folder / HEADS_FILE))


class DualEncoderObjective(Objective):
    """Base of the objectives of the baselines IRRA, RDE and TBPS-CLIP."""

    encoder = DualEncoder

    def prepare(self, model: BDAMModel | None, rows: Any, processor: Any) -> DualEncoder:
        """Returns the dual encoder; its model must exist, since heads are added to it."""
        if model is None:
            raise ValueError(f"objective={self.args.objective} adds heads to a model: pass `model`, not `model_init`")
        tokenizer = None if processor is None else processor.tokenizer
        return self.encoder(model, () if rows is None else rows["person_id"], tokenizer)


def without_heads(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights of a `BDAMModel` of the state dict of a `DualEncoder`."""
    return {name: value for name, value in weights.items() if not name.startswith(_HEADS)}


__all__ = ["HEADS_FILE", "DualEncoder", "DualEncoderObjective", "Encoded", "Vocabulary", "without_heads"]
