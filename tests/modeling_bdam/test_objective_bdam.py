"""Tests of pair labels, and that the losses of a batch can be split over ranks (losses: test_losses_bdam.py)."""

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from modeling_bdam import BDAMConfig, BDAMModel
from modeling_bdam.losses_bdam import hsic
from modeling_bdam.objective_bdam import GATHERED_FIELDS, INFO_WEIGHTS, TASKS, PairLabels, Texts, task_losses
from modeling_bdam.outputs_bdam import BDAMOutput
from modeling_bdam.training.baselines import Plain
from modeling_bdam.training.objective import PairedOutputs
from modeling_bdam.training.training_args import BDAMTrainingArguments

PEOPLE = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
# Descriptions as token ids: those of people 0 and 2 are equal, as are the clothes of rows 0, 1 and 5.
IDENTITY = torch.tensor([[7, 1], [7, 1], [8, 1], [8, 1], [7, 1], [7, 1], [9, 1], [9, 1]])
CLOTHING = torch.tensor([[5], [5], [6], [3], [2], [5], [1], [4]])

CONFIG = BDAMConfig()

pytestmark = pytest.mark.usefixtures("seed")


def labels(start: int = 0, stop: int = 8) -> PairLabels:
    def texts(ids: Tensor) -> Texts:
        return ids, torch.ones_like(ids)

    rows = slice(start, stop)
    pairs = [(texts(ids[rows]), texts(ids)) for ids in (IDENTITY, CLOTHING)]
    return PairLabels.of_rows(PEOPLE[rows], PEOPLE, start, *pairs)


@pytest.fixture
def make_outputs(tiny_config: Any, make_batch: Any) -> Any:
    def run(**fields: Any) -> BDAMOutput:
        model = BDAMModel(tiny_config("clip", initializer_range=0.2, **fields)).eval()
        batch = make_batch(len(PEOPLE))
        del batch["person_ids"]
        return model(**batch)

    return run


def test_of_rows_marks_equal_people_and_descriptions() -> None:
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


def test_of_rows_without_descriptions_uses_only_people() -> None:
    found = PairLabels.of_rows(PEOPLE[4:], PEOPLE, offset=4)
    assert torch.equal(found.same_identity, found.same_person)
    assert torch.equal(found.same_clothing, torch.eye(8, dtype=torch.bool)[4:])


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize("decouple_on", ["features", "embeddings"])
def test_decoupling_loss_uses_the_pair_of_the_config(
    make_outputs: Any, decouple_on: str, estimator: Literal["biased", "unbiased"]
) -> None:
    output = make_outputs(decouple_on=decouple_on)
    pair = (output.identity_features, output.clothing_features)
    if decouple_on == "embeddings":
        pair = (16**0.5 * output.image_identity_embeds, 16**0.5 * output.image_clothing_embeds)
    decouple = task_losses(output, output, labels(), BDAMConfig(decouple_estimator=estimator))["decouple"]
    torch.testing.assert_close(decouple, hsic(*pair, estimator))


@pytest.mark.parametrize("parts", [2, 4])
def test_losses_of_a_batch_are_the_means_over_its_parts(make_outputs: Any, parts: int) -> None:
    outputs = make_outputs()
    whole = task_losses(outputs, outputs, labels(), CONFIG)
    size = len(PEOPLE) // parts
    shared = []
    for start in range(0, len(PEOPLE), size):
        rows = {name: value[start : start + size] if value.ndim else value for name, value in outputs.items()}
        shared.append(task_losses(BDAMOutput(**rows), outputs, labels(start, start + size), CONFIG))
    assert list(whole) == list(TASKS)
    for task, loss in whole.items():
        torch.testing.assert_close(torch.stack([part[task] for part in shared]).mean(), loss)


@pytest.mark.parametrize(("side", "trained"), [("identity", [True, False]), ("both", [True, True])])
def test_decoupling_gradient_is_that_of_the_config(side: Literal["identity", "both"], trained: list[bool]) -> None:
    halves = [torch.randn(8, 4, requires_grad=True) for _ in range(2)]
    embeds = torch.nn.functional.normalize(torch.randn(8, 4), dim=-1)
    fields: Any = {name: embeds for name in GATHERED_FIELDS if name.endswith("embeds")}
    output = BDAMOutput(**fields, adversarial_embeds=embeds, logit_scale=torch.tensor(10.0))
    output.decoupled_identity, output.decoupled_clothing = halves
    loss = task_losses(output, output, labels(), BDAMConfig(decouple_gradient=side))["decouple"]
    gradients = torch.autograd.grad(loss, halves, allow_unused=True)
    assert [gradient is not None for gradient in gradients] == trained


def test_info_weights_scale_the_terms(make_outputs: Any) -> None:
    output = make_outputs()

    def info(**weights: float) -> Tensor:
        every = dict.fromkeys(INFO_WEIGHTS, 0.0) | weights
        return task_losses(output, output, labels(), BDAMConfig(info_weights=every))["info"]

    terms = [info(**{name: 1.0}) for name in INFO_WEIGHTS]
    assert all(term > 0 for term in terms)
    expected = sum(weight * term for weight, term in zip(INFO_WEIGHTS.values(), terms, strict=True))
    torch.testing.assert_close(task_losses(output, output, labels(), CONFIG)["info"], expected)


@pytest.mark.parametrize(
    ("term", "trained"),
    [("caption_image_identity", [False, True, False]), ("fused_identity", [False, False, True])],
)
def test_fixed_targets_get_no_gradient(make_outputs: Any, term: str, trained: list[bool]) -> None:
    output = make_outputs()
    weights = dict.fromkeys(INFO_WEIGHTS, 0.0) | {term: 1.0}
    loss = task_losses(output, output, labels(), BDAMConfig(info_weights=weights))["info"]
    kinds = ("image", "caption", "fused")
    gradients = torch.autograd.grad(loss, [output[f"{kind}_identity_embeds"] for kind in kinds])
    assert [bool(gradient.any()) for gradient in gradients] == trained


def test_captions_train_the_tasks_without_descriptions(make_outputs: Any) -> None:
    of_descriptions = ("description", "fused", "clothing_text")
    fields = {name: value for name, value in make_outputs().items() if not name.startswith(of_descriptions)}
    captions = BDAMOutput(**fields)
    losses = task_losses(captions, captions, PairLabels.of_rows(PEOPLE, PEOPLE), BDAMConfig(clothing_weight=2.0))
    assert list(losses) == ["info", "triplet"]
    # InfoNCE on the score of a search: s_id + 2 s_clo, divided by 3
    score = captions.caption_identity_embeds @ captions.image_identity_embeds.T
    score = (score + 2 * captions.caption_clothing_embeds @ captions.image_clothing_embeds.T) / 3
    others = PEOPLE[:, None] != PEOPLE[None]
    logits = (captions.logit_scale * score).masked_fill(~others & ~torch.eye(8, dtype=torch.bool), -torch.inf)
    target = torch.arange(8)
    both = [torch.nn.functional.cross_entropy(each, target) for each in (logits, logits.T)]
    torch.testing.assert_close(losses["info"], (both[0] + both[1]) / 2)


def test_plain_losses_pair_images_with_own_captions() -> None:
    images, captions = (torch.nn.functional.normalize(torch.randn(8, 5), dim=-1) for _ in range(2))
    scale = torch.tensor(10.0)
    output = BDAMOutput(image_identity_embeds=images, caption_identity_embeds=captions, logit_scale=scale)
    batch = PairedOutputs(output, output, PairLabels.of_rows(PEOPLE, PEOPLE))
    loss = Plain(BDAMTrainingArguments(use_cpu=True)).losses(None, batch)["info"]

    expected = 0.0
    for queries, targets in ((images, captions), (captions, images)):
        for row in range(8):
            others = [column for column in range(8) if column == row or PEOPLE[column] != PEOPLE[row]]
            logits = torch.stack([10.0 * queries[row] @ targets[column] for column in others])
            expected += float(logits.exp().sum().log() - 10.0 * queries[row] @ targets[row]) / 16
    assert float(loss) == pytest.approx(expected, rel=1e-5)
