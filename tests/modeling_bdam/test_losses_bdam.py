"""Each loss against a slow oracle in float64, written from its definition with plain loops."""

import math

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from modeling_bdam import losses_bdam as losses

DOUBLE = torch.float64


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


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def awkward_positives() -> Tensor:
    """[6, 8]: several positives, one, none (row 2), and no negatives (row 3)."""
    positives = torch.rand(6, 8) < 0.3
    positives[0] = torch.tensor([1, 0, 0, 0, 0, 0, 0, 0]).bool()
    positives[1] = torch.tensor([1, 1, 1, 0, 0, 0, 0, 0]).bool()
    positives[2] = False
    positives[3] = True
    return positives


# --- masks


def test_same_label_mask_marks_equal_labels() -> None:
    mask = losses.same_label_mask(torch.tensor([3, 5]), torch.tensor([5, 3, 3]))
    assert mask.tolist() == [[False, True, True], [True, False, False]]


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_same_text_mask_compares_tokens_whatever_the_padding(padding_side: str) -> None:
    # Prefixes of each other, other orders, a real token 0 (also a padding id), and an empty text.
    texts = [[7, 8], [7, 8, 0], [7, 8, 0, 0], [8, 7], [7], [0], [], [7, 8], [1, 2, 3, 4]]
    row_texts, column_texts = [*texts[:6], []], texts

    def padded(batch: list[list[int]], width: int, pad_id: int, side: str) -> tuple[Tensor, Tensor]:
        ids, mask = [], []
        for text in batch:
            pad = width - len(text)
            before, after = (pad, 0) if side == "left" else (0, pad)
            ids.append([pad_id] * before + text + [pad_id] * after)
            mask.append([0] * before + [1] * len(text) + [0] * after)
        return torch.tensor(ids), torch.tensor(mask)

    mask = losses.same_text_mask(*padded(row_texts, 4, 0, "right"), *padded(column_texts, 7, 9, padding_side))
    assert mask.tolist() == [[row == column for column in column_texts] for row in row_texts]


def test_same_text_mask_agrees_with_list_comparison_on_random_texts() -> None:
    ids, lengths = torch.randint(0, 2, (40, 5)), torch.randint(1, 6, (40,))
    mask = (torch.arange(5) < lengths[:, None]).long()
    lists = [row[:length].tolist() for row, length in zip(ids, lengths.tolist(), strict=True)]
    expected = [[row == column for column in lists[10:]] for row in lists[:10]]
    assert losses.same_text_mask(ids[:10], mask[:10], ids[10:], mask[10:]).tolist() == expected


def test_same_text_mask_keeps_the_order_of_the_tokens_of_long_texts() -> None:
    ids = torch.randint(0, 30000, (4, 200))
    mask = (torch.rand(4, 200) < 0.7).long()  # padding strewn in, which a sort that is not stable would scramble
    width = int(mask.sum(dim=1).max())
    packed, packed_mask = torch.zeros(4, width, dtype=torch.long), torch.zeros(4, width, dtype=torch.long)
    for row in range(4):
        tokens = ids[row][mask[row] == 1]
        packed[row, : len(tokens)], packed_mask[row, : len(tokens)] = tokens, 1
    assert torch.equal(losses.same_text_mask(ids, mask, packed, packed_mask), torch.eye(4).bool())


# --- InfoNCE


@pytest.mark.parametrize("scale", [1.0, 14.0])
def test_info_nce_equals_the_loop(awkward_positives: Tensor, scale: float) -> None:
    queries, keys = unit_rows(6, 5), unit_rows(8, 5)
    ignored = torch.rand(6, 8) < 0.2
    for skip in (None, ignored):
        expected = slow_info_nce(
            queries, keys, scale, awkward_positives, torch.zeros(6, 8).bool() if skip is None else skip
        )
        got = losses.info_nce(queries, keys, scale, awkward_positives, skip)
        assert got.item() == pytest.approx(expected, rel=1e-10)


def test_info_nce_with_one_positive_a_row_is_cross_entropy() -> None:
    queries, keys = unit_rows(5, 4), unit_rows(5, 4)
    expected = torch.nn.functional.cross_entropy(7 * queries @ keys.T, torch.arange(5))
    torch.testing.assert_close(losses.info_nce(queries, keys, 7.0, torch.eye(5).bool()), expected)


def test_info_nce_gives_no_gradient_between_a_query_and_an_ignored_key() -> None:
    queries, keys = unit_rows(1, 4), unit_rows(3, 4).requires_grad_()
    positives, ignored = torch.tensor([[True, False, False]]), torch.tensor([[False, False, True]])
    losses.info_nce(queries, keys, 5.0, positives, ignored).backward()
    assert keys.grad is not None
    assert keys.grad[:2].abs().min() > 0
    assert (keys.grad[2] == 0).all()


def test_info_nce_gradient_is_right(awkward_positives: Tensor) -> None:
    queries, keys = unit_rows(6, 3).requires_grad_(), unit_rows(8, 3).requires_grad_()
    scale = torch.tensor(3.0, dtype=DOUBLE, requires_grad=True)
    ignored = torch.rand(6, 8) < 0.2
    assert torch.autograd.gradcheck(
        lambda q, k, s: losses.info_nce(q, k, s, awkward_positives, ignored), (queries, keys, scale)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["info_nce", "adversarial"])
def test_contrastive_losses_stay_finite_at_scale_10000(
    awkward_positives: Tensor, name: str, dtype: torch.dtype
) -> None:
    rows = unit_rows(6, 5).to(dtype).requires_grad_()
    columns = unit_rows(8, 5).to(dtype).requires_grad_()
    scale = torch.tensor(1e4, requires_grad=True)
    loss = getattr(losses, name)(rows, columns, scale, awkward_positives)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert loss > 100  # the worst rows are far off at this scale, so a loss that lost them would be small
    for tensor in (rows, columns, scale):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


@pytest.mark.parametrize("fill", [True, False])
@pytest.mark.parametrize("name", ["info_nce", "adversarial"])
def test_contrastive_losses_are_zero_without_negatives_or_without_positives(name: str, fill: bool) -> None:
    rows, columns = unit_rows(3, 4).float().requires_grad_(), unit_rows(3, 4).float()
    loss = getattr(losses, name)(rows, columns, 100.0, torch.full((3, 3), fill))
    loss.backward()
    assert loss.item() == 0
    assert rows.grad is not None
    assert (rows.grad == 0).all()


@pytest.mark.parametrize("name", ["info_nce", "adversarial"])
def test_contrastive_losses_ignore_autocast(awkward_positives: Tensor, name: str) -> None:
    rows, columns = unit_rows(6, 64).float(), unit_rows(8, 64).float()
    expected = getattr(losses, name)(rows, columns, 100.0, awkward_positives)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert getattr(losses, name)(rows, columns, 100.0, awkward_positives).item() == expected.item()


@pytest.mark.parametrize("name", ["info_nce", "adversarial"])
def test_mean_over_processes_is_the_one_process_contrastive_loss(awkward_positives: Tensor, name: str) -> None:
    loss = getattr(losses, name)
    rows, columns = unit_rows(6, 5).requires_grad_(), unit_rows(8, 5).requires_grad_()
    whole = loss(rows, columns, 9.0, awkward_positives)
    halves = [loss(rows[part], columns, 9.0, awkward_positives[part]) for part in (slice(0, 3), slice(3, 6))]
    mean = (halves[0] + halves[1]) / 2
    torch.testing.assert_close(mean, whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(mean, (rows, columns)), torch.autograd.grad(whole, (rows, columns)), rtol=1e-10, atol=1e-14
    )


# --- triplet


@pytest.mark.parametrize("margin", [0.0, 0.3, 5.0])
def test_triplet_equals_the_loop(margin: float) -> None:
    ids = [4, 4, 7, 7, 7, 4, 1, 9]  # 1 and 9 have no positive
    features = torch.randn(8, 5, dtype=DOUBLE)
    labels = torch.tensor(ids)
    got = losses.triplet(features, features, labels, labels, margin)
    assert got.item() == pytest.approx(slow_triplet(features, ids, margin), rel=1e-12)


def test_triplet_gradient_is_right() -> None:
    features, labels = torch.randn(6, 3, dtype=DOUBLE, requires_grad=True), torch.tensor([0, 0, 1, 1, 2, 2])
    assert torch.autograd.gradcheck(lambda f: losses.triplet(f, f, labels, labels, 2.0), (features,))


@pytest.mark.parametrize("ids", [[1, 2, 3, 4], [5, 5, 5, 5]], ids=["no positives", "no negatives"])
def test_triplet_without_any_triplet_is_zero_with_zero_gradient(ids: list[int]) -> None:
    features, labels = torch.randn(4, 3, requires_grad=True), torch.tensor(ids)
    loss = losses.triplet(features, features, labels, labels, 0.3)
    loss.backward()
    assert loss.item() == 0
    assert features.grad is not None
    assert (features.grad == 0).all()


def test_triplet_of_coinciding_features_is_the_margin_with_a_finite_gradient() -> None:
    features, labels = torch.ones(4, 3, requires_grad=True), torch.tensor([0, 0, 1, 1])
    loss = losses.triplet(features, features, labels, labels, 0.25)
    loss.backward()
    assert loss.item() == 0.25
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_mean_over_processes_is_the_one_process_triplet() -> None:
    labels = torch.tensor([0, 0, 1, 1, 0, 2, 1, 2])
    features = torch.randn(8, 5, dtype=DOUBLE, requires_grad=True)
    whole = losses.triplet(features, features, labels, labels, 1.0)
    halves = [losses.triplet(features[k : k + 4], features, labels[k : k + 4], labels, 1.0, offset=k) for k in (0, 4)]
    mean = (halves[0] + halves[1]) / 2
    torch.testing.assert_close(mean, whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(mean, features), torch.autograd.grad(whole, features), rtol=1e-10, atol=1e-14
    )


# --- adversarial


def test_adversarial_equals_the_loop(awkward_positives: Tensor) -> None:
    clothing, text = unit_rows(6, 5), unit_rows(8, 5)
    expected = slow_adversarial(clothing, text, 5.0, awkward_positives)
    assert losses.adversarial(clothing, text, 5.0, awkward_positives).item() == pytest.approx(expected, rel=1e-10)


def test_adversarial_gradient_is_right(awkward_positives: Tensor) -> None:
    clothing, text = unit_rows(6, 3).requires_grad_(), unit_rows(8, 3).requires_grad_()
    scale = torch.tensor(3.0, dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda c, t, s: losses.adversarial(c, t, s, awkward_positives), (clothing, text, scale)
    )


def test_descending_the_adversarial_loss_lowers_similarity_to_the_positive() -> None:
    clothing, text = unit_rows(3, 4).requires_grad_(), unit_rows(3, 4)
    losses.adversarial(clothing, text, 2.0, torch.eye(3).bool()).backward()
    assert clothing.grad is not None
    assert ((-clothing.grad * text).sum(dim=1) < 0).all()


def test_gradient_reversal_keeps_the_value_and_turns_the_gradient() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    y = losses.gradient_reversal(x, 0.5)
    (y * torch.arange(6.0).view(3, 2)).sum().backward()
    assert torch.equal(y, x)
    assert x.grad is not None
    assert torch.equal(x.grad, -0.5 * torch.arange(6.0).view(3, 2))


# --- decoupling and gates


@pytest.mark.parametrize(("batch", "width"), [(5, 9), (9, 5), (6, 6), (2, 3)])
def test_hsic_equals_the_trace_with_the_centring_matrix(batch: int, width: int) -> None:
    identity = torch.randn(batch, width, dtype=DOUBLE, requires_grad=True)
    clothing = torch.randn(batch, width, dtype=DOUBLE, requires_grad=True) + 3
    centring = torch.eye(batch, dtype=DOUBLE) - torch.ones(batch, batch, dtype=DOUBLE) / batch
    product = (identity @ identity.T) @ centring @ (clothing @ clothing.T) @ centring
    expected = torch.trace(product) / (batch - 1) ** 2
    got = losses.hsic(identity, clothing)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(got, identity), torch.autograd.grad(expected, identity), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize(("batch", "width"), [(4, 64), (64, 4)])
def test_hsic_costs_the_smaller_of_batch_and_width_squared(batch: int, width: int) -> None:
    with FlopCounterMode(display=False) as counter:
        losses.hsic(torch.randn(batch, width), torch.randn(batch, width))
    assert 0 < counter.get_total_flops() <= 4 * min(batch**2 * width, batch * width**2)


def test_hsic_of_one_sample_is_zero_with_zero_gradient() -> None:
    identity = torch.randn(1, 4, requires_grad=True)
    loss = losses.hsic(identity, torch.randn(1, 4))
    loss.backward()
    assert loss.item() == 0
    assert identity.grad is not None
    assert (identity.grad == 0).all()


def test_hsic_of_half_precision_features_is_computed_in_float32() -> None:
    # tr(K H K H) is about 1e8 here: more than float16 holds.
    identity = (100 * torch.randn(8, 16)).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = losses.hsic(identity, identity)
    torch.testing.assert_close(loss.double(), losses.hsic(identity.double(), identity.double()), rtol=1e-5, atol=0)


def test_gate_regularization_is_the_distance_of_the_means_from_one_half() -> None:
    bdam_gate, image_weight = torch.rand(7, 4, dtype=DOUBLE), torch.rand(7, dtype=DOUBLE)
    fusion_gate = torch.stack([image_weight, 1 - image_weight], dim=1)
    mean_gate = sum(bdam_gate.flatten().tolist()) / 28
    mean_weight = sum(image_weight.tolist()) / 7
    bdam_term, fusion_term = (mean_gate - 0.5) ** 2, (mean_weight - 0.5) ** 2
    assert losses.gate_regularization(bdam_gate, None).item() == pytest.approx(bdam_term)
    assert losses.gate_regularization(None, fusion_gate).item() == pytest.approx(fusion_term)
    assert losses.gate_regularization(bdam_gate, fusion_gate).item() == pytest.approx(bdam_term + fusion_term)


def test_gate_regularization_leaves_a_single_sample_free_to_choose() -> None:
    assert losses.gate_regularization(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), None).item() == 0


# --- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.same_label_mask(torch.zeros(2, 1), torch.zeros(2)), "labels must be"),
        (lambda: losses.same_text_mask(*(torch.ones(s) for s in ((2, 3), (2, 4), (2, 3), (2, 3)))), "row ids and mask"),
        (
            lambda: losses.info_nce(torch.ones(2, 3), torch.ones(2, 4), 1.0, torch.eye(2).bool()),
            r"\[2, 3\] and \[2, 4\]",
        ),
        (lambda: losses.info_nce(torch.ones(0, 3), torch.ones(2, 3), 1.0, torch.ones(0, 2).bool()), "at least one row"),
        (
            lambda: losses.info_nce(torch.ones(2, 3), torch.ones(4, 3), 1.0, torch.eye(2).bool()),
            "positives must be bool",
        ),
        (lambda: losses.info_nce(torch.ones(2, 3), torch.ones(2, 3), 1.0, torch.eye(2)), "positives must be bool"),
        (
            lambda: losses.info_nce(torch.ones(2, 3), torch.ones(2, 3), 1.0, torch.eye(2).bool(), torch.eye(3).bool()),
            "ignored must be bool",
        ),
        (
            lambda: losses.adversarial(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2), torch.eye(2).bool()),
            "logit_scale must be one number",
        ),
        (
            lambda: losses.triplet(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2), torch.ones(3), 0.1),
            "one identity each",
        ),
        (
            lambda: losses.triplet(torch.ones(2, 3), torch.ones(4, 3), torch.ones(2), torch.ones(4), 0.1, 3),
            "offset must be",
        ),
        (lambda: losses.hsic(torch.ones(3, 2), torch.ones(2, 2)), "one shape"),
        (lambda: losses.gate_regularization(None, None), "at least one gate"),
        (lambda: losses.gate_regularization(None, torch.ones(2, 3)), r"fusion_gate must be \[B, 2\]"),
        (lambda: losses.gate_regularization(torch.ones(3), None), r"bdam_gate must be \[B, D\]"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()
