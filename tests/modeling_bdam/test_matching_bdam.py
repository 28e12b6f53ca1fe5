"""The matching head: logits of pairs do not depend on the batch, its loss against plain loops, and re-ranking."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from modeling_bdam import BDAMModel
from modeling_bdam.evaluation.protocols import EncodedSplit
from modeling_bdam.evaluation.reranking import Candidates, match_candidates
from modeling_bdam.matching_bdam import MatchingHead
from modeling_bdam.objective_bdam import PairLabels
from modeling_bdam.outputs_bdam import BDAMOutput
from modeling_bdam.training.matching import HARD_IMAGES, HARD_TEXTS, matching_loss

QUERIES, CANDIDATES, LENGTH = 3, 4, 6
BLOCKS: list[dict[str, Any]] = [
    {},
    {"matching_bidirectional": False},
    {"matching_block": "transformer", "num_matching_layers": 2},
    {"matching_block": "mlp"},
    {"num_matching_layers": 0},
    {"fusion_gate": False},
]

pytestmark = pytest.mark.usefixtures("seed")


@pytest.fixture
def make_model(tiny_config: Callable[..., Any]) -> Callable[..., BDAMModel]:
    def make(**fields: Any) -> BDAMModel:
        fields = {"matching_hidden_size": 16, "initializer_range": 0.3} | fields
        return BDAMModel(tiny_config("clip", use_matching=True, **fields)).eval()

    return make


def tokens() -> tuple[Tensor, Tensor, Tensor]:
    mask = (torch.arange(LENGTH) < torch.tensor([6, 2, 4])[:, None]).long()
    return torch.randn(QUERIES, CANDIDATES, 8, 32), torch.randn(QUERIES, LENGTH, 32), mask


@pytest.mark.parametrize("fields", BLOCKS, ids=str)
def test_logit_of_a_pair_is_that_of_the_pair_alone(
    make_model: Callable[..., BDAMModel], fields: dict[str, Any]
) -> None:
    model, (image, text, mask) = make_model(**fields), tokens()
    with torch.no_grad():
        together = model.match(image, text, mask)
        padded = model.match(
            image, *(torch.cat([part, part[:, :2] * scale], dim=1) for part, scale in ((text, 9), (mask, 0)))
        )
        for query in range(QUERIES):
            words = int(mask[query].sum())
            for candidate in range(CANDIDATES):
                alone = model.match(image[query, candidate][None, None], text[query, None, :words])
                torch.testing.assert_close(alone[0, 0], together[query, candidate], atol=1e-5, rtol=0)
    torch.testing.assert_close(padded, together, atol=1e-5, rtol=0)
    assert together.std() > 1e-2


@pytest.mark.parametrize(("bidirectional", "changes"), [(True, True), (False, False)])
def test_two_directions_let_image_tokens_read_the_text(
    make_model: Callable[..., BDAMModel], bidirectional: bool, changes: bool
) -> None:
    head = make_model(matching_bidirectional=bidirectional).matching
    assert isinstance(head, MatchingHead)
    sequence = torch.randn(1, 10, 16)
    is_token = torch.ones(1, 10, dtype=torch.bool)
    other = sequence.clone()
    other[:, 8:] = 1.0  # the text
    with torch.no_grad():
        first, second = (head.layers[0](each, is_token)[:, :8] for each in (sequence, other))
    assert torch.allclose(first, second) != changes


def test_similarities_are_the_similarity_of_each_pair(make_model: Callable[..., BDAMModel]) -> None:
    head, (image, text, mask) = make_model(num_matching_layers=0).matching, tokens()
    assert isinstance(head, MatchingHead)
    for parameter in head.pool[2].parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        found = head.similarities(image[0], text, mask)
        for query in range(QUERIES):
            alone = head(image[:1], text[query, None], mask[query, None])[0]
            torch.testing.assert_close(found[query], alone[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("hard_pairs", [False, True])
def test_matching_loss_equals_plain_loops(
    make_model: Callable[..., BDAMModel], make_batch: Any, hard_pairs: bool
) -> None:
    model, batch = make_model().double(), make_batch(8)
    people = batch.pop("person_ids")
    batch["pixel_values"] = batch["pixel_values"].double()
    with torch.no_grad():
        output = model(**batch)
        assert model.matching is not None
        found = matching_loss(model.matching, output, output, PairLabels.of_rows(people, people), 2.0, hard_pairs)
        expected = plain_loss(model, output, people, 2.0, hard_pairs)
    assert found.item() == pytest.approx(expected, rel=1e-9)


def plain_loss(model: BDAMModel, output: BDAMOutput, people: Tensor, beta: float, hard_pairs: bool) -> float:
    head, count = model.matching, len(people)
    assert isinstance(head, MatchingHead)
    image, text, mask = output.matching_tokens, output.caption_tokens, output.caption_mask
    weights = torch.cat([torch.ones(16), beta * torch.ones(16)]).double()
    scores = (output.text_embeds * weights) @ output.image_embeds.T  # [texts, images]
    losses: list[list[float]] = [[], [], [], []]

    def cross_entropy(right: Tensor, wrong: list[Tensor]) -> float:
        logits = torch.stack([right, *wrong])
        return float(logits.logsumexp(0) - right)

    for row in range(count):
        others = [other for other in range(count) if people[other] != people[row]]
        similar = [head.similarities(image[[i]], text[[t]], mask[[t]])[0, 0] for i, t in [(row, row)]]
        losses[0].append(
            cross_entropy(similar[0], [head.similarities(image[[i]], text[[row]], mask[[row]])[0, 0] for i in others])
        )
        losses[1].append(
            cross_entropy(similar[0], [head.similarities(image[[row]], text[[t]], mask[[t]])[0, 0] for t in others])
        )
        if hard_pairs:
            images = sorted(others, key=lambda i: -float(scores[row, i]))[:HARD_IMAGES]
            texts = sorted(others, key=lambda t: -float(scores[t, row]))[:HARD_TEXTS]
            pair = lambda i, t: model.match(image[[i]][None], text[[t]], mask[[t]])[0, 0]  # noqa: E731
            losses[2].append(cross_entropy(pair(row, row), [pair(i, row) for i in images]))
            losses[3].append(cross_entropy(pair(row, row), [pair(row, t) for t in texts]))
    return sum(sum(part) / count for part in losses) / 2


def test_captions_have_the_same_tokens_with_and_without_descriptions(
    make_model: Callable[..., BDAMModel], make_batch: Any
) -> None:
    model, batch = make_model(), make_batch(4)
    with torch.no_grad():
        together = model(**batch)
        alone = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    width = together.caption_tokens.shape[1]
    mask = alone.caption_mask[:, :width]
    torch.testing.assert_close(together.caption_mask, mask)
    torch.testing.assert_close(
        together.caption_tokens * mask[..., None], alone.caption_tokens[:, :width] * mask[..., None]
    )


def test_a_model_without_head_says_how_to_get_one(tiny_config: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="no matching head to re-rank with: train one with use_matching=true"):
        BDAMModel(tiny_config()).match(*tokens())


def test_reranked_metrics_order_the_first_candidates_by_the_sum_of_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    people, beta, weight, count = torch.arange(12) // 3, 1.5, 0.4, 5
    gallery, queries = torch.randn(12, 8, generator=generator), torch.randn(7, 8, generator=generator)
    rows = torch.arange(7)
    split = EncodedSplit(gallery, None, people, torch.zeros_like(people), queries, rows)
    scores = split.weighted_queries(beta) @ gallery.T
    first = scores.topk(6, dim=1).indices
    split.candidates = Candidates(first, torch.randn(7, 6, generator=generator))
    ranks = []
    for query in range(7):
        order = sorted(range(12), key=lambda row: -float(scores[query, row]))
        new = {
            int(row): float(scores[query, row] + beta * weight * split.candidates.logits[query, place])
            for place, row in enumerate(first[query][:count])
        }
        order = sorted(new, key=lambda row: -new[row]) + order[count:]
        ranks.append(next(rank for rank, row in enumerate(order, 1) if people[row] == people[query]))
    metrics = split.reranked(beta, weight, count)
    assert [metrics[f"rank{k}"] for k in (1, 5)] == [np.mean(np.array(ranks) <= k) for k in (1, 5)]
    assert split.reranked(beta, 0.0, count)["mAP"] == split.standard(beta)["mAP"]


def test_match_candidates_restores_the_order_of_queries(make_model: Callable[..., BDAMModel]) -> None:
    model, (image, text, mask) = make_model(), tokens()
    rows = torch.tensor([[0, 3], [1, 2], [2, 0]])
    gallery = image[:, 0][[0, 1, 2, 0]]
    found = match_candidates(model, rows, gallery, text, mask, Accelerator(cpu=True), batch_size=2)
    with torch.no_grad():
        torch.testing.assert_close(found.logits, model.match(gallery[rows], text, mask), atol=1e-5, rtol=0)
    assert torch.equal(found.first(1).rows, rows[:, :1])
