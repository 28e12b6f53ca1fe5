"""Weights by uncertainty against autograd on their objective."""

import pytest
import torch

from modeling_bdam.uncertainty_weighting import UncertaintyWeighting


def test_weights_follow_adam_on_the_objective() -> None:
    torch.manual_seed(0)
    weighting = UncertaintyWeighting(["a", "b", "c"], learning_rate=0.1)
    s = torch.zeros(3, requires_grad=True)
    adam = torch.optim.Adam([s], lr=0.1)
    for _ in range(5):
        losses = 5 * torch.rand(3)
        weighting.update(losses)
        adam.zero_grad()
        ((-s).exp() * losses + s).sum().backward()
        adam.step()
        torch.testing.assert_close(weighting.weights, (-s).exp().detach())
    assert (weighting.weights - 1).abs().max() > 0.1


def test_a_constant_loss_comes_to_weigh_its_inverse() -> None:
    weighting = UncertaintyWeighting(["a", "b"], learning_rate=0.05)
    for _ in range(400):
        weighting.update(torch.tensor([4.0, 0.5]))
    assert weighting.weights.tolist() == pytest.approx([0.25, 2.0], rel=0.02)


def test_a_loss_of_zero_does_not_take_its_weight_to_infinity() -> None:
    weighting = UncertaintyWeighting(["a"], learning_rate=1.0, max_weight=10.0)
    for _ in range(20):
        weighting.update(torch.zeros(1))
    assert weighting.weights.tolist() == pytest.approx([10.0])


def test_state_continues_as_if_never_stopped_and_is_refused_for_other_tasks() -> None:
    torch.manual_seed(0)
    losses = torch.rand(6, 2)
    whole, first, second = (UncertaintyWeighting(["a", "b"]) for _ in range(3))
    for row in losses:
        whole.update(row)
    for row in losses[:3]:
        first.update(row)
    second.load_state_dict(first.state_dict())
    for row in losses[3:]:
        second.update(row)
    assert torch.equal(second.weights, whole.weights)
    with pytest.raises(ValueError, match=r"weighs the tasks \['a', 'b'\]"):
        UncertaintyWeighting(["a", "c"]).load_state_dict(first.state_dict())
