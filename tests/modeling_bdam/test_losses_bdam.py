"""Tests of each loss against a naive oracle in float64, written from its definition with plain loops."""

import doctest
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from modeling_bdam import losses_bdam as losses

DOUBLE = torch.float64
EACH_CONTRASTIVE_LOSS = pytest.mark.parametrize("name", ["info_nce", "adversarial"])
pytestmark = pytest.mark.usefixtures("seed")


def test_doctests_of_the_losses() -> None:
    results = doctest.testmod(losses)
    assert results.attempted > 0
    assert results.failed == 0


def unit_rows(*shape: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, dtype=DOUBLE), dim=-1)


def slow_info_nce(queries: Tensor, keys: Tensor, scale: float, positives: Tensor, ignored: Tensor) -> float:
    total = 0.0
    for i in range(len(queries)):
        score = [scale * float(queries[i] @ key) for key in keys]
        columns = [j for j in range(len(keys)) if not ignored[i, j]]
        negatives = [j for j in columns if not positives[i, j]]
        terms = []
        for p in (j for j in columns if positives[i, j]):
            rest = sum(math.exp(score[n] - score[p]) for n in negatives)
            terms.append(math.log(1 + rest))
        total += sum(terms) / len(terms) if terms else 0.0
    return total / len(queries)


def slow_triplet(features: Tensor, ids: list[int], margin: float) -> float:
    total = 0.0
    for a in range(len(features)):
        distance = [float(((features[a] - other) ** 2).sum()) for other in features]
        positives = [distance[j] for j in range(len(ids)) if ids[j] == ids[a] and j != a]
        negatives = [distance[j] for j in range(len(ids)) if ids[j] != ids[a]]
        if positives and negatives:
            total += max(max(positives) - min(negatives) + margin, 0.0)
    return total / len(features)


def slow_adversarial(clothing: Tensor, text: Tensor, scale: float, positives: Tensor) -> float:
    total = 0.0
    for i in range(len(clothing)):
        mass = [math.exp(scale * float(clothing[i] @ other)) for other in text]
        if not positives[i].all():
            p_pos = sum(m for m, positive in zip(mass, positives[i], strict=True) if positive) / sum(mass)
            total -= math.log(1 - p_pos)
    return total / len(clothing)


@pytest.fixture
def awkward_positives() -> Tensor:
    """[6, 8]: one positive, several, none (row 2), and no negatives (row 3)."""
    positives = torch.rand(6, 8) < 0.3
    positives[0] = torch.tensor([1, 0, 0, 0, 0, 0, 0, 0]).bool()
    positives[1] = torch.tensor([1, 1, 1, 0, 0, 0, 0, 0]).bool()
    positives[2] = False
    positives[3] = True
    return positives


def test_same_label_mask_marks_equal_labels() -> None:
    mask = losses.same_label_mask(torch.tensor([3, 5]), torch.tensor([5, 3, 3]))
    assert mask.tolist() == [[False, True, True], [True, False, False]]


def padded(texts: list[list[int]], width: int, pad_id: int, left: bool) -> tuple[Tensor, Tensor]:
    """Ids and mask [N, width] of texts."""
    ids, mask = [], []
    for text in texts:
        padding, ones = (width - len(text)) * [pad_id], len(text) * [1]
        zeros = len(padding) * [0]
        ids.append(padding + text if left else text + padding)
        mask.append(zeros + ones if left else ones + zeros)
    return torch.tensor(ids), torch.tensor(mask)


@pytest.mark.parametrize("left", [True, False])
def test_same_text_mask_compares_tokens_without_padding(left: bool) -> None:
    # Prefixes of each other, other orders, a real token 0 (also a padding id), and an empty text.
    texts = [[7, 8], [7, 8, 0], [7, 8, 0, 0], [8, 7], [7], [0], [], [7, 8], [1, 2, 3, 4]]
    mask = losses.same_text_mask(*padded(texts[:7], 4, 0, left=False), *padded(texts, 7, 9, left))
    assert mask.tolist() == [[row == column for column in texts] for row in texts[:7]]


def test_same_text_mask_equals_list_comparison() -> None:
    ids, lengths = torch.randint(0, 2, (40, 5)), torch.randint(1, 6, (40,))
    mask = (torch.arange(5) < lengths[:, None]).long()
    lists = [row[:length].tolist() for row, length in zip(ids, lengths.tolist(), strict=True)]
    expected = [[row == column for column in lists[10:]] for row in lists[:10]]
    assert losses.same_text_mask(ids[:10], mask[:10], ids[10:], mask[10:]).tolist() == expected


def test_same_text_mask_keeps_the_order_of_long_texts() -> None:
    ids = torch.randint(0, 30000, (4, 200))
    mask = (torch.rand(4, 200) < 0.7).long()  # with padding inside, which an unstable sort would shuffle
    width = int(mask.sum(dim=1).max())
    packed, packed_mask = torch.zeros(4, width, dtype=torch.long), torch.zeros(4, width, dtype=torch.long)
    for row in range(4):
        tokens = ids[row][mask[row] == 1]
        packed[row, : len(tokens)], packed_mask[row, : len(tokens)] = tokens, 1
    assert torch.equal(losses.same_text_mask(ids, mask, packed, packed_mask), torch.eye(4).bool())


@pytest.mark.parametrize("share", [0.0, 0.2])
@pytest.mark.parametrize("scale", [1.0, 14.0])
def test_info_nce_equals_the_oracle(awkward_positives: Tensor, scale: float, share: float) -> None:
    queries, keys = unit_rows(6, 5), unit_rows(8, 5)
    ignored = torch.rand(6, 8) < share
    expected = slow_info_nce(queries, keys, scale, awkward_positives, ignored)
    got = losses.info_nce(queries, keys, scale, awkward_positives, ignored if share else None)
    assert got.item() == pytest.approx(expected, rel=1e-10)


def test_info_nce_with_one_positive_per_row_is_cross_entropy() -> None:
    queries, keys = unit_rows(5, 4), unit_rows(5, 4)
    expected = torch.nn.functional.cross_entropy(7 * queries @ keys.T, torch.arange(5))
    torch.testing.assert_close(losses.info_nce(queries, keys, 7.0, torch.eye(5).bool()), expected)


def test_info_nce_has_no_gradient_for_ignored_pairs() -> None:
    queries, keys = unit_rows(1, 4), unit_rows(3, 4).requires_grad_()
    positives, ignored = torch.tensor([[True, False, False]]), torch.tensor([[False, False, True]])
    losses.info_nce(queries, keys, 5.0, positives, ignored).backward()
    assert keys.grad is not None
    assert keys.grad[:2].abs().min() > 0
    assert (keys.grad[2] == 0).all()


@EACH_CONTRASTIVE_LOSS
def test_contrastive_losses_pass_gradcheck(awkward_positives: Tensor, name: str) -> None:
    rows, columns = unit_rows(6, 3).requires_grad_(), unit_rows(8, 3).requires_grad_()
    scale = torch.tensor(3.0, dtype=DOUBLE, requires_grad=True)
    masks = [awkward_positives, torch.rand(6, 8) < 0.2][: 2 if name == "info_nce" else 1]
    assert torch.autograd.gradcheck(lambda *inputs: getattr(losses, name)(*inputs, *masks), (rows, columns, scale))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@EACH_CONTRASTIVE_LOSS
def test_contrastive_losses_are_finite_at_scale_10000(awkward_positives: Tensor, name: str, dtype: torch.dtype) -> None:
    rows = unit_rows(6, 5).to(dtype).requires_grad_()
    columns = unit_rows(8, 5).to(dtype).requires_grad_()
    scale = torch.tensor(1e4, requires_grad=True)
    loss = getattr(losses, name)(rows, columns, scale, awkward_positives)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert loss > 100  # the worst rows dominate at this scale
    for tensor in (rows, columns, scale):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


@pytest.mark.parametrize("fill", [True, False])
@EACH_CONTRASTIVE_LOSS
def test_contrastive_losses_are_zero_without_pairs(name: str, fill: bool) -> None:
    rows, columns = unit_rows(3, 4).float().requires_grad_(), unit_rows(3, 4).float()
    loss = getattr(losses, name)(rows, columns, 100.0, torch.full((3, 3), fill))
    loss.backward()
    assert loss.item() == 0
    assert rows.grad is not None
    assert (rows.grad == 0).all()


@EACH_CONTRASTIVE_LOSS
def test_contrastive_losses_ignore_autocast(awkward_positives: Tensor, name: str) -> None:
    rows, columns = unit_rows(6, 64).float(), unit_rows(8, 64).float()
    expected = getattr(losses, name)(rows, columns, 100.0, awkward_positives)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert getattr(losses, name)(rows, columns, 100.0, awkward_positives).item() == expected.item()


@EACH_CONTRASTIVE_LOSS
def test_mean_over_ranks_equals_single_process_contrastive(awkward_positives: Tensor, name: str) -> None:
    loss = getattr(losses, name)
    rows, columns = unit_rows(6, 5).requires_grad_(), unit_rows(8, 5).requires_grad_()
    whole = loss(rows, columns, 9.0, awkward_positives)
    halves = [loss(rows[part], columns, 9.0, awkward_positives[part]) for part in (slice(0, 3), slice(3, 6))]
    mean = (halves[0] + halves[1]) / 2
    torch.testing.assert_close(mean, whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(mean, (rows, columns)), torch.autograd.grad(whole, (rows, columns)), rtol=1e-10, atol=1e-14
    )


@pytest.mark.parametrize("margin", [0.0, 0.3, 5.0])
def test_triplet_equals_the_oracle(margin: float) -> None:
    ids = [4, 4, 7, 7, 7, 4, 1, 9]  # 1 and 9 have no positives
    features = torch.randn(8, 5, dtype=DOUBLE)
    labels = torch.tensor(ids)
    got = losses.triplet(features, features, labels, labels, margin)
    assert got.item() == pytest.approx(slow_triplet(features, ids, margin), rel=1e-12)


def test_triplet_passes_gradcheck() -> None:
    features, labels = torch.randn(6, 3, dtype=DOUBLE, requires_grad=True), torch.tensor([0, 0, 1, 1, 2, 2])
    assert torch.autograd.gradcheck(lambda f: losses.triplet(f, f, labels, labels, 2.0), (features,))


@pytest.mark.parametrize("ids", [[1, 2, 3, 4], [5, 5, 5, 5]], ids=["no positives", "no negatives"])
def test_triplet_without_triplets_is_zero(ids: list[int]) -> None:
    features, labels = torch.randn(4, 3, requires_grad=True), torch.tensor(ids)
    loss = losses.triplet(features, features, labels, labels, 0.3)
    loss.backward()
    assert loss.item() == 0
    assert features.grad is not None
    assert (features.grad == 0).all()


def test_triplet_of_equal_features_is_the_margin() -> None:
    features, labels = torch.ones(4, 3, requires_grad=True), torch.tensor([0, 0, 1, 1])
    loss = losses.triplet(features, features, labels, labels, 0.25)
    loss.backward()
    assert loss.item() == 0.25
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_mean_over_ranks_equals_single_process_triplet() -> None:
    labels = torch.tensor([0, 0, 1, 1, 0, 2, 1, 2])
    features = torch.randn(8, 5, dtype=DOUBLE, requires_grad=True)
    whole = losses.triplet(features, features, labels, labels, 1.0)
    halves = [losses.triplet(features[k : k + 4], features, labels[k : k + 4], labels, 1.0, offset=k) for k in (0, 4)]
    mean = (halves[0] + halves[1]) / 2
    torch.testing.assert_close(mean, whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(mean, features), torch.autograd.grad(whole, features), rtol=1e-10, atol=1e-14
    )


def test_adversarial_equals_the_oracle(awkward_positives: Tensor) -> None:
    clothing, text = unit_rows(6, 5), unit_rows(8, 5)
    expected = slow_adversarial(clothing, text, 5.0, awkward_positives)
    assert losses.adversarial(clothing, text, 5.0, awkward_positives).item() == pytest.approx(expected, rel=1e-10)


def test_adversarial_descent_lowers_similarity_to_positives() -> None:
    clothing, text = unit_rows(3, 4).requires_grad_(), unit_rows(3, 4)
    losses.adversarial(clothing, text, 2.0, torch.eye(3).bool()).backward()
    assert clothing.grad is not None
    assert ((-clothing.grad * text).sum(dim=1) < 0).all()


def test_gradient_reversal_negates_only_the_gradient() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    y = losses.gradient_reversal(x, 0.5)
    (y * torch.arange(6.0).view(3, 2)).sum().backward()
    assert torch.equal(y, x)
    assert x.grad is not None
    assert torch.equal(x.grad, -0.5 * torch.arange(6.0).view(3, 2))


@pytest.mark.parametrize(("batch", "width"), [(5, 9), (9, 5), (6, 6), (2, 3)])
def test_hsic_equals_the_trace_with_the_centering_matrix(batch: int, width: int) -> None:
    identity = torch.randn(batch, width, dtype=DOUBLE, requires_grad=True)
    clothing = torch.randn(batch, width, dtype=DOUBLE, requires_grad=True) + 3
    centering = torch.eye(batch, dtype=DOUBLE) - torch.ones(batch, batch, dtype=DOUBLE) / batch
    product = (identity @ identity.T) @ centering @ (clothing @ clothing.T) @ centering
    expected = torch.trace(product) / (batch - 1) ** 2
    got = losses.hsic(identity, clothing)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(got, identity), torch.autograd.grad(expected, identity), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize(("batch", "width"), [(4, 64), (64, 4)])
def test_hsic_computes_the_smaller_of_two_products(batch: int, width: int) -> None:
    with FlopCounterMode(display=False) as counter:
        losses.hsic(torch.randn(batch, width), torch.randn(batch, width))
    assert 0 < counter.get_total_flops() <= 4 * min(batch**2 * width, batch * width**2)


def test_hsic_of_one_sample_is_zero() -> None:
    identity = torch.randn(1, 4, requires_grad=True)
    loss = losses.hsic(identity, torch.randn(1, 4))
    loss.backward()
    assert loss.item() == 0
    assert identity.grad is not None
    assert (identity.grad == 0).all()


def test_unbiased_hsic_is_the_mean_of_small_batches() -> None:
    identity = torch.randn(64, 5, dtype=DOUBLE)
    clothing = identity @ torch.randn(5, 5, dtype=DOUBLE) + torch.randn(64, 5, dtype=DOUBLE)
    whole = losses.hsic(identity, clothing, "unbiased")
    draws = [torch.randperm(64)[:6] for _ in range(4000)]
    means = {
        name: torch.stack([losses.hsic(identity[rows], clothing[rows], name) for rows in draws]).mean()
        for name in ("unbiased", "biased")
    }
    torch.testing.assert_close(means["unbiased"], whole, rtol=0.05, atol=0)
    assert means["biased"] > 1.5 * whole


@pytest.mark.parametrize("batch", [1, 3])
def test_unbiased_hsic_of_few_samples_is_zero(batch: int) -> None:
    identity = torch.randn(batch, 4, requires_grad=True)
    loss = losses.hsic(identity, torch.randn(batch, 4), "unbiased")
    loss.backward()
    assert loss.item() == 0
    assert identity.grad is not None
    assert (identity.grad == 0).all()


def test_normalized_hsic_is_1_for_equal_and_0_for_constant_features() -> None:
    rows = torch.randn(9, 4)
    assert losses.normalized_hsic(rows, 3 * rows + 1).item() == pytest.approx(1)
    assert losses.normalized_hsic(rows, torch.ones(9, 4)).item() == pytest.approx(0)


def test_hsic_of_half_precision_uses_float32() -> None:
    # tr(K H K H) is about 1e8, which overflows float16.
    identity = (100 * torch.randn(8, 16)).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = losses.hsic(identity, identity)
    torch.testing.assert_close(loss.double(), losses.hsic(identity.double(), identity.double()), rtol=1e-5, atol=0)


def test_gate_regularization_is_squared_distance_from_half() -> None:
    bdam_gate, image_weight = torch.rand(7, 4, dtype=DOUBLE), torch.rand(7, dtype=DOUBLE)
    fusion_gate = torch.stack([image_weight, 1 - image_weight], dim=1)
    mean_gate = sum(bdam_gate.flatten().tolist()) / 28
    mean_weight = sum(image_weight.tolist()) / 7
    bdam_term, fusion_term = (mean_gate - 0.5) ** 2, (mean_weight - 0.5) ** 2
    assert losses.gate_regularization(bdam_gate, None).item() == pytest.approx(bdam_term)
    assert losses.gate_regularization(None, fusion_gate).item() == pytest.approx(fusion_term)
    assert losses.gate_regularization(bdam_gate, fusion_gate).item() == pytest.approx(bdam_term + fusion_term)


def test_gate_regularization_ignores_single_samples() -> None:
    assert losses.gate_regularization(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), None).item() == 0


ones, eye = torch.ones, torch.eye(2).bool()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("same_label_mask", (ones(2, 1), ones(2)), "labels must be"),
        ("same_text_mask", (ones(2, 3), ones(2, 4), ones(2, 3), ones(2, 3)), "row ids and mask"),
        ("info_nce", (ones(2, 3), ones(2, 4), 1.0, eye), r"\[2, 3\] and \[2, 4\]"),
        ("info_nce", (ones(0, 3), ones(2, 3), 1.0, ones(0, 2).bool()), "at least one row"),
        ("info_nce", (ones(2, 3), ones(4, 3), 1.0, eye), "positives must be bool"),
        ("info_nce", (ones(2, 3), ones(2, 3), 1.0, torch.eye(2)), "positives must be bool"),
        ("info_nce", (ones(2, 3), ones(2, 3), 1.0, eye, torch.eye(3).bool()), "ignored must be bool"),
        ("adversarial", (ones(2, 3), ones(2, 3), ones(2), eye), "logit_scale must be one number"),
        ("triplet", (ones(2, 3), ones(2, 3), ones(2), ones(3), 0.1), "one identity each"),
        ("triplet", (ones(2, 3), ones(4, 3), ones(2), ones(4), 0.1, 3), "offset must be"),
        ("hsic", (ones(3, 2), ones(2, 2)), "one shape"),
        ("gate_regularization", (None, None), "at least one gate"),
        ("gate_regularization", (None, ones(2, 3)), r"fusion_gate must be \[B, 2\]"),
        ("gate_regularization", (ones(3), None), r"bdam_gate must be \[B, D\]"),
    ],
)
def test_losses_refuse_inconsistent_shapes(name: str, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(losses, name)(*arguments)
