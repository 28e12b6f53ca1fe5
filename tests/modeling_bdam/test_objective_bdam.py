"""Which rows belong together, and that a batch may be split over processes; test_losses.py tests the losses."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from modeling_bdam import BDAMConfig, BDAMModel
from modeling_bdam.losses_bdam import hsic
from modeling_bdam.objective_bdam import TASKS, PairLabels, Texts, task_losses
from modeling_bdam.outputs_bdam import BDAMOutput
from modeling_bdam.training.baselines import plain_losses

PEOPLE = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
# Descriptions as token ids: people 0 and 2 read the same; so do the clothes of rows 0, 1 and 5.
IDENTITY = torch.tensor([[7, 1], [7, 1], [8, 1], [8, 1], [7, 1], [7, 1], [9, 1], [9, 1]])
CLOTHING = torch.tensor([[5], [5], [6], [3], [2], [5], [1], [4]])


def texts(ids: Tensor) -> Texts:
    return ids, torch.ones_like(ids)


def labels(start: int = 0, stop: int = 8) -> PairLabels:
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
    model = BDAMModel(tiny_config("clip", initializer_range=0.2)).eval()
    batch = make_batch(len(PEOPLE))
    del batch["person_ids"]
    return model(**batch)


def test_labels_say_who_is_whom_and_who_wears_what() -> None:
    found = labels(start=2, stop=6)
    for row in range(2, 6):
        for column in range(8):
            person = bool(PEOPLE[row] == PEOPLE[column])
            identity = person or bool((IDENTITY[row] == IDENTITY[column]).all())
            clothing = row == column or bool((CLOTHING[row] == CLOTHING[column]).all())
            assert found.same_person[row - 2, column] == person
            assert found.same_identity[row - 2, column] == identity
            assert found.same_clothing[row - 2, column] == clothing
            assert found.unknown_clothing[row - 2, column] == (person and not clothing)


def test_without_descriptions_a_row_belongs_with_its_person_and_its_own_clothes() -> None:
    found = PairLabels.of_rows(PEOPLE[4:], PEOPLE, offset=4)
    assert torch.equal(found.same_identity, found.same_person)
    assert torch.equal(found.same_clothing, torch.eye(8, dtype=torch.bool)[4:])


def test_what_is_held_apart_is_what_the_config_names(
    tiny_config: Callable[..., BDAMConfig], make_batch: Callable[..., dict[str, Tensor]]
) -> None:
    batch = make_batch(len(PEOPLE))
    del batch["person_ids"]
    for held_apart in ("features", "embeddings"):
        torch.manual_seed(0)
        output = BDAMModel(tiny_config("clip", decouple_on=held_apart)).eval()(**batch)
        if held_apart == "features":
            pair = (output.identity_features, output.clothing_features)
        else:
            width = output.image_identity_embeds.shape[1]
            pair = (width**0.5 * output.image_identity_embeds, width**0.5 * output.image_clothing_embeds)
        torch.testing.assert_close(task_losses(output, output, labels())["decouple"], hsic(*pair))


@pytest.mark.parametrize("parts", [2, 4])
def test_losses_of_a_batch_are_the_means_over_its_parts(outputs: BDAMOutput, parts: int) -> None:
    whole = task_losses(outputs, outputs, labels())
    size = len(PEOPLE) // parts
    shared = []
    for start in range(0, len(PEOPLE), size):
        rows = {name: value[start : start + size] if value.ndim else value for name, value in outputs.items()}
        shared.append(task_losses(BDAMOutput(**rows), outputs, labels(start, start + size)))
    assert list(whole) == list(TASKS)
    for task, loss in whole.items():
        torch.testing.assert_close(torch.stack([part[task] for part in shared]).mean(), loss)


def test_captions_alone_train_what_needs_no_clothing_description(outputs: BDAMOutput) -> None:
    of_descriptions = ("description", "fused", "clothing_text")
    fields = {name: value for name, value in outputs.items() if not name.startswith(of_descriptions)}
    captions = BDAMOutput(**fields)
    losses = task_losses(captions, captions, PairLabels.of_rows(PEOPLE, PEOPLE))
    assert list(losses) == ["info", "triplet", "decouple"]
    assert all(bool(loss.isfinite()) for loss in losses.values())


def test_plain_loss_pairs_each_image_with_its_caption_and_passes_over_its_persons_others() -> None:
    torch.manual_seed(0)
    images, captions = (torch.nn.functional.normalize(torch.randn(8, 5), dim=-1) for _ in range(2))
    scale = torch.tensor(10.0)
    output = BDAMOutput(image_identity_embeds=images, caption_identity_embeds=captions, logit_scale=scale)
    loss = plain_losses(output, output, PairLabels.of_rows(PEOPLE, PEOPLE))["info"]

    expected = 0.0
    for queries, targets in ((images, captions), (captions, images)):
        for row in range(8):
            others = [column for column in range(8) if column == row or PEOPLE[column] != PEOPLE[row]]
            logits = torch.stack([10.0 * queries[row] @ targets[column] for column in others])
            expected += float(logits.exp().sum().log() - 10.0 * queries[row] @ targets[row]) / 16
    assert float(loss) == pytest.approx(expected, rel=1e-5)
