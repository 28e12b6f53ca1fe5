"""Which rows' texts are found implausible, from losses that an image and its own texts have."""

import math
from collections.abc import Callable

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from modeling_bdam import BDAMConfig, BDAMModel, noisy_pairs
from modeling_bdam.noisy_pairs import MIN_LOSSES, PairFilter, plausible, row_losses, text_losses

from .tensor_rows import TensorRows, collate

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


def slow_loss(row: int, text_row: int, others: range, names: frozenset[str] | None = None) -> float:
    """How badly the texts of a row fit another row's image and person: -log of their share among those of strangers."""
    given = embeds()
    names = frozenset(given) if names is None else names

    def share(query: Tensor, keys: Tensor, positives: list[int]) -> float:
        masses = {column: math.exp(5 * float(query @ keys[column])) for column in others}
        right = sum(masses[column] for column in positives)
        return right / (right + sum(masses[c] for c in others if PEOPLE[c] != PEOPLE[row] and c != text_row))

    total = 0.0
    for image, text in PAIRS:
        if text in names:
            total -= math.log(share(given[image][row], given[text], [text_row]))
    described = "description_clothing_embeds" in names
    texts = given["description_clothing_embeds" if described else "caption_clothing_embeds"]
    persons = [column for column in others if PEOPLE[column] == PEOPLE[row] and column != row]
    return total - math.log(share(texts[text_row], texts, persons)) if persons else total


def test_texts_are_set_against_the_image_and_the_persons_other_texts_among_those_of_strangers() -> None:
    losses, strangers = text_losses(embeds(), PEOPLE, 5.0)
    assert losses.tolist() == pytest.approx([slow_loss(row, row, range(7)) for row in range(7)], rel=1e-5)
    further = [slow_loss(row, (row + 3) % 7, range(7)) for row in range(7)]  # three rows on stands another person
    assert strangers.tolist() == pytest.approx(further, rel=1e-5)


def test_no_person_is_a_stranger_to_herself() -> None:
    people = torch.tensor([0, 0, 0, 0, 0, 1, 1])
    _, strangers = text_losses(embeds(), people, 5.0)
    assert len(strangers) == 4  # rows 0, 1 and 4 would take the texts of rows 3, 4 and 0, the same person's


def test_captions_are_enough() -> None:
    names = frozenset(name for name in embeds() if not name.startswith("description"))
    given = {name: value for name, value in embeds().items() if name in names}
    expected = [slow_loss(row, row, range(7), names) for row in range(7)]
    assert text_losses(given, PEOPLE, 5.0)[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_long_sets_are_compared_in_chunks_of_one_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noisy_pairs, "OTHERS", 4)
    expected = [slow_loss(row, row, range(4) if row < 4 else range(3, 7)) for row in range(7)]
    assert text_losses(embeds(), PEOPLE, 5.0)[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_row_losses_are_in_the_order_of_the_rows_whatever_the_batch(
    tiny_config: Callable[..., BDAMConfig], make_batch: Callable[..., dict[str, Tensor]]
) -> None:
    torch.manual_seed(0)
    people = torch.tensor([5, 3, 9, 5, 3, 9, 5])  # the images of a person lie apart
    batch = make_batch(len(people)) | {"person_ids": people}
    model = BDAMModel(tiny_config("clip", initializer_range=0.2, dropout=0.5)).train()

    losses, strangers = row_losses(model, TensorRows(batch), collate, 3, Accelerator(cpu=True))
    assert model.training
    assert 0 < len(strangers) <= len(people)
    del batch["person_ids"]
    with torch.no_grad():
        output = model.eval()(**batch)
    order = people.argsort(stable=True)
    whole = {name: output[name][order] for pair in PAIRS for name in pair}
    expected, _ = text_losses(whole, people[order], float(output.logit_scale))
    torch.testing.assert_close(losses[order], expected, rtol=1e-4, atol=1e-5)
    assert len(losses.unique()) == len(people)


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
