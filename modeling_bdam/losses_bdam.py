"""The paper's training losses (eq. 1-4 and section 4.2) as pure functions of embeddings.

**Several processes.** A contrastive loss takes the LOCAL rows against the columns gathered, with gradient, from every
process; its value is a mean over rows, so the mean over processes of equal batch is exactly the one-process loss. The
two losses that are statistics of a whole batch, `hsic` and `gate_regularization`, take gathered rows on both sides.

**Precision.** Everything is computed in float32 (float64 stays float64), also under autocast: with a temperature of
1/100, half precision cannot tell apart the similarities that matter.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def same_label_mask(row_labels: Tensor, column_labels: Tensor) -> Tensor:
    """Which pairs carry the same label, such as the same person.

    Args:
        row_labels: [N], integers.
        column_labels: [M], integers.

    Returns:
        [N, M], bool.

    Raises:
        ValueError: a label tensor is not one-dimensional.
    """
    if row_labels.ndim != 1 or column_labels.ndim != 1:
        raise ValueError(f"labels must be [N] and [M], got {list(row_labels.shape)} and {list(column_labels.shape)}")
    return row_labels[:, None] == column_labels[None, :]


def same_text_mask(row_ids: Tensor, row_mask: Tensor, column_ids: Tensor, column_mask: Tensor) -> Tensor:
    """Which pairs of texts read the same: equal token sequences, wherever and however far they are padded.

    Two slim young women share an identity description; pushing one's image from the other's text would teach noise.
    Each distinct text gets a number by one sort of all N + M rows, so no [N, M, T] comparison is ever held.

    Args:
        row_ids: [N, T], token ids, not negative.
        row_mask: [N, T], 1 for a token and 0 for padding.
        column_ids: [M, T'], token ids; T' may differ from T, as the longest text differs between batches.
        column_mask: [M, T'].

    Returns:
        [N, M], bool.

    Raises:
        ValueError: ids are not two-dimensional or a mask's shape is not that of its ids.
    """
    for name, ids, mask in (("row", row_ids, row_mask), ("column", column_ids, column_mask)):
        if ids.ndim != 2 or ids.shape != mask.shape:
            raise ValueError(f"{name} ids and mask must both be [N, T], got {list(ids.shape)} and {list(mask.shape)}")
    width = max(row_ids.shape[1], column_ids.shape[1])
    texts = torch.cat([_left_aligned(row_ids, row_mask, width), _left_aligned(column_ids, column_mask, width)])
    _, text_numbers = torch.unique(texts, dim=0, return_inverse=True)
    return same_label_mask(text_numbers[: len(row_ids)], text_numbers[len(row_ids) :])


def info_nce(
    queries: Tensor,
    keys: Tensor,
    logit_scale: Tensor | float,
    positives: Tensor,
    ignored: Tensor | None = None,
) -> Tensor:
    """InfoNCE in one direction with several positives a row (eq. 3; section 4.3's clothing matching).

    Every positive p of row i competes with the row's negatives alone, never with the row's other positives:
    `-log(exp(s_ip) / (exp(s_ip) + sum over negatives of exp(s_in)))`, averaged over the row's positives, then over
    rows. With one positive a row it is the usual InfoNCE. A row without a positive, or without a negative, counts 0.

    Args:
        queries: [N, d], L2-normalized by the caller.
        keys: [M, d], likewise.
        logit_scale: the multiplier 1/temperature itself, not its logarithm.
        positives: [N, M], bool.
        ignored: [N, M], bool: pairs that are neither positive nor negative, even if `positives` names them.

    Returns:
        scalar, the mean over all N rows.

    Raises:
        ValueError: shapes do not fit, a mask is not bool, or there are no rows or columns.
    """
    return info_nce_of_rows(queries, keys, logit_scale, positives, ignored).mean()


def info_nce_of_rows(
    queries: Tensor,
    keys: Tensor,
    logit_scale: Tensor | float,
    positives: Tensor,
    ignored: Tensor | None = None,
) -> Tensor:
    """`info_nce` before the mean over rows, [N]."""
    similarity = _scaled_similarity(queries, keys, logit_scale)  # [N, M]
    _check_mask("positives", positives, similarity)
    negatives = ~positives
    if ignored is not None:
        _check_mask("ignored", ignored, similarity)
        positives, negatives = positives & ~ignored, negatives & ~ignored
    deficit = masked_logsumexp(similarity, negatives)[:, None] - similarity  # [N, M], above 0: negatives outweigh
    per_pair = torch.where(positives, F.softplus(deficit), 0.0)
    return per_pair.sum(dim=1) / positives.sum(dim=1).clamp(min=1)


def triplet(
    anchors: Tensor,
    candidates: Tensor,
    anchor_ids: Tensor,
    candidate_ids: Tensor,
    margin: float,
    offset: int = 0,
) -> Tensor:
    """Batch-hard triplet loss on squared L2 distances (eq. 4): `max(|a - p|^2 - |a - n|^2 + margin, 0)`.

    The positive is the farthest candidate of the anchor's identity other than the anchor itself, the negative the
    nearest of another identity. An anchor that lacks either counts 0.

    Args:
        anchors: [N, d], this process's identity features.
        candidates: [M, d], those of all processes.
        anchor_ids: [N], integers.
        candidate_ids: [M], integers.
        margin: m of eq. 4, in units of squared distance.
        offset: anchor i is candidate `offset + i`: rank times N under several processes.

    Returns:
        scalar, the mean over all N anchors.

    Raises:
        ValueError: shapes do not fit, there are no anchors, or the anchors do not lie within the candidates.
    """
    _check_pair_of_matrices("anchors", anchors, "candidates", candidates)
    if anchor_ids.shape != anchors.shape[:1] or candidate_ids.shape != candidates.shape[:1]:
        raise ValueError(
            f"{len(anchors)} anchors and {len(candidates)} candidates need one identity each, "
            f"got ids of shape {list(anchor_ids.shape)} and {list(candidate_ids.shape)}"
        )
    if offset < 0 or offset + len(anchors) > len(candidates):
        raise ValueError(
            f"anchors are candidates {offset} to {offset + len(anchors) - 1}, but there are {len(candidates)} "
            "candidates; offset must be rank * local batch size"
        )
    anchors, candidates = _full_precision(anchors), _full_precision(candidates)
    same_person = same_label_mask(anchor_ids, candidate_ids)  # [N, M]
    rows = torch.arange(len(anchors), device=anchors.device)
    is_positive = same_person.clone()
    is_positive[rows, rows + offset] = False
    with torch.no_grad():
        # Not by matrix product: that rounds differently for other shapes, so that two processes could pick another
        # triplet than one. The gradient needs the picked pairs only.
        distances = torch.cdist(anchors, candidates, compute_mode="donot_use_mm_for_euclid_dist")  # [N, M]
        hardest_positive = distances.masked_fill(~is_positive, -torch.inf).argmax(dim=1)  # [N]
        hardest_negative = distances.masked_fill(same_person, torch.inf).argmin(dim=1)  # [N]
    positive_distance = (anchors - candidates[hardest_positive]).square().sum(dim=1)
    negative_distance = (anchors - candidates[hardest_negative]).square().sum(dim=1)
    has_triplet = is_positive.any(dim=1) & ~same_person.all(dim=1)
    return torch.where(has_triplet, F.relu(positive_distance - negative_distance + margin), 0.0).mean()


def adversarial(clothing: Tensor, text: Tensor, logit_scale: Tensor | float, positives: Tensor) -> Tensor:
    """The clothing adversarial loss (eq. 1): `-log(1 - P_pos)`, low when a feature does not find its clothing text.

    P_pos is the softmax mass of a row's positives over the batch, so `-log(1 - P_pos)` is
    `logsumexp(all) - logsumexp(negatives) = softplus(logsumexp(positives) - logsumexp(negatives))`; the last form
    neither overflows as P_pos reaches 1 nor cancels as it reaches 0. A row without a negative has P_pos = 1 whatever
    the features are, and counts 0; so does a row without a positive.

    Args:
        clothing: [N, d], L2-normalized by the caller (the identity feature behind `gradient_reversal`, if it is
            that which must not know the clothes).
        text: [M, d], clothing texts, L2-normalized by the caller.
        logit_scale: the multiplier 1/temperature itself, not its logarithm.
        positives: [N, M], bool.

    Returns:
        scalar, the mean over all N rows.

    Raises:
        ValueError: shapes do not fit, the mask is not bool, or there are no rows or columns.
    """
    similarity = _scaled_similarity(clothing, text, logit_scale)  # [N, M]
    _check_mask("positives", positives, similarity)
    log_odds = masked_logsumexp(similarity, positives) - masked_logsumexp(similarity, ~positives)  # [N]
    return torch.where(positives.all(dim=1), 0.0, F.softplus(log_odds)).mean()


class _GradientReversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale  # type: ignore[attr-defined]
        return x.view_as(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        return -ctx.scale * grads[0], None  # type: ignore[attr-defined]


def gradient_reversal(x: Tensor, scale: float = 1.0) -> Tensor:
    """`x` itself, whose gradient is multiplied by `-scale`: what follows learns a task, what precedes unlearns it.

    Args:
        x: any shape.
        scale: strength of the reversed gradient.

    Returns:
        the shape of `x`.
    """
    reversed_x: Tensor = _GradientReversal.apply(x, scale)
    return reversed_x


def hsic(identity: Tensor, clothing: Tensor) -> Tensor:
    """HSIC with linear kernels (eq. 2): `tr(K_id H K_clo H) / (B - 1)^2`, 0 when the features are uncorrelated.

    H centers, so the trace is the sum of the product of two centerd Gram matrices, O(B^2 D), and also the squared
    Frobenius norm of the centerd cross-product `identity^T clothing`, O(B D^2); the cheaper one is taken. Under
    several processes both arguments are the gathered batch: the statistic of a part is not a part of the statistic.

    Args:
        identity: [B, D], gated identity features.
        clothing: [B, D], gated clothing features.

    Returns:
        scalar; 0 for B = 1, where nothing can vary together.

    Raises:
        ValueError: the two are not of one shape [B, D] with B >= 1.
    """
    _check_pair_of_matrices("identity", identity, "clothing", clothing)
    if identity.shape != clothing.shape:
        raise ValueError(
            f"identity and clothing must have one shape, got {list(identity.shape)}, {list(clothing.shape)}"
        )
    batch, width = identity.shape
    identity, clothing = _full_precision(identity), _full_precision(clothing)
    identity, clothing = identity - identity.mean(dim=0), clothing - clothing.mean(dim=0)
    with torch.autocast(identity.device.type, enabled=False):
        if batch < width:
            trace = ((identity @ identity.T) * (clothing @ clothing.T)).sum()  # [B, B]
        else:
            trace = (identity.T @ clothing).square().sum()  # [D, D]
    return trace / max(batch - 1, 1) ** 2


def gate_regularization(bdam_gate: Tensor | None, fusion_gate: Tensor | None) -> Tensor:
    """Gate regularization (section 4.2): the squared distances of the gates' means from 1/2, added.

    The mean over the batch may not drift to one side, which would shut a branch or a modality off; a single sample
    or dimension may. Under several processes the gates are gathered first: a squared mean is no mean over rows.

    Args:
        bdam_gate: [B, D], g of section 3.2, identity against clothing; None for a model without that gate.
        fusion_gate: [B, 2], w of section 3.4, image against text, rows of sum 1: its mean is that of each column,
            and the two columns' equal distances count once. None for a model without that gate.

    Returns:
        scalar.

    Raises:
        ValueError: both gates are None, or a gate has another shape.
    """
    if bdam_gate is None and fusion_gate is None:
        raise ValueError("gate regularization needs at least one gate; leave the term out of a model without gates")
    terms: list[Tensor] = []
    if bdam_gate is not None:
        if bdam_gate.ndim != 2 or bdam_gate.numel() == 0:
            raise ValueError(f"bdam_gate must be [B, D], got {list(bdam_gate.shape)}")
        terms.append((_full_precision(bdam_gate).mean() - 0.5).square())
    if fusion_gate is not None:
        if fusion_gate.ndim != 2 or fusion_gate.shape[1] != 2 or len(fusion_gate) == 0:
            raise ValueError(f"fusion_gate must be [B, 2], got {list(fusion_gate.shape)}")
        terms.append((_full_precision(fusion_gate).mean(dim=0) - 0.5).square().mean())
    return torch.stack(terms).sum()


def _full_precision(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _scaled_similarity(rows: Tensor, columns: Tensor, logit_scale: Tensor | float) -> Tensor:
    """[N, d] and [M, d] to `logit_scale * rows @ columns^T`, [N, M], in full precision."""
    _check_pair_of_matrices("rows", rows, "columns", columns)
    if isinstance(logit_scale, Tensor):
        if logit_scale.numel() != 1:
            raise ValueError(f"logit_scale must be one number, got shape {list(logit_scale.shape)}")
        logit_scale = _full_precision(logit_scale).reshape(())
    with torch.autocast(rows.device.type, enabled=False):
        return logit_scale * (_full_precision(rows) @ _full_precision(columns).T)


def masked_logsumexp(scores: Tensor, mask: Tensor) -> Tensor:
    """Logsumexp over the True entries of each row of [N, M]; hugely negative, yet finite, for a row without any.

    Finite, so that nothing downstream can meet inf - inf; half the lowest number leaves room to subtract a score.
    """
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min / 2).logsumexp(dim=1)


def _left_aligned(ids: Tensor, mask: Tensor, width: int) -> Tensor:
    """[N, T] token ids to [N, width]: each row's tokens first, then -1, which no token has."""
    padding = mask == 0
    order = padding.to(torch.int8).argsort(dim=1, stable=True)  # tokens keep their order, padding goes last
    return F.pad(ids.masked_fill(padding, -1).gather(1, order), (0, width - ids.shape[1]), value=-1)


def _check_pair_of_matrices(first_name: str, first: Tensor, second_name: str, second: Tensor) -> None:
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or not (len(first) and len(second)):
        raise ValueError(
            f"{first_name} and {second_name} must be [N, d] and [M, d] with at least one row each, "
            f"got {list(first.shape)} and {list(second.shape)}"
        )


def _check_mask(name: str, mask: Tensor, scores: Tensor) -> None:
    if mask.shape != scores.shape or mask.dtype != torch.bool:
        raise ValueError(f"{name} must be bool {list(scores.shape)}, got {mask.dtype} {list(mask.shape)}")
