"""Re-ranking of a search by the matching head: the first K images of each caption are scored again, all alike."""

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from ..modeling_bdam import BDAMModel

COUNTS = (8, 16, 32)  # numbers K of candidates to choose from


@dataclass
class Candidates:
    """The first K gallery rows of each query in the standard protocol, best first.

    Attributes:
        rows: [Q, K].
        logits: match logits m, [Q, K].
    """

    rows: Tensor
    logits: Tensor

    def first(self, count: int) -> "Candidates":
        """Keeps at most `count` candidates of each query."""
        return Candidates(self.rows[:, :count], self.logits[:, :count])


@torch.no_grad()
def match_candidates(
    model: BDAMModel,
    rows: Tensor,
    image_tokens: Tensor,
    text_tokens: Tensor,
    text_mask: Tensor,
    accelerator: Accelerator,
    show_progress: bool = True,
    batch_size: int = 512,
) -> Candidates:
    """Scores the candidates of all queries, divided over the processes.

    Args:
        rows: candidates of each query, [Q, K].
        image_tokens: `matching_tokens` of the gallery, on the CPU, [G, 2L, D].
        text_tokens, text_mask: of the queries, on the CPU, [Q, T, D] and [Q, T].
        batch_size: pairs per forward pass.
    """
    lengths = text_mask.sum(dim=1)
    processes = accelerator.num_processes
    share = lengths.argsort()  # queries of similar length are scored together
    share = torch.cat([share, share[: -len(share) % processes]])[accelerator.process_index :: processes]
    per_pass = max(1, batch_size // rows.shape[1])
    hidden = None if show_progress and accelerator.is_main_process else True  # None: shown in a terminal only
    logits = torch.zeros(rows.shape)
    for queries in tqdm(share.split(per_pass), desc="re-ranking", leave=False, disable=hidden):
        longest = int(lengths[queries].max())
        parts = image_tokens[rows[queries]], text_tokens[queries, :longest], text_mask[queries, :longest]
        with accelerator.autocast():
            image, text, mask = (part.to(accelerator.device) for part in parts)
            found = model.match(image.float(), text.float(), mask)  # [queries, K]
        found, numbers = accelerator.gather((found.float(), queries.to(accelerator.device)))
        logits[numbers.cpu()] = found.cpu()
    return Candidates(rows, logits)
