"""The SDM objective against its definition in plain loops."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from modeling_bdam import BDAMConfig, BDAMModel
from modeling_bdam.objective_bdam import PairLabels
from modeling_bdam.outputs_bdam import BDAMOutput
from modeling_bdam.training.baselines import sdm_losses, similarity_distribution_matching


def slow_sdm(queries: Tensor, keys: Tensor, scale: float, positives: Tensor, epsilon: float) -> float:
    total = 0.0
    for i in range(len(queries)):
        masses = [math.exp(scale * float(queries[i] @ key)) for key in keys]
        for j in range(len(keys)):
            p = masses[j] / sum(masses)
            q = float(positives[i, j]) / int(positives[i].sum())
            total += p * math.log(p / (q + epsilon))
    return total / len(queries)


def test_sdm_equals_definition_in_plain_loops() -> None:
    torch.manual_seed(0)
    queries = torch.nn.functional.normalize(torch.randn(4, 6), dim=1)
    keys = torch.nn.functional.normalize(torch.randn(5, 6), dim=1)
    positives = torch.tensor([[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]).bool()
    expected = slow_sdm(queries, keys, 7.0, positives, 1e-4)
    assert similarity_distribution_matching(queries, keys, 7.0, positives, 1e-4).item() == pytest.approx(expected, 1e-5)


def test_sdm_is_zero_for_right_and_finite_for_wrong_pairs() -> None:
    embeds, labels = torch.eye(4), torch.eye(4).bool()
    assert similarity_distribution_matching(embeds, embeds, 50.0, labels).item() == pytest.approx(0, abs=1e-4)
    assert 10 < similarity_distribution_matching(embeds, embeds.roll(1, 0), 50.0, labels).item() < math.inf


def test_sdm_losses_of_batch_are_means_over_parts(
    tiny_config: Callable[..., BDAMConfig], make_batch: Callable[..., dict[str, Tensor]]
) -> None:
    torch.manual_seed(0)
    model = BDAMModel(tiny_config("clip", use_bdam=False, use_fusion=False, initializer_range=0.2)).eval()
    batch = make_batch(8)
    people = batch["person_ids"]
    output: BDAMOutput = model(**{name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask")})
    whole = sdm_losses(output, output, PairLabels.of_rows(people, people))["info"]
    parts = []
    for start in (0, 4):
        rows = {name: value[start : start + 4] if value.ndim else value for name, value in output.items()}
        labels = PairLabels.of_rows(people[start : start + 4], people, start)
        parts.append(sdm_losses(BDAMOutput(**rows), output, labels)["info"])
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_sdm_losses_do_not_train_temperature() -> None:
    embeds = torch.nn.functional.normalize(torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    scale = torch.tensor(2.0, requires_grad=True)
    output = BDAMOutput(
        image_identity_embeds=embeds.requires_grad_(), caption_identity_embeds=embeds.roll(1, 0), logit_scale=scale
    )
    people = torch.arange(4)
    loss = sdm_losses(output, output, PairLabels.of_rows(people, people))["info"]
    one_way = similarity_distribution_matching(embeds, embeds.roll(1, 0), 2.0, torch.eye(4).bool())
    other_way = similarity_distribution_matching(embeds.roll(1, 0), embeds, 2.0, torch.eye(4).bool())
    torch.testing.assert_close(loss, one_way + other_way)
    loss.backward()
    assert embeds.grad is not None
    assert scale.grad is None
