"""Which rows are doubted, and that doubted pairs are neither positives nor negatives."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from modeling_bdam import BDAMConfig, BDAMModel
from modeling_bdam.noisy_pairs import MIN_LOSSES, PairFilter, row_losses
from modeling_bdam.objective_bdam import PairLabels, Texts, task_losses
from modeling_bdam.outputs_bdam import BDAMOutput

PEOPLE = torch.tensor([0, 0, 1, 1, 2, 2])
IDENTITY = torch.tensor([[7], [7], [8], [8], [7], [7]])  # people 0 and 2 read the same
CLOTHING = torch.tensor([[5], [5], [6], [3], [2], [5]])


def texts(ids: Tensor) -> Texts:
    return ids, torch.ones_like(ids)


def labels(start: int = 0, stop: int = 6) -> PairLabels:
    rows = slice(start, stop)
    return PairLabels.of_rows(
        PEOPLE[rows],
        PEOPLE,
        start,
        (texts(IDENTITY[rows]), texts(IDENTITY)),
        (texts(CLOTHING[rows]), texts(CLOTHING)),
    )


@pytest.fixture
def outputs(tiny_config: Callable[..., BDAMConfig], make_batch: Callable[..., dict[str, Tensor]]) -> BDAMOutput:
    torch.manual_seed(0)
    batch = make_batch(len(PEOPLE))
    del batch["person_ids"]
    return BDAMModel(tiny_config("clip", initializer_range=0.2)).eval()(**batch)


def slow_row_loss(output: BDAMOutput, row: int) -> float:
    found = labels()
    total = 0.0
    for image, text in (
        ("image_identity_embeds", "description_identity_embeds"),
        ("image_clothing_embeds", "description_clothing_embeds"),
        ("image_clothing_embeds", "caption_clothing_embeds"),
    ):
        masses = [math.exp((output.logit_scale * (output[image][row] @ other)).item()) for other in output[text]]
        related = found.same_identity[row] | found.same_clothing[row]
        others = sum(mass for column, mass in enumerate(masses) if not related[column])
        total -= math.log(masses[row] / (masses[row] + others))
    return total


def test_row_loss_sets_an_image_against_its_own_texts_and_those_of_others(outputs: BDAMOutput) -> None:
    expected = [slow_row_loss(outputs, row) for row in range(len(PEOPLE))]
    assert row_losses(outputs, outputs, labels()).tolist() == pytest.approx(expected, rel=1e-4)
    part = BDAMOutput(**{name: value[2:4] if value.ndim else value for name, value in outputs.items()})
    assert row_losses(part, outputs, labels(2, 4)).tolist() == pytest.approx(expected[2:4], rel=1e-4)


def test_losses_in_two_groups_are_told_apart() -> None:
    torch.manual_seed(0)
    noisy = torch.rand(1024) < 0.4
    losses = torch.where(noisy, 8 + torch.randn(1024), 1 + torch.randn(1024))
    pair_filter = PairFilter()
    pair_filter.remember(losses)
    found = pair_filter.plausible(losses)
    assert (found == ~noisy).float().mean() > 0.99
    assert pair_filter.plausible(torch.tensor([-50.0, 50.0])).tolist() == [True, False]


@pytest.mark.parametrize("seen", [torch.randn(1024), torch.randn(1024).exp(), torch.arange(MIN_LOSSES - 1) % 2])
def test_nothing_is_doubted_where_losses_are_one_group_or_few(seen: Tensor) -> None:
    pair_filter = PairFilter()
    pair_filter.remember(seen)
    assert pair_filter.plausible(torch.tensor([-9.0, 0.0, 9.0])).all()


def test_only_the_last_losses_count_and_a_state_continues() -> None:
    torch.manual_seed(0)
    pair_filter = PairFilter(window=300)
    pair_filter.remember(torch.randn(300))
    pair_filter.remember(torch.cat([torch.randn(200), 20 + torch.randn(100)]))
    again = PairFilter(window=300)
    again.load_state_dict(pair_filter.state_dict())
    assert again.plausible(torch.tensor([0.0, 20.0])).tolist() == [True, False]


def test_pairs_of_a_doubted_row_are_neither_positives_nor_negatives() -> None:
    plausible = torch.tensor([True, False, True, True, True, True])
    found = labels().doubting(plausible)
    for row in range(6):
        for column in range(6):
            doubted = not (plausible[row] and plausible[column])
            assert found.unknown_identity[row, column] == (found.same_identity[row, column] and doubted)
            other = found.same_person[row, column] and not found.same_clothing[row, column]
            assert found.unknown_clothing[row, column] == (other or (found.same_clothing[row, column] and doubted))
    shared = labels(2, 6).doubting(plausible)
    assert torch.equal(shared.doubted, found.doubted[2:])


def test_doubting_nobody_changes_no_loss_and_a_doubted_rows_texts_train_its_image_no_more(outputs: BDAMOutput) -> None:
    before = task_losses(outputs, outputs, labels())
    same = task_losses(outputs, outputs, labels().doubting(torch.ones(6, dtype=torch.bool)))
    for task, loss in before.items():
        assert torch.equal(loss, same[task])

    alone = PairLabels.of_rows(torch.arange(6), torch.arange(6), 0).doubting(torch.arange(6) != 1)
    image = outputs.image_clothing_embeds.detach().requires_grad_()
    rows = BDAMOutput(**{**outputs, "image_clothing_embeds": image})
    task_losses(rows, outputs, alone)["match"].backward()
    assert image.grad is not None
    assert not image.grad[1].any()
    assert image.grad[0].any()
