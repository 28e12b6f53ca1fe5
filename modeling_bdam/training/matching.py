"""The task `matching`: trains the matching head, and by it the clothing tokens, on pairs of image and caption."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..matching_bdam import MatchingHead
from ..objective_bdam import PairLabels
from ..outputs_bdam import BDAMOutput, weigh_clothing

HARD_IMAGES, HARD_TEXTS = 3, 1  # negatives of each caption and of each image that the whole head scores


def matching_loss(
    head: MatchingHead,
    local: BDAMOutput,
    gathered: BDAMOutput,
    labels: PairLabels,
    clothing_weight: float,
    hard_pairs: bool = True,
) -> Tensor:
    """Computes image-text matching (Li et al., "Align before Fuse", 2021), with a cross-entropy over candidates.

    The similarity of tokens is contrasted over all pairs of the batch; the whole logit over the own pair and the
    hardest pairs of other people, by the score of the search. A person's other images are neither positives nor
    negatives.

    Args:
        head: of the model.
        local: outputs of this rank's N rows.
        gathered: outputs of the M rows of all ranks; `local` in a single process.
        labels: the positive pairs between them.
        clothing_weight: β of the score that selects hard pairs.
        hard_pairs: otherwise only the similarity of tokens is trained.

    Returns:
        scalar, the mean over the N rows.
    """
    count = len(local.image_embeds)
    own = labels.offset + torch.arange(count, device=local.image_embeds.device)  # [N]
    texts = local.caption_tokens, local.caption_mask
    all_texts = gathered.caption_tokens, gathered.caption_mask
    # All pairs of the batch
    others = labels.same_person.clone()  # [N, M]
    others[torch.arange(count), own] = False
    to_images = head.similarities(gathered.matching_tokens, *texts)  # [N, M]
    to_texts = head.similarities(local.matching_tokens, *all_texts).T  # [N, M]
    losses = [F.cross_entropy(each.masked_fill(others, -torch.inf), own) for each in (to_images, to_texts)]
    if not hard_pairs:
        return torch.stack(losses).sum() / 2
    # Hard pairs
    with torch.no_grad():
        image_scores = weigh_clothing(local.text_embeds, clothing_weight) @ gathered.image_embeds.T  # [N, M]
        text_scores = weigh_clothing(local.image_embeds, clothing_weight) @ gathered.text_embeds.T  # [N, M]
        images = _own_and_hardest(image_scores, labels.same_person, own, HARD_IMAGES)  # [N, 1 + hard]
        captions = _own_and_hardest(text_scores, labels.same_person, own, HARD_TEXTS)  # [N, 1 + hard]
    losses.append(_first_is_right(head(gathered.matching_tokens[images], *texts)[0], images, labels))
    repeated = local.matching_tokens.repeat_interleave(captions.shape[1], dim=0)[:, None]  # [N * (1 + hard), 1, 2P, D]
    rows = captions.flatten()
    logits = head(repeated, *(part[rows] for part in all_texts))[0].view_as(captions)
    losses.append(_first_is_right(logits, captions, labels))
    return torch.stack(losses).sum() / 2


def _own_and_hardest(scores: Tensor, same_person: Tensor, own: Tensor, count: int) -> Tensor:
    """Returns the own row and the rows of the highest scores [N, M] of other people, [N, 1 + count]."""
    scores = scores.masked_fill(same_person, -torch.inf)
    return torch.cat([own[:, None], scores.topk(min(count, scores.shape[1] - 1), dim=1).indices], dim=1)


def _first_is_right(logits: Tensor, rows: Tensor, labels: PairLabels) -> Tensor:
    """Computes the cross-entropy of the first of the candidates `rows`, both [N, C], without others of its person."""
    same = labels.same_person.gather(1, rows)
    same[:, 0] = False
    return F.cross_entropy(logits.masked_fill(same, -torch.inf), torch.zeros_like(rows[:, 0]))
