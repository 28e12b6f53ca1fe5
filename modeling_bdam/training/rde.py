"""RDE: global and token-selection embeddings, the triplet alignment loss (TAL), and clean pairs by consensus.

Qin et al., "Noisy-Correspondence Learning for Text-to-Image Person Re-identification" (CVPR 2024), with the settings of
https://github.com/QinYang79/RDE: margin 0.1, τ 0.015, 30 % of the tokens selected. The optimizer and the schedule are
those of IRRA.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses_bdam import TAL_TEMPERATURE, same_label_mask, tal_of_rows
from ..modeling_bdam import BDAMModel
from ..outputs_bdam import BDAMFeatures, BDAMOutput
from .collation import Collator, WeightedCollator
from .dual_encoder import HEADS_FILE, DualEncoder, DualEncoderObjective
from .objective import PairedOutputs
from .robust_pairs import RowEncoder
from .sampler import IdentityBalancedSampler, KeyedDataset

SELECTED_SHARE = 0.3
CLEAN_PROBABILITY = 0.5
# Fields of the global and of the token-selection embeddings
_GLOBAL = "image_identity_embeds", "caption_identity_embeds"
_SELECTED = "image_clothing_embeds", "caption_clothing_embeds"


@dataclass
class RDEOutput(BDAMOutput):
    """Adds the weight of each pair in the loss, [B]: 0 for one that is probably wrong, else 1."""

    pair_weights: Tensor | None = None


class RDE(DualEncoder):
    """A dual encoder with RDE's token selection; its vectors have the mean score of both embeddings.

    The token-selection embeddings are in the fields of the clothing embeddings, twice as wide as the global ones. The
    towers use eager attention, since the selection reads the attention map of the last layer. Its batch normalization
    has the statistics of the batch of each process.

    Raises:
        ValueError: the vision tower has no attention.
    """

    extra_inputs = ("pair_weights",)

    def __init__(self, model: BDAMModel, people: Sequence[int] = (), tokenizer: Any = None) -> None:
        vision: Any = model.config.vision_config
        if not hasattr(vision, "num_attention_heads"):
            raise ValueError(
                f"--objective rde: it selects image tokens by attention, which {vision.model_type} has not; use a "
                "transformer such as vit or clip_vision_model as the vision tower"
            )
        super().__init__(model, people, tokenizer)
        self.set_attn_implementation({"vision_config": "eager", "text_config": "eager"})
        width = self.config.projection_dim
        self.heads["image"], self.heads["text"] = TokenSelection(width), TokenSelection(width)
        self.heads.to(self.logit_scale.device)
        saved = Path(self.name_or_path or "")
        if (saved / HEADS_FILE).is_file():
            self.load_heads(saved)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pair_weights: Tensor | None = None,
        **descriptions: Any,
    ) -> Any:
        """Embeds images [B, 3, H, W] and captions [B, T]; descriptions are not used."""
        output = RDEOutput(logit_scale=self.temperature_scale().detach(), pair_weights=pair_weights)
        if pixel_values is not None:
            image = self.encode_images(pixel_values, output_attentions=True)
            weights = _last_attention(image.tower)[:, 0, 1:]  # of the class token, [B, L - 1]
            count = int(SELECTED_SHARE * weights.shape[1])
            counts = torch.full_like(weights[:, 0], count, dtype=torch.int64)
            selected = self.heads["image"](image.tokens[:, 1:], weights, count, counts)
            output.image_identity_embeds = F.normalize(image.pooled, dim=-1)  # [B, P]
            output.image_clothing_embeds = F.normalize(selected, dim=-1)  # [B, 2 P]
            output.image_embeds = _vectors(output.image_identity_embeds, output.image_clothing_embeds)
        if input_ids is not None:
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            text = self.encode_texts(input_ids, mask, output_attentions=True)
            last = mask.sum(dim=1) - 1  # the end-of-text token, [B]
            weights = _last_attention(text.tower)[torch.arange(len(mask), device=mask.device), last]  # [B, T]
            position = torch.arange(mask.shape[1], device=mask.device)
            weights = weights * mask - 2 * ((position == 0) | (position == last[:, None]))
            count = min(int(SELECTED_SHARE * ((self.longest_text or mask.shape[1]) - 2)), mask.shape[1])
            selected = self.heads["text"](text.tokens, weights, count, (last - 1).clamp(1, count))
            output.caption_identity_embeds = F.normalize(text.pooled, dim=-1)
            output.caption_clothing_embeds = F.normalize(selected, dim=-1)
            output.text_embeds = _vectors(output.caption_identity_embeds, output.caption_clothing_embeds)
        return output

    def get_text_features(self, input_ids: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """Computes query vectors of sentences [B, T]."""
        return BDAMFeatures(pooler_output=self(input_ids=input_ids, attention_mask=attention_mask).text_embeds)


class TokenSelection(nn.Module):
    """Pools the tokens with the largest attention weights by their maximum, after a linear layer plus an MLP.

    Args:
        width: P, of the tokens; the embedding is twice as wide.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * width)
        self.first, self.norm, self.second = nn.Linear(width, width), nn.BatchNorm1d(width), nn.Linear(width, 2 * width)

    def forward(self, tokens: Tensor, weights: Tensor, count: int, counts: Tensor) -> Tensor:
        """Returns the token-selection embedding, not normalized, [B, 2 P].

        Args:
            tokens, weights: [B, L, P] and [B, L].
            count: number of tokens that are selected in each row.
            counts: number of those that are pooled, the ones with the largest weights, [B].
        """
        chosen = weights.topk(max(1, count), dim=1).indices  # [B, count]
        tokens = tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[2]))
        tokens = F.normalize(tokens, dim=-1)
        hidden = self.norm(self.first(tokens).flatten(0, 1)).relu().unflatten(0, chosen.shape)
        values = self.second(hidden) + self.linear(tokens)  # [B, count, 2 P]
        unused = torch.arange(chosen.shape[1], device=counts.device) >= counts.clamp(min=1)[:, None]
        return values.masked_fill(unused[..., None], -torch.inf).amax(dim=1)


def _last_attention(tower: Any) -> Tensor:
    """Returns the attention map of a tower's last layer, averaged over heads, without gradient, [B, L, L]."""
    return tower.attentions[-1].detach().float().mean(dim=1)


def _vectors(pooled: Tensor, selected: Tensor) -> Tensor:
    """Returns vectors with the mean of both similarities as dot product, and an empty clothing half, [B, 6 P]."""
    identity = torch.cat([pooled, selected], dim=-1) / 2**0.5
    return torch.cat([identity, torch.zeros_like(identity)], dim=-1)


class RDEObjective(DualEncoderObjective):
    """TAL of the global and of the token-selection embeddings, both directions, summed over the clean pairs."""

    encoder = RDE
    chooses_texts = True

    def prepare_collator(self, collator: Collator) -> Collator:
        return WeightedCollator(collator)

    def losses(self, model: Any, batch: PairedOutputs) -> dict[str, Tensor]:
        """Sums over the pairs of all processes: averaged over the processes, the local sum needs their number."""
        positives = batch.labels.same_person
        weights = batch.local.pair_weights  # [N]
        losses = {
            name: (weights * pair_losses(batch.local, batch.gathered, positives, fields)).sum()
            for name, fields in (("global", _GLOBAL), ("selected", _SELECTED))
        }
        return {name: positives.shape[1] / positives.shape[0] * loss for name, loss in losses.items()}

    def choose_texts(
        self, encoder: RowEncoder, rows: Any, sampler: IdentityBalancedSampler, trained: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        encoder = replace(encoder, batch_size=self.args.per_device_train_batch_size * self.args.world_size)
        clean = divide_pairs(encoder, rows, seed=self.args.seed + sampler.epoch)
        return torch.where(clean, torch.arange(len(clean)), -1), {"clean_pairs": clean}

    def use_texts(self, text_rows: Tensor | None, sampler: IdentityBalancedSampler, dataset: KeyedDataset) -> None:
        assert text_rows is not None
        dataset.pair_weights = (text_rows >= 0).numpy()


def pair_losses(local: Any, gathered: Any, positives: Tensor, fields: tuple[str, str]) -> Tensor:
    """Computes the TAL of each local pair, both directions added, [N].

    Args:
        local, gathered: embeddings by field.
        positives: [N, M].
        fields: of the images and of the captions.
    """
    directions = ((fields[0], fields[1]), (fields[1], fields[0]))
    return sum(  # type: ignore[return-value]
        tal_of_rows(local[one], gathered[other], 1 / TAL_TEMPERATURE, positives) for one, other in directions
    )


def divide_pairs(encoder: RowEncoder, rows: Any, seed: int) -> Tensor:
    """Divides the training pairs by their losses: bool [N], True for a clean pair.

    A pair is clean if both embeddings agree that it is, and with probability 1/2 if they disagree. The losses are those
    of shuffled batches of the training's size, without augmentation.

    Args:
        encoder: of the model, in batches of all processes.
        rows: training rows of the common schema.
        seed: of the shuffled batches and of the pairs on which the embeddings disagree.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(rows))
    embeds, people, _ = encoder(rows, order, (*_GLOBAL, *_SELECTED))
    votes = []
    for kind in (_GLOBAL, _SELECTED):
        parts = []
        for start in range(0, len(order), encoder.batch_size):
            here = slice(start, start + encoder.batch_size)
            batch, ids = {name: embeds[name][here] for name in kind}, people[here]
            parts.append(pair_losses(batch, batch, same_label_mask(ids, ids), kind))
        votes.append(clean_pairs(torch.cat(parts).numpy()))
    agreed = np.stack(votes).sum(axis=0)
    clean = torch.empty(len(order), dtype=torch.bool)
    clean[torch.from_numpy(order)] = torch.from_numpy((agreed + rng.integers(0, 2, len(order)) * (agreed == 1)) == 2)
    return clean


def clean_pairs(losses: np.ndarray) -> np.ndarray:
    """Finds pairs that belong to the component of small losses of a mixture of two Gaussians, bool [N].

    If it has every pair, the least probable 1 % are left out, as in RDE's code.
    """
    from sklearn.mixture import GaussianMixture  # slow to import

    scaled = (losses - losses.min()) / max(losses.max() - losses.min(), np.finfo(losses.dtype).tiny)
    mixture = GaussianMixture(n_components=2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=0)
    probability = mixture.fit(scaled[:, None]).predict_proba(scaled[:, None])[:, mixture.means_.argmin()]
    threshold = CLEAN_PROBABILITY
    if probability.min() > threshold:
        threshold = np.sort(probability)[len(probability) // 100]
    return cast(np.ndarray, probability > threshold)


__all__ = ["RDE", "RDEObjective", "TokenSelection", "clean_pairs", "divide_pairs", "pair_losses"]
