"""Pictures of people in two colors and their sentences, on which a dual encoder learns to rank in seconds."""

from collections.abc import Callable, Iterator
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COLORS = torch.tensor([[2.0, -1, -1], [-1, 2, -1], [-1, -1, 2], [2, 2, -1]])
FIRST_COLOR = 5  # its token id; smaller ids are special tokens


def draw_people(size: tuple[int, int], end: int, seed: int, length: int = 4) -> tuple[Tensor, Tensor]:
    """Draws one noisy picture per pair of colors, [16, 3, H, W], and its sentence, [16, length], with `end` last."""
    pairs = torch.tensor(list(product(range(len(COLORS)), repeat=2)))  # [16, 2]
    halves = COLORS[pairs].unsqueeze(-1).expand(-1, -1, -1, size[1])  # [16, 2, 3, W]
    pixels = halves.permute(0, 2, 1, 3).repeat_interleave(size[0] // 2, dim=2)  # [16, 3, H, W]
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(seed))
    words = torch.stack([FIRST_COLOR + pairs[:, 0], FIRST_COLOR + len(COLORS) + pairs[:, 1]], dim=1)
    ids = F.pad(F.pad(words, (length - 3, 0), value=3), (0, 1), value=end)
    return pixels + noise, ids


def train_dual_encoder(
    score: Callable[[Tensor, Tensor], Tensor], parameters: Iterator[nn.Parameter], size: tuple[int, int], end: int
) -> None:
    """Trains `score(pixels, ids)`, cosines [texts, images], by InfoNCE until it ranks other pictures well."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=100)
    target = torch.arange(len(COLORS) ** 2)
    for step in range(600):
        logits = 20 * score(*draw_people(size, end, seed=step))
        loss = F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        warmup.step()
        if step % 20 == 19:
            with torch.no_grad():
                ranked = [rank_1(score(*draw_people(size, end, seed))) for seed in (2000, 2001, 2002)]
            if min(ranked) > 0.95:
                return
    raise AssertionError(f"rank-1 after {step + 1} steps: {ranked}")


def rank_1(scores: Tensor) -> float:
    """Returns the share of sentences with the highest of the scores [texts, images] at their own picture."""
    return (scores.argmax(dim=1) == torch.arange(len(scores))).float().mean().item()
