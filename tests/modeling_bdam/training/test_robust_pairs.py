"""The choice of texts against losses computed with plain loops."""

import math
from collections.abc import Callable

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from modeling_bdam import BDAMConfig, BDAMModel
from modeling_bdam.training import robust_pairs
from modeling_bdam.training.robust_pairs import Chunk, Mixture, RowEncoder, choose_texts, texts_of_rows

from ..tensor_rows import TensorRows, collate

PAIRS = (
    ("image_identity_embeds", "description_identity_embeds"),
    ("image_clothing_embeds", "description_clothing_embeds"),
    ("image_clothing_embeds", "caption_clothing_embeds"),
)
DESCRIPTIONS = ("description_clothing_embeds", "description_identity_embeds")
PEOPLE = torch.tensor([0, 0, 1, 1, 2, 2, 3])


def embeds(width: int = 8) -> dict[str, Tensor]:
    torch.manual_seed(0)
    names = {name for pair in PAIRS for name in pair}
    return {name: torch.nn.functional.normalize(torch.randn(len(PEOPLE), width), dim=-1) for name in sorted(names)}


def slow_loss(row: int, text_row: int, others: range, names: frozenset[str] | None = None) -> float:
    """InfoNCE of a row with the texts of `text_row`, summed over pairs of fields; negatives are other people."""
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
    persons = [column for column in others if PEOPLE[column] == PEOPLE[row] and column != row]
    for name in DESCRIPTIONS if described else ("caption_clothing_embeds",):
        total -= math.log(share(given[name][text_row], given[name], persons)) if persons else 0.0
    return total


def test_losses_equal_info_nce_in_plain_loops() -> None:
    chunk = Chunk(embeds(), PEOPLE, 5.0)
    own = [slow_loss(row, row, range(7)) for row in range(7)]
    assert chunk.losses(torch.arange(7)).tolist() == pytest.approx(own, rel=1e-5)
    further = [slow_loss(row, (row + 3) % 7, range(7)) for row in range(7)]  # rolled by half of 7
    assert chunk.losses_with_strangers().tolist() == pytest.approx(further, rel=1e-5)


def test_losses_with_strangers_omit_texts_of_same_person() -> None:
    people = torch.tensor([0, 0, 0, 0, 0, 1, 1])
    # Rows 0, 1 and 4 are rolled onto rows 3, 4 and 0 of the same person
    assert len(Chunk(embeds(), people, 5.0).losses_with_strangers()) == 4


def test_losses_exclude_given_texts_and_row_from_relatives() -> None:
    people = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    found = Chunk(embeds(), people, 5.0).losses(torch.tensor([1, 1, 2, 3, 4, 5, 6]))[0]
    strangers = [3, 4, 5, 6]
    expected = 0.0
    pairs = [(embeds()[image][0], embeds()[text], 1) for image, text in PAIRS]
    pairs += [(embeds()[name][1], embeds()[name], 2) for name in DESCRIPTIONS]
    for query, keys, right in pairs:
        masses = [math.exp(5 * float(query @ keys[column])) for column in [right, *strangers]]
        expected -= math.log(masses[0] / sum(masses))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_losses_work_without_descriptions() -> None:
    names = frozenset(name for name in embeds() if not name.startswith("description"))
    given = {name: value for name, value in embeds().items() if name in names}
    expected = [slow_loss(row, row, range(7), names) for row in range(7)]
    assert Chunk(given, PEOPLE, 5.0).losses(torch.arange(7)).tolist() == pytest.approx(expected, rel=1e-5)


def test_look_alikes_are_nearest_candidates_of_same_person() -> None:
    chunk = Chunk(embeds(), torch.tensor([0, 0, 0, 0, 1, 1, 2]), 5.0)
    candidates = torch.tensor([True, True, False, True, False, True, True])
    places, similarity = chunk.look_alikes(candidates)
    found = places.tolist()
    images = embeds()["image_clothing_embeds"]
    for row, others in enumerate(([1, 3], [0, 3], [0, 1, 3], [0, 1])):
        assert found[row] == max(others, key=lambda other: float(images[row] @ images[other]))
        assert similarity[row] == pytest.approx(float(images[row] @ images[found[row]]))
    assert found[4:] == [5, -1, -1]


def wardrobe(people: int, wrong: list[int]) -> tuple[dict[str, Tensor], Tensor]:
    """Embeddings of people with three images in each of two outfits; the texts of rows in `wrong` are random."""
    torch.manual_seed(0)

    def directions(count: int) -> Tensor:
        return torch.nn.functional.normalize(torch.randn(count, 128), dim=-1)

    person_ids = torch.arange(people).repeat_interleave(6)
    identity = directions(people)[person_ids]
    clothing = directions(2 * people)[torch.arange(2 * people).repeat_interleave(3)]
    exact = {"image_identity_embeds": identity, "image_clothing_embeds": clothing}
    text_identity, text_clothing = identity.clone(), clothing.clone()
    text_identity[wrong], text_clothing[wrong] = directions(len(wrong)), directions(len(wrong))
    exact |= {
        "description_identity_embeds": text_identity,
        "description_clothing_embeds": text_clothing,
        "caption_clothing_embeds": text_clothing,
    }
    return {name: value + 0.6 * directions(len(value)) for name, value in exact.items()}, person_ids


@pytest.mark.parametrize("others", [120, 10_000], ids=["in_chunks", "at_once"])
def test_texts_of_rows_borrows_from_images_in_same_clothes(others: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robust_pairs, "OTHERS", others)
    whole_outfit = [306, 307, 308]  # without a look-alike
    wrong = [*range(0, 600, 15), *whole_outfit]
    given, person_ids = wardrobe(people=100, wrong=wrong)
    chosen = texts_of_rows(given, person_ids, 10.0)
    rows = torch.arange(600)
    own = chosen == rows
    assert not own[wrong].any()
    assert own.sum() > 0.95 * (600 - len(wrong))
    borrowed = (chosen >= 0) & ~own
    assert borrowed[wrong].float().mean() > 0.5
    assert torch.equal(chosen[borrowed] // 3, rows[borrowed] // 3)  # three images to an outfit
    assert not borrowed[whole_outfit].any()

    certain = texts_of_rows(given, person_ids, 10.0, borrow=False)
    assert set(certain[certain != rows].tolist()) == {-1}
    assert own.sum() >= (certain == rows).sum() > 0.9 * own.sum()


def test_texts_of_rows_borrows_nothing_from_other_people() -> None:
    given, _ = wardrobe(people=100, wrong=list(range(0, 600, 15)))
    chosen = texts_of_rows(given, torch.arange(600), 10.0)
    assert set(chosen[chosen != torch.arange(600)].tolist()) == {-1}


def test_texts_of_rows_keeps_own_texts_of_few_rows() -> None:
    given, person_ids = wardrobe(people=20, wrong=[5, 50])
    assert texts_of_rows(given, person_ids, 20.0).tolist() == list(range(120))


def test_choose_texts_returns_order_of_rows(
    tiny_config: Callable[..., BDAMConfig],
    make_batch: Callable[..., dict[str, Tensor]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    people = torch.tensor([5, 3, 9, 5, 3, 9, 5])  # not sorted
    batch = make_batch(len(people)) | {"person_ids": people}
    model = BDAMModel(tiny_config("clip", initializer_range=0.2, dropout=0.5)).train()
    seen: list[dict[str, Tensor]] = []

    def next_of_the_person(found: dict[str, Tensor], person_ids: Tensor, logit_scale: float, borrow: bool) -> Tensor:
        seen.append(found | {"person_ids": person_ids, "logit_scale": torch.tensor(logit_scale)})
        same = person_ids == person_ids.roll(-1)
        return torch.where(same, (torch.arange(len(person_ids)) + 1) % len(person_ids), -1)

    monkeypatch.setattr(robust_pairs, "texts_of_rows", next_of_the_person)
    chosen = choose_texts(RowEncoder(model, collate, 3, Accelerator(cpu=True)), TensorRows(batch))
    assert model.training
    assert chosen.tolist() == [3, 4, 5, 6, -1, -1, -1]

    del batch["person_ids"]
    with torch.no_grad():
        output = model.eval()(**batch)
    [found] = seen
    assert sorted(found["person_ids"].tolist()) == sorted(people.tolist())
    assert found["logit_scale"] == pytest.approx(float(output.logit_scale))
    order = torch.cat([(people == person).nonzero()[:, 0] for person in found["person_ids"].unique_consecutive()])
    for name in {name for pair in PAIRS for name in pair}:
        torch.testing.assert_close(found[name], output[name][order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_mixture_separates_wrong_rows_at_any_share(share: float) -> None:
    torch.manual_seed(0)
    wrong = torch.rand(2048) < share
    losses = torch.where(wrong, 9 + 2 * torch.randn(2048), 1 + torch.randn(2048))
    mixture = Mixture.fit(losses, 9 + 2 * torch.randn(2048))
    found = mixture.is_plausible(losses)
    assert found[~wrong].float().mean() > 0.95
    assert found[wrong].sum() < 0.05 * 2048
    assert float(mixture.share) == pytest.approx(share, abs=0.03)
    assert (mixture.is_plausible(losses, 0.99) <= found).all()
    assert mixture.is_plausible(losses, 0.99).sum() < found.sum() or share == 0
    assert mixture.is_plausible(torch.tensor([-8.0]))[0]  # more likely under the wider component
