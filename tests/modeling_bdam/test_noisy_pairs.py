"""Which rows' texts are found implausible, from losses that an image and its own texts have."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from modeling_bdam import BDAMConfig, BDAMModel, noisy_pairs
from modeling_bdam.noisy_pairs import MIN_LOSSES, PairFilter, plausible, row_losses, text_losses

PAIRS = (
    ("image_identity_embeds", "description_identity_embeds"),
    ("image_clothing_embeds", "description_clothing_embeds"),
    ("image_clothing_embeds", "caption_clothing_embeds"),
)
PEOPLE = torch.tensor([0, 0, 1, 1, 2, 2, 3])


def embeds(width: int = 8) -> dict[str, Tensor]:
    torch.manual_seed(0)
    names = {name for pair in PAIRS for name in pair}
    return {name: torch.nn.functional.normalize(torch.randn(len(PEOPLE), width), dim=-1) for name in sorted(names)}


def slow_loss(row: int, text_row: int, others: range, pairs: tuple[tuple[str, str], ...] = PAIRS) -> float:
    """-log of a text's share among the texts of strangers, summed over the pairs."""
    given, total = embeds(), 0.0
    for image, text in pairs:
        masses = {column: math.exp(5 * float(given[image][row] @ given[text][column])) for column in others}
        strangers = sum(masses[column] for column in others if PEOPLE[column] != PEOPLE[row] and column != text_row)
        total -= math.log(masses[text_row] / (masses[text_row] + strangers))
    return total


def test_loss_sets_an_image_against_its_own_texts_and_those_of_other_people() -> None:
    losses, strangers = text_losses(embeds(), PEOPLE, 5.0)
    assert losses.tolist() == pytest.approx([slow_loss(row, row, range(7)) for row in range(7)], rel=1e-5)
    following = [slow_loss(row, (row + 1) % 7, range(7)) for row in (1, 3, 5, 6)]  # where another person follows
    assert strangers.tolist() == pytest.approx(following, rel=1e-5)


def test_loss_without_descriptions_is_of_captions_alone() -> None:
    given = {name: value for name, value in embeds().items() if not name.startswith("description")}
    expected = [slow_loss(row, row, range(7), PAIRS[2:]) for row in range(7)]
    assert text_losses(given, PEOPLE, 5.0)[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_long_sets_are_compared_in_chunks_of_one_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noisy_pairs, "OTHERS", 4)
    expected = [slow_loss(row, row, range(4) if row < 4 else range(3, 7)) for row in range(7)]
    assert text_losses(embeds(), PEOPLE, 5.0)[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_row_losses_are_in_the_order_of_the_rows_whatever_the_batch(
    tiny_config: Callable[..., BDAMConfig], make_batch: Callable[..., dict[str, Tensor]]
) -> None:
    torch.manual_seed(0)
    batch = make_batch(len(PEOPLE)) | {"person_ids": PEOPLE}
    rows = [{name: value[row] for name, value in batch.items()} for row in range(len(PEOPLE))]
    model = BDAMModel(tiny_config("clip", initializer_range=0.2, dropout=0.5)).train()

    def collator(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    losses, strangers = row_losses(model, rows, collator, 3, Accelerator(cpu=True))
    assert model.training
    assert 0 < len(strangers) <= len(PEOPLE)
    del batch["person_ids"]
    with torch.no_grad():
        output = model.eval()(**batch)
    whole = {name: output[name] for pair in PAIRS for name in pair}
    expected, _ = text_losses(whole, PEOPLE, float(output.logit_scale))
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
    assert len(losses.unique()) == len(PEOPLE)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_losses_like_those_of_strangers_are_implausible_whatever_their_share(share: float) -> None:
    torch.manual_seed(0)
    wrong = torch.rand(2048) < share
    losses = torch.where(wrong, 9 + 2 * torch.randn(2048), 1 + torch.randn(2048))
    found = plausible(losses, 9 + 2 * torch.randn(2048))
    assert found[~wrong].float().mean() > 0.95
    assert found[wrong].sum() < 0.05 * 2048
    losses[0] = -8.0  # nearer to the wider group, in its own deviations
    assert plausible(losses, 9 + 2 * torch.randn(2048))[0]


def test_where_the_groups_overlap_the_rows_taken_are_surer_than_the_rest() -> None:
    torch.manual_seed(0)
    wrong = torch.rand(4096) < 0.5
    losses = torch.where(wrong, 2.0, 0.0) + torch.randn(4096)
    found = plausible(losses, 2 + torch.randn(4096))
    assert wrong[found].float().mean() < 0.15
    assert 0.2 < found.float().mean() < 0.5


def test_few_losses_are_no_ground_for_a_judgement() -> None:
    few = torch.arange(MIN_LOSSES - 1).float()
    assert plausible(few, few + 1000).all()


def test_a_state_continues() -> None:
    first, second = PairFilter(), PairFilter()
    first.epoch, first.plausible = 3, torch.tensor([True, False])
    second.load_state_dict(first.state_dict())
    assert second.epoch == 3
    assert second.plausible is not None
    assert second.plausible.tolist() == [True, False]
