"""Tests of the batch norms in training; `test_trainer.py` compares two processes with one."""

import copy

import pytest
import torch
from torch import nn

from modeling_bdam.training import batch_norm
from modeling_bdam.training.batch_norm import WholeBatchNorm, rest_frozen_norms, use_whole_batch_norms


def test_whole_batch_norm_in_one_process_is_the_usual_one() -> None:
    torch.manual_seed(0)
    usual = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(5), nn.BatchNorm1d(5))
    images = torch.randn(6, 3, 8, 8)
    usual(images)  # makes the lazy layer
    whole = copy.deepcopy(usual)
    use_whole_batch_norms(whole)
    assert [type(whole[number]) for number in (1, 4)] == [WholeBatchNorm, WholeBatchNorm]
    assert whole(images).equal(usual(images))
    assert all(value.equal(usual.state_dict()[name]) for name, value in whole.state_dict().items())


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("affine", [True, False])
def test_whole_batch_norm_of_shards_is_that_of_the_batch(
    momentum: float | None, affine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    halves = torch.randn(2, 4, 3, 5, 2) * 2 + 1  # of two ranks
    usual = nn.BatchNorm2d(3, momentum=momentum, affine=affine)
    if affine:
        nn.init.normal_(usual.weight)
    expected = usual(halves.flatten(0, 1)).unflatten(0, (2, 4))
    own = nn.BatchNorm2d(3, momentum=momentum, affine=affine)
    own.load_state_dict({**usual.state_dict(), **nn.BatchNorm2d(3, affine=False).state_dict()})
    use_whole_batch_norms(own)
    other = halves[1].mean((0, 2, 3)), halves[1].var((0, 2, 3), correction=0)
    monkeypatch.setattr(batch_norm, "gather_with_gradient", lambda rows: torch.cat([rows, torch.stack(other)[None]]))
    monkeypatch.setattr(batch_norm.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(batch_norm.dist, "get_world_size", lambda: 2)
    torch.testing.assert_close(own(halves[0]), expected[0])
    for name, value in own.state_dict().items():
        torch.testing.assert_close(value, usual.state_dict()[name], msg=name)


def test_frozen_batch_norm_keeps_its_statistics() -> None:
    frozen, trained = nn.BatchNorm2d(3).requires_grad_(False), nn.BatchNorm2d(3)
    model = nn.Sequential(frozen, trained).train()
    rest_frozen_norms(model)
    model(torch.randn(4, 3, 2, 2) + 5)
    means = [norm.state_dict()["running_mean"] for norm in (frozen, trained)]
    assert [mean.equal(torch.zeros(3)) for mean in means] == [True, False]
