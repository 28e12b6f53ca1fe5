"""GradNorm against a literal autograd implementation of eq. 5 and 6 of the paper, and learned uncertainty."""

import io
from typing import Literal

import pytest
import torch
from torch import Tensor

from modeling_bdam.training.task_weighting import GradNorm, UncertaintyWeighting, shared_gradient_norms


class TwoLayers(torch.nn.Module):
    """A shared linear layer under one head per task, on inputs x with orthonormal rows.

    With z = x W^T, dL/dW = (dL/dz)^T x, so ||dL/dW|| = ||dL/dz||: gradients by parameters and by activations agree.
    """

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.x = torch.linalg.qr(torch.randn(12, 5))[0].T.contiguous()  # [5, 12], orthonormal rows
        self.shared = torch.nn.Linear(12, 7, bias=False)
        self.heads = torch.nn.ModuleList(torch.nn.Linear(7, 3) for _ in range(tasks))
        # Losses of different scale
        self.goals = [(1.0, 4.0, 0.25)[task % 3] * torch.randn(5, 3) for task in range(tasks)]

    def forward(self) -> tuple[Tensor, list[Tensor]]:
        z = self.shared(self.x)
        hidden = torch.tanh(z)
        return z, [(head(hidden) - goal).square().mean() for head, goal in zip(self.heads, self.goals, strict=True)]


def literal_update(
    s: Tensor,
    adam: torch.optim.Adam,
    losses: list[Tensor],
    first_losses: list[float],
    parameter: Tensor,
    alpha: float,
    penalty: float,
    alpha_on: str,
) -> None:
    """One Adam step on s by eq. 5 and 6, alpha as exponent or as printed, differentiated by autograd."""
    factor, exponent = (alpha, 1.0) if alpha_on == "deviation" else (1.0, alpha)
    weights = s.exp()
    norms = [
        torch.autograd.grad(w * loss, parameter, create_graph=True)[0].norm()
        for w, loss in zip(weights, losses, strict=True)
    ]
    ratios = [loss.item() / first for loss, first in zip(losses, first_losses, strict=True)]
    mean_ratio = sum(ratios) / len(ratios)
    reference = norms[0].item()
    gradnorm = sum(
        abs(norm - (ratio / mean_ratio) ** exponent * reference) for norm, ratio in zip(norms, ratios, strict=True)
    )
    objective = factor * gradnorm + penalty * (weights.log() ** 2).sum()
    adam.zero_grad()
    (s.grad,) = torch.autograd.grad(objective, [s])
    adam.step()
    with torch.no_grad():
        weights = s.exp()
        s.copy_((weights * len(losses) / weights.sum()).clamp(1e-4, 10.0).log())


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("alpha_on", ["rate", "deviation"])
@pytest.mark.parametrize(("alpha", "penalty"), [(1.5, 1e-3), (0.5, 0.8)])  # Adam hides a factor from a small penalty
def test_gradnorm_follows_literal_equations_for_20_steps(
    alpha: float, penalty: float, alpha_on: Literal["rate", "deviation"]
) -> None:
    network = TwoLayers(tasks=3)
    gradnorm = GradNorm(["a", "b", "c"], alpha=alpha, log_weight_penalty=penalty, alpha_on=alpha_on)
    s = torch.zeros(3, requires_grad=True)
    adam = torch.optim.Adam([s], lr=0.025)
    sgd = torch.optim.SGD(network.parameters(), lr=0.05)
    first_losses: list[float] = []
    for _ in range(20):
        z, losses = network()
        first_losses = first_losses or [loss.item() for loss in losses]
        literal_update(s, adam, losses, first_losses, network.shared.weight, alpha, penalty, alpha_on)
        gradnorm.update(torch.stack(losses), shared_gradient_norms(losses, [z]))
        torch.testing.assert_close(gradnorm.weights, s.detach().exp(), rtol=1e-4, atol=0)
        sgd.zero_grad()
        torch.dot(gradnorm.weights, torch.stack(losses)).backward()
        sgd.step()
    assert (gradnorm.weights - 1).abs().max() > 0.05


def test_shared_gradient_norms_join_all_tensors() -> None:
    a, b = torch.ones(2, requires_grad=True), torch.ones(1, dtype=torch.float64, requires_grad=True)
    untouched = torch.ones(3, requires_grad=True)
    norms = shared_gradient_norms([2 * a.sum() + b.sum(), 5 * a[0]], [a, b, untouched])
    assert norms.dtype == torch.float32
    torch.testing.assert_close(norms, torch.tensor([3.0, 5.0]))  # sqrt(4 + 4 + 1), 5


def test_shared_gradient_norms_are_zero_without_dependence() -> None:
    shared, other = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    norms = shared_gradient_norms([other.sum(), torch.tensor(3.0), shared[0]], [shared])
    assert norms.tolist() == [0.0, 0.0, 1.0]


def test_shared_gradient_norms_do_not_overflow_in_fp16() -> None:
    shared = torch.ones(100, dtype=torch.float16, requires_grad=True)
    assert shared_gradient_norms([(shared * 6e4).float().sum()], [shared]).item() == pytest.approx(6e5, rel=1e-3)


def test_shared_gradient_norms_refuse_tensor_without_grad() -> None:
    with pytest.raises(ValueError, match="must require a gradient"):
        shared_gradient_norms([torch.ones(1, requires_grad=True).sum()], [torch.ones(1)])


def test_gradnorm_weights_sum_to_number_of_tasks() -> None:
    gradnorm = GradNorm(["a", "b", "c", "d"])
    assert gradnorm.weights.tolist() == [1.0] * 4
    for _ in range(50):
        gradnorm.update(torch.rand(4), 10 * torch.rand(4))
        assert gradnorm.weights.sum().item() == pytest.approx(4, rel=1e-5)
    assert gradnorm.weights.std() > 0.01


def test_shared_gradient_norms_scale_half_precision_losses() -> None:
    half = torch.ones(4, dtype=torch.float16, requires_grad=True)
    losses = [(1e-9 * half.float()).sum(), (2e-9 * half.float()).sum()]  # below the smallest float16, 6e-8
    assert shared_gradient_norms(losses, [half]).tolist() == [0.0, 0.0]
    assert shared_gradient_norms(losses, [half], 2.0**16).tolist() == pytest.approx([2e-9, 4e-9], rel=0.01)


def test_gradnorm_raises_weight_of_small_norm_and_slow_task() -> None:
    by_norm, by_rate = GradNorm(["a", "b"]), GradNorm(["a", "b", "c"])
    for _ in range(10):
        by_norm.update(torch.ones(2), torch.tensor([1.0, 0.1]))
    assert by_norm.weights[1] > 1 > by_norm.weights[0]
    by_rate.update(torch.tensor([2.0, 2.0, 2.0]), torch.ones(3))
    by_rate.update(torch.tensor([1.0, 2.0, 0.5]), torch.ones(3))
    assert by_rate.weights[1] > by_rate.weights[2]


def test_gradnorm_replaces_initial_loss_of_zero() -> None:
    late, early = GradNorm(["a", "b"]), GradNorm(["a", "b"])
    norms = torch.tensor([1.0, 2.0])
    late.update(torch.tensor([3.0, 0.0]), norms)  # the ratio of b counts as 1
    early.update(torch.tensor([3.0, 4.0]), norms)
    for losses in ([2.0, 4.0], [1.0, 3.0], [1.0, 0.0]):
        late.update(torch.tensor(losses), norms)
        early.update(torch.tensor(losses), norms)
        assert torch.equal(late.weights, early.weights)
    assert late.weights.isfinite().all()


def test_gradnorm_stays_finite_at_zero_losses() -> None:
    gradnorm = GradNorm(["a", "b"])
    for losses in (torch.zeros(2), torch.ones(2), torch.zeros(2)):
        gradnorm.update(losses, torch.ones(2))
        assert gradnorm.weights.isfinite().all()


def test_gradnorm_of_one_task_keeps_weight_one() -> None:
    gradnorm = GradNorm(["only"])
    for loss in (2.0, 1.0, 0.5):
        gradnorm.update(torch.tensor([loss]), torch.tensor([3.0]))
        assert gradnorm.weights.tolist() == [1.0]


def test_gradnorm_clips_after_scaling() -> None:
    gradnorm = GradNorm(["a", "b"], learning_rate=3.0, min_weight=0.5, max_weight=1.2)
    gradnorm.update(torch.ones(2), torch.tensor([1.0, 9.0]))  # one large step: b falls, unclipped, far below 0.5
    torch.testing.assert_close(gradnorm.weights, torch.tensor([1.2, 0.5]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_update_refuses_non_finite_value_of_named_task(bad: float) -> None:
    gradnorm = GradNorm(["info", "triplet"])
    gradnorm.update(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]))
    before = gradnorm.weights
    with pytest.raises(ValueError, match="loss is not finite for triplet"):
        gradnorm.update(torch.tensor([1.0, bad]), torch.ones(2))
    with pytest.raises(ValueError, match="gradient norm is not finite for info"):
        gradnorm.update(torch.ones(2), torch.tensor([bad, 1.0]))
    assert torch.equal(gradnorm.weights, before)


def test_state_dict_resumes_exactly() -> None:
    losses, norms = torch.rand(12, 3), torch.rand(12, 3)
    uninterrupted = GradNorm(["a", "b", "c"])
    saved = io.BytesIO()
    for step in range(12):
        if step == 6:
            torch.save(uninterrupted.state_dict(), saved)
        uninterrupted.update(losses[step], norms[step])
    resumed = GradNorm(["a", "b", "c"])
    resumed.load_state_dict(torch.load(io.BytesIO(saved.getvalue()), weights_only=True))
    for step in range(6, 12):
        resumed.update(losses[step], norms[step])
    assert torch.equal(resumed.weights, uninterrupted.weights)


def test_state_dict_shares_no_memory() -> None:
    gradnorm = GradNorm(["a", "b"])
    gradnorm.update(torch.ones(2), torch.tensor([1.0, 2.0]))
    state, weights = gradnorm.state_dict(), gradnorm.weights
    gradnorm.update(torch.rand(2), torch.tensor([2.0, 1.0]))
    restored = GradNorm(["a", "b"])
    restored.load_state_dict(state)
    assert torch.equal(restored.weights, weights)
    gradnorm.load_state_dict(state)
    for either in (gradnorm, restored):
        either.update(torch.ones(2), torch.ones(2))
    assert torch.equal(gradnorm.weights, restored.weights)


def test_gradnorm_refuses_unsuitable_arguments() -> None:
    for tasks in ([], ["a", "a"]):
        with pytest.raises(ValueError, match="distinct names"):
            GradNorm(tasks)
    with pytest.raises(ValueError, match="must contain 1"):
        GradNorm(["a"], min_weight=2.0)
    with pytest.raises(ValueError, match=r"one loss for each of \['a', 'b'\]"):
        GradNorm(["a", "b"]).update(torch.ones(3), torch.ones(2))
    state = GradNorm(["info", "adv"]).state_dict()
    with pytest.raises(ValueError, match=r"\['info', 'adv'\].*\['adv', 'info'\]"):
        GradNorm(["adv", "info"]).load_state_dict(state)


def test_uncertainty_weighting_follows_adam_on_objective() -> None:
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


def test_uncertainty_weighting_converges_to_inverse_loss() -> None:
    weighting = UncertaintyWeighting(["a", "b"], learning_rate=0.05)
    for _ in range(400):
        weighting.update(torch.tensor([4.0, 0.5]))
    assert weighting.weights.tolist() == pytest.approx([0.25, 2.0], rel=0.02)


def test_uncertainty_weighting_clips_at_zero_loss() -> None:
    weighting = UncertaintyWeighting(["a"], learning_rate=1.0, max_weight=10.0)
    for _ in range(20):
        weighting.update(torch.zeros(1))
    assert weighting.weights.tolist() == pytest.approx([10.0])
