"""The paper's training losses (eq. 1-4 and section 4.2) as pure functions of embeddings.

**Distributed training.** A contrastive loss compares the local batch of N rows with the all-gathered batch of M rows
(gathered with gradients), [N, M]. Its value is a mean over rows, so that the mean over ranks of equal batch size equals
the single-process loss. `hsic` and `gate_regularization` are statistics of a whole batch and take gathered tensors.

**Precision.** Losses are computed in float32 (float64 stays float64), also under autocast: half precision cannot
resolve similarities at a temperature of 1/100.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

SDM_TEMPERATURE, SDM_EPSILON = 0.02, 1e-8  # of IRRA
TAL_TEMPERATURE, TAL_MARGIN = 0.015, 0.1  # of RDE


def same_label_mask(row_labels: Tensor, column_labels: Tensor) -> Tensor:
    """Marks the pairs with equal labels, such as the same person: integers [N] and [M] to bool [N, M].

    Raises:
        ValueError: a label tensor is not one-dimensional.
    """
    if row_labels.ndim != 1 or column_labels.ndim != 1:
        raise ValueError(f"labels must be [N] and [M], got {list(row_labels.shape)} and {list(column_labels.shape)}")
    return row_labels[:, None] == column_labels[None, :]


def same_text_mask(row_ids: Tensor, row_mask: Tensor, column_ids: Tensor, column_mask: Tensor) -> Tensor:
    """Marks the pairs of equal texts, independent of padding side and length, [N, M].

    Different people may share a description, such as "a slim young woman": as negatives they would be label noise.
    Texts are numbered by one sort of all N + M rows, without an [N, M, T] comparison.

    Args:
        row_ids, row_mask: [N, T], token ids (not negative), and 1 for a token and 0 for padding.
        column_ids, column_mask: [M, T'], likewise; T' may differ from T.

    Raises:
        ValueError: ids are not two-dimensional, or a mask and its ids differ in shape.
    """
    for name, ids, mask in (("row", row_ids, row_mask), ("column", column_ids, column_mask)):
        if ids.ndim != 2 or ids.shape != mask.shape:
            raise ValueError(f"{name} ids and mask must both be [N, T], got {list(ids.shape)} and {list(mask.shape)}")
    width = max(row_ids.shape[1], column_ids.shape[1])
    texts = torch.cat([_left_aligned(row_ids, row_mask, width), _left_aligned(column_ids, column_mask, width)])
    _, text_numbers = torch.unique(texts, dim=0, return_inverse=True)  # [N + M]
    return same_label_mask(text_numbers[: len(row_ids)], text_numbers[len(row_ids) :])


def info_nce(
    queries: Tensor, keys: Tensor, logit_scale: Tensor | float, positives: Tensor, ignored: Tensor | None = None
) -> Tensor:
    """Computes InfoNCE in one direction with multiple positives per row (paper, eq. 3).

    Each positive p of row i is compared only with the row's negatives, not with its other positives:
    `-log(exp(s_ip) / (exp(s_ip) + sum over negatives of exp(s_in)))`, averaged over the row's positives, then over
    rows. With one positive per row this is the usual InfoNCE. A row without positives or without negatives counts 0.

    Args:
        queries, keys: [N, d] and [M, d], L2-normalized by the caller.
        logit_scale: the factor 1/τ, not its logarithm.
        positives: [N, M], bool.
        ignored: [N, M], bool: pairs that are neither positive nor negative; overrides `positives`.

    Returns:
        scalar, the mean over all N rows.

    Raises:
        ValueError: inconsistent shapes, a mask that is not bool, or no rows or columns.

    Example:
        >>> info_nce(torch.eye(2), torch.eye(2), 1.0, positives=torch.eye(2).bool())  # log(1 + exp(0 - 1))
        tensor(0.3133)
    """
    return info_nce_of_rows(queries, keys, logit_scale, positives, ignored).mean()


def info_nce_of_rows(
    queries: Tensor, keys: Tensor, logit_scale: Tensor | float, positives: Tensor, ignored: Tensor | None = None
) -> Tensor:
    """Computes `info_nce` without the mean over rows, [N]; with inputs [T, ...], of T problems at once, [T, N]."""
    similarity = _scaled_similarity(queries, keys, logit_scale)  # [..., N, M]
    positives, negatives = _pairs(similarity, positives, ignored)
    deficit = masked_logsumexp(similarity, negatives)[..., None] - similarity  # > 0 where negatives dominate
    per_pair = torch.where(positives, F.softplus(deficit), 0.0)  # [..., N, M]
    return per_pair.sum(dim=-1) / positives.sum(dim=-1).clamp(min=1)


def sdm_of_rows(
    queries: Tensor,
    keys: Tensor,
    logit_scale: Tensor | float,
    positives: Tensor,
    ignored: Tensor | None = None,
    epsilon: float = SDM_EPSILON,
) -> Tensor:
    """Computes similarity distribution matching (SDM) of each row in one direction: `KL(p_i || q_i)`.

    p_i is the softmax of the similarities of row i, q_i the distribution of its labels (Jiang and Ye, "Cross-Modal
    Implicit Relation Reasoning and Aligning for Text-to-Image Person Retrieval", CVPR 2023, section 3.3). The gradient
    of a negative is weighted by its own probability, so sharp but wrong similarities give no gradient: τ = 0.02 is for
    pretrained towers, new towers need a much higher temperature.

    Args:
        queries, keys, logit_scale, positives, ignored: see `info_nce`; leading dimensions are problems.
        epsilon: keeps the logarithm of a zero label finite.

    Returns:
        [..., N]; 0 for a row without positives.
    """
    similarity = _scaled_similarity(queries, keys, logit_scale)  # [..., N, M]
    positives, negatives = _pairs(similarity, positives, ignored)
    counted = positives | negatives
    log_p = similarity.masked_fill(~counted, torch.finfo(similarity.dtype).min / 2).log_softmax(dim=-1)
    labels = positives.to(log_p.dtype) / positives.sum(dim=-1, keepdim=True).clamp(min=1)
    divergence = log_p.exp() * (log_p - (labels + epsilon).log())  # [..., N, M]
    return torch.where(counted & positives.any(dim=-1, keepdim=True), divergence, 0.0).sum(dim=-1)


def tal_of_rows(
    queries: Tensor,
    keys: Tensor,
    logit_scale: Tensor | float,
    positives: Tensor,
    ignored: Tensor | None = None,
    margin: float = TAL_MARGIN,
) -> Tensor:
    """Computes the triplet alignment loss (TAL) of each row in one direction.

    `max(m - sum_p α_p s_ip + τ log sum_n exp(s_in / τ), 0)` over positives p and negatives n, where α is the softmax of
    the positives at temperature τ, without gradient: the hardest negative of a triplet loss, smoothed (Qin et al.,
    "Noisy-Correspondence Learning for Text-to-Image Person Re-identification", CVPR 2024, section 3.3).

    Args:
        queries, keys, logit_scale, positives, ignored: see `info_nce`; leading dimensions are problems.
        margin: m, in units of similarity.

    Returns:
        [..., N]; 0 for a row without positives or without negatives.
    """
    logits = _scaled_similarity(queries, keys, logit_scale)  # s / τ, [..., N, M]
    positives, negatives = _pairs(logits, positives, ignored)
    lowest = torch.finfo(logits.dtype).min / 2
    alpha = logits.detach().masked_fill(~positives, lowest).softmax(dim=-1)
    gap = masked_logsumexp(logits, negatives) - (alpha * logits).sum(dim=-1)  # [..., N]
    counted = positives.any(dim=-1) & negatives.any(dim=-1)
    return torch.where(counted, F.relu(margin + gap / logit_scale), 0.0)


def pair_loss_of_rows(
    kind: str, queries: Tensor, keys: Tensor, logit_scale: Tensor, positives: Tensor, ignored: Tensor | None = None
) -> Tensor:
    """Computes the pair loss of each row: InfoNCE at `logit_scale`, or SDM or TAL at the temperature of its paper.

    TAL is in units of its temperature, so that its gradients are as large as those of the other two.

    Args:
        kind: `"info_nce"`, `"sdm"` or `"tal"`.
        queries, keys, logit_scale, positives, ignored: see `info_nce_of_rows`, also for the result.
    """
    if kind == "sdm":
        return sdm_of_rows(queries, keys, 1 / SDM_TEMPERATURE, positives, ignored)
    if kind == "tal":
        return tal_of_rows(queries, keys, 1 / TAL_TEMPERATURE, positives, ignored) / TAL_TEMPERATURE
    return info_nce_of_rows(queries, keys, logit_scale, positives, ignored)


def triplet(
    anchors: Tensor, candidates: Tensor, anchor_ids: Tensor, candidate_ids: Tensor, margin: float, offset: int = 0
) -> Tensor:
    """Computes the batch-hard triplet loss on squared L2 distances (paper, eq. 4): `max(|a-p|^2 - |a-n|^2 + m, 0)`.

    The hard positive is the farthest other candidate of the anchor's identity, the hard negative the nearest candidate
    of another identity. An anchor without positive or without negative counts 0.

    Args:
        anchors, candidates: identity features of this rank and of all ranks, [N, d] and [M, d].
        anchor_ids, candidate_ids: person of each, integers, [N] and [M].
        margin: m of eq. 4, in units of squared distance.
        offset: anchor i is candidate `offset + i`; rank * N in distributed training.

    Returns:
        scalar, the mean over all N anchors.

    Raises:
        ValueError: inconsistent shapes, no anchors, or `offset` + N exceeds M.
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
    anchors, candidates = full_precision(anchors), full_precision(candidates)
    same_person = same_label_mask(anchor_ids, candidate_ids)  # [N, M]
    rows = torch.arange(len(anchors), device=anchors.device)
    is_positive = same_person.clone()
    is_positive[rows, rows + offset] = False  # the anchor itself
    # Hard mining. A matrix product rounds differently for other shapes, so that ranks could select other triplets than
    # a single process; only the selected pairs need gradients.
    with torch.no_grad():
        distances = torch.cdist(anchors, candidates, compute_mode="donot_use_mm_for_euclid_dist")  # [N, M]
        hardest_positive = distances.masked_fill(~is_positive, -torch.inf).argmax(dim=1)  # [N]
        hardest_negative = distances.masked_fill(same_person, torch.inf).argmin(dim=1)  # [N]
    positive_distance = (anchors - candidates[hardest_positive]).square().sum(dim=1)  # [N]
    negative_distance = (anchors - candidates[hardest_negative]).square().sum(dim=1)  # [N]
    has_triplet = is_positive.any(dim=1) & ~same_person.all(dim=1)  # [N]
    return torch.where(has_triplet, F.relu(positive_distance - negative_distance + margin), 0.0).mean()


def adversarial(clothing: Tensor, text: Tensor, logit_scale: Tensor | float, positives: Tensor) -> Tensor:
    """Computes the clothing adversarial loss (paper, eq. 1): `-log(1 - P_pos)`.

    P_pos is the softmax probability of a row's positives; `softplus(logsumexp(positives) - logsumexp(negatives))`
    neither overflows as it approaches 1 nor cancels as it approaches 0. A row without positives or negatives counts 0.

    Args:
        clothing: [N, d], L2-normalized by the caller; with `adversarial_on="identity"` the identity feature after
            `gradient_reversal`.
        text: [M, d], clothing texts, L2-normalized by the caller.
        logit_scale, positives: see `info_nce`, also for the result and the errors.
    """
    similarity = _scaled_similarity(clothing, text, logit_scale)  # [N, M]
    positives, negatives = _pairs(similarity, positives)
    log_odds = masked_logsumexp(similarity, positives) - masked_logsumexp(similarity, negatives)  # [N]
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
    """Returns `x` unchanged and multiplies its gradient by `-scale` (gradient reversal layer, Ganin et al.)."""
    reversed_x: Tensor = _GradientReversal.apply(x, scale)
    return reversed_x


def hsic(identity: Tensor, clothing: Tensor, estimator: Literal["biased", "unbiased"] = "biased") -> Tensor:
    """Computes HSIC with linear kernels: a measure of dependence, 0 for uncorrelated features.

    `"biased"` is eq. 2 of the paper, `tr(K_id H K_clo H) / (B - 1)^2`, in which H centers the features; the cheaper of
    two equal forms is computed, O(B^2 D) or O(B D^2). It grows as the batch shrinks.

    `"unbiased"` is the estimator of Song et al., "Feature Selection via Dependence Maximization" (JMLR 2012), eq. 4,
    O(B^2 D). Its mean does not depend on the batch size, and it can be negative.

    Args:
        identity, clothing: gated features of all ranks, [B, D] each; for B = 1 (unbiased: B < 4) the result is 0.
        estimator: one of these two.

    Raises:
        ValueError: the shapes differ or are not [B, D] with B >= 1.

    Example:
        >>> hsic(torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [5.0]]))  # (2 * 0.5 * 1)^2 / (2 - 1)^2
        tensor(1.)
    """
    _check_pair_of_matrices("identity", identity, "clothing", clothing)
    if identity.shape != clothing.shape:
        shapes = f"{list(identity.shape)}, {list(clothing.shape)}"
        raise ValueError(f"identity and clothing must have one shape, got {shapes}")
    batch, width = identity.shape
    identity, clothing = full_precision(identity), full_precision(clothing)
    identity, clothing = identity - identity.mean(dim=0), clothing - clothing.mean(dim=0)
    with torch.autocast(identity.device.type, enabled=False):
        if estimator == "unbiased":
            first, second = _off_diagonal_gram(identity), _off_diagonal_gram(clothing)  # [B, B] each
            if batch < 4:
                return 0 * (first * second).sum()
            sums, other_sums = first.sum(dim=1), second.sum(dim=1)  # [B] each
            joint = (first * second).sum() - 2 / (batch - 2) * sums @ other_sums
            return (joint + sums.sum() * other_sums.sum() / ((batch - 1) * (batch - 2))) / (batch * (batch - 3))
        if batch < width:
            trace = ((identity @ identity.T) * (clothing @ clothing.T)).sum()  # from [B, B]
        else:
            trace = (identity.T @ clothing).square().sum()  # from [D, D]
    return trace / max(batch - 1, 1) ** 2


def normalized_hsic(identity: Tensor, clothing: Tensor) -> Tensor:
    """Computes biased HSIC over the geometric mean of the HSIC of each input with itself: from 0 to 1, free of scale.

    Args:
        identity, clothing: [B, D] each.
    """
    scale = hsic(identity, identity) * hsic(clothing, clothing)
    return hsic(identity, clothing) / scale.sqrt().clamp(min=torch.finfo(scale.dtype).tiny)


def gate_regularization(bdam_gate: Tensor | None, fusion_gate: Tensor | None) -> Tensor:
    """Computes the gate regularization (paper, section 4.2): the squared distance of each gate's mean from 1/2.

    Only the mean over the batch is regularized, against collapse to one branch or modality; single samples and
    dimensions are free. In distributed training the gates are gathered first: a squared mean is not a mean over rows.

    Args:
        bdam_gate: [B, D], g of the paper's section 3.2; None for a model without it.
        fusion_gate: [B, 2], w of the paper's section 3.4, with rows of sum 1; None for a model without it.

    Raises:
        ValueError: both gates are None, or a gate has another shape.
    """
    if bdam_gate is None and fusion_gate is None:
        raise ValueError("gate regularization needs at least one gate; leave the term out of a model without gates")
    terms: list[Tensor] = []
    if bdam_gate is not None:
        if bdam_gate.ndim != 2 or bdam_gate.numel() == 0:
            raise ValueError(f"bdam_gate must be [B, D], got {list(bdam_gate.shape)}")
        terms.append((full_precision(bdam_gate).mean() - 0.5).square())
    if fusion_gate is not None:
        if fusion_gate.ndim != 2 or fusion_gate.shape[1] != 2 or len(fusion_gate) == 0:
            raise ValueError(f"fusion_gate must be [B, 2], got {list(fusion_gate.shape)}")
        # Both columns deviate from 1/2 equally, so their mean counts the deviation once.
        terms.append((full_precision(fusion_gate).mean(dim=0) - 0.5).square().mean())
    return torch.stack(terms).sum()


def _off_diagonal_gram(rows: Tensor) -> Tensor:
    """Computes the inner products of all pairs of rows [B, D], with zeros on the diagonal, [B, B]."""
    gram = rows @ rows.T
    return gram - torch.diag(gram.diagonal())


def full_precision(x: Tensor) -> Tensor:
    """Converts to float32, except float64."""
    return x if x.dtype == torch.float64 else x.float()


def _scaled_similarity(rows: Tensor, columns: Tensor, logit_scale: Tensor | float) -> Tensor:
    """Computes `logit_scale * rows @ columns^T` [..., N, M] of [..., N, d] and [..., M, d] in full precision."""
    _check_pair_of_matrices("rows", rows, "columns", columns)
    if isinstance(logit_scale, Tensor):
        if logit_scale.numel() != 1:
            raise ValueError(f"logit_scale must be one number, got shape {list(logit_scale.shape)}")
        logit_scale = full_precision(logit_scale).reshape(())
    with torch.autocast(rows.device.type, enabled=False):
        return logit_scale * (full_precision(rows) @ full_precision(columns).mT)


def masked_logsumexp(scores: Tensor, mask: Tensor) -> Tensor:
    """Computes logsumexp over the True entries of each row of [..., N, M]; without any, a large negative number.

    The number is finite to avoid inf - inf, and half of the lowest float, so that subtracting a score cannot overflow.
    """
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min / 2).logsumexp(dim=-1)


def _left_aligned(ids: Tensor, mask: Tensor, width: int) -> Tensor:
    """Moves the tokens of [N, T] to the left and pads with -1, which is not a token id: [N, width]."""
    padding = mask == 0
    order = padding.to(torch.int8).argsort(dim=1, stable=True)  # stable: keeps the order of the tokens
    return F.pad(ids.masked_fill(padding, -1).gather(1, order), (0, width - ids.shape[1]), value=-1)


def _check_pair_of_matrices(first_name: str, first: Tensor, second_name: str, second: Tensor) -> None:
    shapes = first.shape, second.shape
    batch, other_batch = (shape[:-2] for shape in shapes)
    fits = min(map(len, shapes)) > 1 and batch == other_batch and first.shape[-1] == second.shape[-1]
    if not fits or 0 in (*first.shape[:-1], *second.shape[:-1]):
        raise ValueError(
            f"{first_name} and {second_name} must be [N, d] and [M, d] with at least one row each, "
            f"got {list(first.shape)} and {list(second.shape)}"
        )


def _pairs(scores: Tensor, positives: Tensor, ignored: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Returns the masks of positive and of negative pairs; both must be bool and have the shape of the scores."""
    for name, mask in {"positives": positives, **({} if ignored is None else {"ignored": ignored})}.items():
        if mask.shape != scores.shape or mask.dtype != torch.bool:
            raise ValueError(f"{name} must be bool {list(scores.shape)}, got {mask.dtype} {list(mask.shape)}")
    return (positives, ~positives) if ignored is None else (positives & ~ignored, ~positives & ~ignored)
