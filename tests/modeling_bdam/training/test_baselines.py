"""Losses of the baselines against plain loops over the formulas of their papers, in float64."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modeling_bdam.losses_bdam import SDM_EPSILON, pair_loss_of_rows, sdm_of_rows, tal_of_rows
from modeling_bdam.objective_bdam import PairLabels
from modeling_bdam.outputs_bdam import BDAMOutput
from modeling_bdam.training.baselines import OBJECTIVES
from modeling_bdam.training.irra import IRRAOutput, Vocabulary, identity_loss, mask_tokens
from modeling_bdam.training.objective import PairedOutputs
from modeling_bdam.training.rde import RDEOutput, TokenSelection, clean_pairs
from modeling_bdam.training.tbps import soft_label_contrast
from modeling_bdam.training.training_args import BDAMTrainingArguments

EXACT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}
Scores = list[list[Tensor]]


def scores_of(queries: Tensor, keys: Tensor) -> Scores:
    """Cosine similarities, one by one."""

    def cosine(one: Tensor, other: Tensor) -> Tensor:
        product, square, other_square = torch.zeros(3, dtype=torch.float64)
        for x, y in zip(one, other, strict=True):
            product, square, other_square = product + x * y, square + x * x, other_square + y * y
        return product / (square.sqrt() * other_square.sqrt())

    return [[cosine(query, key) for key in keys] for query in queries]


def softmax(row: list[Tensor]) -> list[Tensor]:
    masses = [value.exp() for value in row]
    total = sum(masses, torch.zeros(()))
    return [mass / total for mass in masses]


def slow_sdm(scores: Scores, positives: Tensor, scale: Any, epsilon: float = SDM_EPSILON) -> list[Tensor]:
    losses = []
    for row, labels in zip(scores, positives.tolist(), strict=True):
        p = softmax([scale * value for value in row])
        q = [float(label) / sum(labels) for label in labels]
        losses.append(sum((a * (a / (b + epsilon)).log() for a, b in zip(p, q, strict=True)), torch.zeros(())))
    return losses


def slow_tal(scores: Scores, positives: Tensor, temperature: float = 0.015, margin: float = 0.1) -> list[Tensor]:
    losses = []
    for row, labels in zip(scores, positives.tolist(), strict=True):
        alike = [value for value, label in zip(row, labels, strict=True) if label]
        alpha = [float(weight.detach()) for weight in softmax([value / temperature for value in alike])]
        positive = sum((weight * value for weight, value in zip(alpha, alike, strict=True)), torch.zeros(()))
        masses = [(value / temperature).exp() for value, label in zip(row, labels, strict=True) if not label]
        hinge = margin - positive + temperature * sum(masses, torch.zeros(())).log()
        losses.append(hinge if float(hinge.detach()) > 0 else 0 * hinge)
    return losses


def slow_soft_labels(scores: Scores, positives: Tensor, scale: Any, share: float) -> list[Tensor]:
    losses = []
    for row, labels in zip(scores, positives.tolist(), strict=True):
        p = softmax([scale * value for value in row])
        targets = [
            share * float(a.detach()) + (1 - share) * label / sum(labels) for a, label in zip(p, labels, strict=True)
        ]
        losses.append(-sum((target * a.log() for target, a in zip(targets, p, strict=True)), torch.zeros(())))
    return losses


def slow_cross_entropy(scores: Tensor, numbers: Tensor) -> Tensor:
    rows = zip(scores, numbers.tolist(), strict=True)
    return sum((-softmax(list(row))[number].log() for row, number in rows), torch.zeros(())) / len(scores)


def leaves(*shapes: tuple[int, ...]) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(*shape, dtype=torch.float64).requires_grad_() for shape in shapes]


def assert_same(found: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    """Compares two losses and their gradients by the inputs."""
    torch.testing.assert_close(found, expected.reshape(found.shape), **EXACT)
    for mine, theirs in zip(torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), strict=True):
        assert mine.abs().max() > 1e-6
        torch.testing.assert_close(mine, theirs, **EXACT)


NO_MODEL: Any = None  # the losses of the baselines read outputs only
POSITIVES = torch.tensor([[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]).bool()
ROWS: dict[str, tuple[Callable[..., Tensor], Callable[..., list[Tensor]]]] = {
    "sdm": (lambda q, k, t, p: sdm_of_rows(q, k, t, p), slow_sdm),
    "sdm, ε": (lambda q, k, t, p: sdm_of_rows(q, k, t, p, epsilon=1e-2), lambda s, p, t: slow_sdm(s, p, t, 1e-2)),
    "soft labels": (
        lambda q, k, t, p: soft_label_contrast(q, k, t, p, 0.3),
        lambda s, p, t: slow_soft_labels(s, p, t, 0.3),
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_row_losses_equal_plain_loops(name: str) -> None:
    queries, keys, scale = leaves((4, 6), (5, 6), (1,))
    fast, slow = ROWS[name]
    found = fast(F.normalize(queries, dim=1), F.normalize(keys, dim=1), 5 + scale, POSITIVES)
    expected = torch.stack([loss.reshape(()) for loss in slow(scores_of(queries, keys), POSITIVES, 5 + scale)])
    torch.testing.assert_close(found, expected, **EXACT)
    assert_same(found.mean(), expected.mean(), [queries, keys, scale])


@pytest.mark.parametrize("temperature", [0.015, 0.5])
def test_tal_equals_plain_loops(temperature: float) -> None:
    queries, keys = leaves((4, 6), (5, 6))
    found = tal_of_rows(F.normalize(queries, dim=1), F.normalize(keys, dim=1), 1 / temperature, POSITIVES)
    expected = torch.stack(slow_tal(scores_of(queries, keys), POSITIVES, temperature))
    torch.testing.assert_close(found, expected, **EXACT)
    assert_same(found.mean(), expected.mean(), [queries, keys])


@pytest.mark.parametrize(("kind", "unit"), [("sdm", 1.0), ("tal", 1 / 0.015), ("info_nce", 1.0)])
def test_pair_losses_leave_out_ignored_pairs(kind: str, unit: float) -> None:
    queries, keys = (F.normalize(value, dim=1) for value in leaves((4, 6), (5, 6)))
    ignored = torch.zeros_like(POSITIVES)
    ignored[:, 4] = True
    scale = torch.tensor(50.0, dtype=torch.float64)
    found = pair_loss_of_rows(kind, queries, keys, scale, POSITIVES, ignored)
    torch.testing.assert_close(found, pair_loss_of_rows(kind, queries, keys[:4], scale, POSITIVES[:, :4]), **EXACT)
    if kind != "info_nce":
        slow = {"sdm": lambda s, p: slow_sdm(s, p, 50.0), "tal": slow_tal}[kind]
        expected = torch.stack(slow(scores_of(queries, keys[:4]), POSITIVES[:, :4]))
        torch.testing.assert_close(found, unit * expected, **EXACT)
    none = pair_loss_of_rows(kind, queries, keys, scale, POSITIVES, torch.ones_like(POSITIVES))
    assert none.tolist() == [0.0] * 4


def total_loss(name: str, local: Any, gathered: BDAMOutput, labels: PairLabels, epoch: float) -> Tensor:
    batch = PairedOutputs(local, gathered, labels, epoch)
    losses = OBJECTIVES[name](BDAMTrainingArguments(use_cpu=True)).losses(NO_MODEL, batch)
    return torch.stack(list(losses.values())).sum()


def objective(name: str, images: Tensor, captions: Tensor, more: list[Tensor], epoch: float) -> Tensor:
    """The sum of the losses of a baseline for raw embeddings [B, P]."""
    people = torch.tensor([7, 7, 8, 9])
    embeds: dict[str, Any] = {
        "image_identity_embeds": F.normalize(images, dim=1),
        "caption_identity_embeds": F.normalize(captions, dim=1),
    }
    output: BDAMOutput
    if name == "irra":
        numbers = torch.tensor([0, 0, 1, 2])
        spoken = F.cross_entropy(more[2], torch.tensor([2, 0]))
        output = IRRAOutput(**embeds, classification=identity_loss(more[0], more[1], numbers), masked_language=spoken)
    elif name == "rde":
        selected = dict(zip(("image_clothing_embeds", "caption_clothing_embeds"), more[:2], strict=True))
        embeds |= {field: F.normalize(value, dim=1) for field, value in selected.items()}
        output = RDEOutput(**embeds, pair_weights=torch.tensor([1.0, 0.0, 1.0, 1.0]))
    else:
        output = BDAMOutput(**embeds, logit_scale=5 + more[2][0, 0])
    return total_loss(name, output, output, PairLabels.of_rows(people, people), epoch)


def slow_objective(name: str, images: Tensor, captions: Tensor, more: list[Tensor], epoch: float) -> Tensor:
    """`objective` from the formulas of the papers."""
    positives = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    both = scores_of(images, captions), scores_of(captions, images)
    if name == "irra":
        sdm = sum(torch.stack(slow_sdm(scores, positives, 50.0)).mean() for scores in both)
        numbers = torch.tensor([0, 0, 1, 2])
        people = sum(slow_cross_entropy(scores, numbers) for scores in more[:2]) / 2
        return torch.as_tensor(sdm + people + slow_cross_entropy(more[2], torch.tensor([2, 0])))
    if name == "rde":
        selected = scores_of(more[0], more[1]), scores_of(more[1], more[0])
        rows = [torch.stack(slow_tal(scores, positives)) for scores in (*both, *selected)]
        return (torch.stack(rows).sum(dim=0) * torch.tensor([1.0, 0.0, 1.0, 1.0])).sum()
    scale, share = 5 + more[2][0, 0], 0.5 * min(1.0, epoch)
    soft = sum(torch.stack(slow_soft_labels(scores, positives, scale, share)).mean() for scores in both) / 2
    reverse = sum(torch.stack(slow_sdm(scores, positives, scale, 1e-2)).mean() for scores in both) / 2
    return torch.as_tensor(soft + reverse)


@pytest.mark.parametrize("epoch", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("name", ["irra", "rde", "tbps"])
def test_objective_equals_plain_loops(name: str, epoch: float) -> None:
    images, captions, *more = leaves((4, 6), (4, 6), (4, 6), (4, 6), (2, 5))
    used = {"irra": more, "rde": more[:2], "tbps": more[2:]}[name]
    found, expected = (each(name, images, captions, more, epoch) for each in (objective, slow_objective))
    if name == "tbps":
        torch.testing.assert_close(found, expected, **EXACT)
        grads = [torch.autograd.grad(loss, [images, captions, *used]) for loss in (found, expected)]
        for mine, theirs in zip(*grads, strict=True):
            torch.testing.assert_close(mine, theirs, **EXACT)
    else:
        assert_same(found, expected, [images, captions, *used])


@pytest.mark.parametrize("name", ["sdm", "irra", "rde", "tbps"])
def test_losses_of_batch_are_means_over_parts(name: str) -> None:
    images, captions, selected, others = leaves((8, 6), (8, 6), (8, 6), (8, 6))
    fields = [f"{side}_{half}_embeds" for half in ("identity", "clothing") for side in ("image", "caption")]
    values = (images, captions, selected, others)
    embeds: dict[str, Any] = {field: F.normalize(v, dim=1) for field, v in zip(fields, values, strict=True)}
    people = torch.arange(8) // 2
    weights = torch.tensor([1.0, 1, 0, 1, 1, 1, 1, 0])

    def losses(start: int, end: int) -> Tensor:
        rows: dict[str, Any] = {field: value[start:end] for field, value in embeds.items()}
        rows["logit_scale"] = torch.tensor(5.0, dtype=torch.float64)
        zero = torch.zeros(())
        kinds: dict[str, Any] = {
            "irra": lambda: IRRAOutput(**rows, classification=zero, masked_language=zero),
            "rde": lambda: RDEOutput(**rows, pair_weights=weights[start:end]),
        }
        local = kinds.get(name, lambda: BDAMOutput(**rows))()
        labels = PairLabels.of_rows(people[start:end], people, start)
        return total_loss(name, local, BDAMOutput(**embeds), labels, 1.0)

    torch.testing.assert_close((losses(0, 4) + losses(4, 8)) / 2, losses(0, 8), **EXACT)


def test_sdm_losses_do_not_train_temperature() -> None:
    embeds = F.normalize(torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    scale = torch.tensor(2.0, requires_grad=True)
    output = BDAMOutput(
        image_identity_embeds=embeds.requires_grad_(), caption_identity_embeds=embeds.roll(1, 0), logit_scale=scale
    )
    people = torch.arange(4)
    total_loss("sdm", output, output, PairLabels.of_rows(people, people), 0.0).backward()
    assert embeds.grad is not None
    assert scale.grad is None


def test_sdm_is_zero_for_right_and_finite_for_wrong_pairs() -> None:
    embeds, labels = torch.eye(4), torch.eye(4).bool()
    assert sdm_of_rows(embeds, embeds, 50.0, labels).mean().item() == pytest.approx(0, abs=1e-4)
    assert 10 < sdm_of_rows(embeds, embeds.roll(1, 0), 50.0, labels).mean().item() < 30


@pytest.mark.parametrize("training", [True, False])
def test_token_selection_equals_plain_loops(training: bool) -> None:
    tokens, weights = leaves((3, 5, 4), (3, 5))
    module = TokenSelection(4).double().train(training)
    counts = torch.tensor([1, 2, 3])
    found = module(tokens, weights, 3, counts)

    picked = [[tokens[b, i] for i in weights[b].argsort(descending=True)[:3]] for b in range(3)]
    unit = [[token / token.square().sum().sqrt() for token in row] for row in picked]
    hidden = torch.stack([module.first(token) for row in unit for token in row])
    mean, variance = hidden.mean(dim=0), hidden.var(dim=0, unbiased=False)
    if not training:
        mean, variance = torch.zeros_like(mean), torch.ones_like(variance)
    rows = []
    for b, row in enumerate(unit):
        values = []
        for token in row[: int(counts[b])]:
            normed = (module.first(token) - mean) / (variance + 1e-5).sqrt()
            values.append(module.second(normed.clamp(min=0)) + module.linear(token))
        rows.append(torch.stack(values).max(dim=0).values)
    expected = torch.stack(rows)
    torch.testing.assert_close(found, expected, **EXACT)
    mine, theirs = (torch.autograd.grad(value.sum(), tokens)[0] for value in (found, expected))
    torch.testing.assert_close(mine, theirs, **EXACT)


def test_clean_pairs_have_small_losses() -> None:
    rng = np.random.default_rng(0)
    losses = np.concatenate([rng.normal(0.2, 0.05, 800), rng.normal(1.0, 0.1, 200)]).astype(np.float32)
    clean = clean_pairs(losses)
    assert clean[:800].mean() > 0.99
    assert clean[800:].mean() < 0.01
    assert 0 < clean_pairs(np.full(500, 0.3, dtype=np.float32) + rng.normal(0, 1e-9, 500)).mean() <= 1


def test_mask_tokens_masks_words_only() -> None:
    torch.manual_seed(0)
    vocabulary = Vocabulary(mask=50, special=(1, 2), size=60)
    ids = torch.randint(3, 50, (400, 12))
    ids[:, 0], ids[:, 8], ids[:, 9:] = 1, 2, 0
    mask = (torch.arange(12) < 9).long().expand(400, -1)
    changed, chosen = mask_tokens(ids, mask, vocabulary)
    assert bool(chosen.any(dim=1).all())
    assert not bool(chosen[:, [0, 8, 9, 10, 11]].any())
    assert torch.equal(changed[~chosen], ids[~chosen])
    by_chance = 0.15 + 0.85**7 / 7  # the first word of a text without any other
    assert chosen[:, 1:8].float().mean().item() == pytest.approx(by_chance, abs=0.02)
    kept = (changed == ids)[chosen].float().mean().item()
    masked = (changed == 50)[chosen].float().mean().item()
    assert masked == pytest.approx(0.8 + 0.2 * 0.85**7 / 7 / by_chance, abs=0.04)
    assert 0.03 < kept < 0.13


@pytest.mark.parametrize(("mask", "expected"), [(4, 4), (None, 97)])
def test_vocabulary_has_a_mask_token(mask: int | None, expected: int) -> None:
    class Tokenizer:
        mask_token_id = mask
        all_special_ids = (98, 0, 99)

    assert Vocabulary.of(Tokenizer(), 100) == Vocabulary(expected, (0, 98, 99), 100)
