"""GradNorm: task weights that keep the tasks' gradient norms in proportion to how slowly each task trains.

Equations 5 and 6 and section 4.2 of the paper, after Chen et al., "GradNorm: Gradient Normalization for Adaptive Loss
Balancing in Deep Multitask Networks" (ICML 2018).
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# A loss at or below this is no measure of where a task started: any later loss would be a huge multiple of it.
MIN_INITIAL_LOSS = 1e-8


class GradNorm:
    """Weights w_k = exp(s_k) of K tasks, moved by one Adam step on s an `update`.

    The objective of s is `alpha * sum_k |w_k n_k - target_k| + log_weight_penalty * sum_k s_k^2`, where n_k is the
    gradient norm of the unweighted loss, `target_k = r_k * w_1 n_1` is a constant, and `r_k = (L_k / L_k0) / mean`
    is the task's relative inverse training rate: a task that lags behind gets a larger norm. The weighted losses of
    eq. 6 are no part of it: they train the network, and s would answer them by making every weight small.

    After each step the weights are scaled to sum to K and THEN clipped. So a clipped set may miss the sum: the lower
    bound adds at most `K * min_weight`, the upper one takes away only if K exceeds `max_weight`. The next update
    scales again.

    Args:
        tasks: the tasks' names, in the order of every [K] tensor. The first is the reference.
        alpha: strength of the norms' deviation against the penalty (eq. 6).
        learning_rate: Adam's, on s.
        log_weight_penalty: lambda of eq. 6.
        min_weight: lower clip of a weight.
        max_weight: upper clip of a weight.
        device: where the weights live.

    Raises:
        ValueError: no task, a name twice, or bounds that are not `0 < min_weight <= 1 <= max_weight`.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        alpha: float = 1.5,
        learning_rate: float = 0.025,
        log_weight_penalty: float = 1e-3,
        min_weight: float = 1e-4,
        max_weight: float = 10.0,
        device: torch.device | str | None = None,
    ) -> None:
        if not tasks or len(set(tasks)) != len(tasks):
            raise ValueError(f"tasks must be one or more distinct names, got {list(tasks)}")
        if not 0 < min_weight <= 1 <= max_weight:
            raise ValueError(
                f"weights start at 1, which must lie in [min_weight, max_weight] = "
                f"[{min_weight}, {max_weight}] with min_weight above 0"
            )
        self.tasks = tuple(tasks)
        self.alpha = alpha
        self.log_weight_penalty = log_weight_penalty
        self.min_weight = min_weight
        self.max_weight = max_weight
        self._log_weights = torch.zeros(len(tasks), device=device)  # s, [K]
        self._initial_losses = torch.zeros(len(tasks), device=device)  # L_k0, [K]; 0 until recorded
        self._optimizer = torch.optim.Adam([self._log_weights], lr=learning_rate)

    @property
    def weights(self) -> Tensor:
        """The task weights w_k: [K], float32, no gradient; all ones before the first update."""
        return self._log_weights.exp()

    def update(self, losses: Tensor, grad_norms: Tensor) -> None:
        """Move the weights by one step.

        A task's initial loss L_k0 is its loss at the first call. If that is at most `MIN_INITIAL_LOSS` (no positive
        pair in the first batch, say), nothing is known of its progress: its ratio counts as 1, and the first larger
        loss is recorded instead.

        Args:
            losses: [K], the unweighted losses, averaged over processes.
            grad_norms: [K], the norms of THEIR gradients on the shared representation (`shared_gradient_norms`),
                averaged over processes. As w_k > 0, the norm of the weighted loss is w_k times as large.

        Raises:
            ValueError: a shape is not [K], or a value is not finite; the weights are then as before.
        """
        losses = self._finite("loss", losses)
        grad_norms = self._finite("gradient norm", grad_norms)

        self._initial_losses = torch.where(self._initial_losses > MIN_INITIAL_LOSS, self._initial_losses, losses)
        recorded = self._initial_losses > MIN_INITIAL_LOSS
        ratios = torch.where(recorded, losses / self._initial_losses.clamp(min=MIN_INITIAL_LOSS), 1.0)
        relative_rates = ratios / ratios.mean().clamp(min=MIN_INITIAL_LOSS)  # r_k, [K]

        weighted_norms = self.weights * grad_norms  # [K]
        targets = relative_rates * weighted_norms[0]
        # The objective's gradient: as w = exp(s), that of w_k n_k by s_k is w_k n_k itself; the targets are constants.
        deviation_gradient = (weighted_norms - targets).sign() * weighted_norms
        self._log_weights.grad = self.alpha * deviation_gradient + 2 * self.log_weight_penalty * self._log_weights
        self._optimizer.step()

        weights = self.weights
        weights = (weights * (len(self.tasks) / weights.sum())).clamp(self.min_weight, self.max_weight)
        self._log_weights.copy_(weights.log())

    def state_dict(self) -> dict[str, Any]:
        """Everything an exact resume needs: tasks, s, the initial losses and Adam's state, as a copy."""
        return copy.deepcopy(
            {
                "tasks": list(self.tasks),
                "log_weights": self._log_weights,
                "initial_losses": self._initial_losses,
                "optimizer": self._optimizer.state_dict(),
            }
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`, with the learning rate saved in it.

        Raises:
            ValueError: the state is that of other tasks, or of the same in another order.
        """
        if list(state["tasks"]) != list(self.tasks):
            raise ValueError(
                f"the checkpoint weighs the tasks {list(state['tasks'])}, this run {list(self.tasks)}; "
                "resume with the same losses in the same order"
            )
        self._log_weights.copy_(state["log_weights"])
        self._initial_losses.copy_(state["initial_losses"])
        # Adam would keep the given tensors and write its next steps into the caller's state.
        self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))

    def _finite(self, what: str, values: Tensor) -> Tensor:
        """`values` as float32 [K] beside the weights, or ValueError."""
        values = values.detach().to(self._log_weights)
        if values.shape != self._log_weights.shape:
            raise ValueError(f"need one {what} for each of {list(self.tasks)}, got shape {list(values.shape)}")
        if not values.isfinite().all():
            bad = [
                f"{task}: {value}"
                for task, value in zip(self.tasks, values.tolist(), strict=True)
                if not math.isfinite(value)
            ]
            raise ValueError(f"{what} is not finite for {', '.join(bad)}")
        return values


def shared_gradient_norms(losses: Sequence[Tensor], shared: Sequence[Tensor]) -> Tensor:
    """Each task's gradient norm on the representation that the tasks share: n_k of `GradNorm.update`.

    Taken with respect to activations, not to the parameters below them, so that the towers are not walked K times.
    The graph is kept for the backward pass of the total.

    Args:
        losses: K scalars, unweighted.
        shared: tensors of any shapes; the norm is over all of them together.

    Returns:
        [K], float32, no gradient; 0 for a task that does not depend on `shared`.

    Raises:
        ValueError: no loss, no shared tensor, or a shared tensor outside the graph.
    """
    if not losses or not shared:
        raise ValueError(f"need at least one loss and one shared tensor, got {len(losses)} and {len(shared)}")
    if not all(tensor.requires_grad for tensor in shared):
        raise ValueError("every shared tensor must require a gradient; is this running under torch.no_grad()?")
    norms: list[Tensor] = []
    for loss in losses:
        grads: Sequence[Tensor | None] = []
        if loss.requires_grad:
            grads = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
        parts = [torch.linalg.vector_norm(grad.float()) for grad in grads if grad is not None]
        norms.append(torch.linalg.vector_norm(torch.stack(parts)) if parts else torch.zeros((), device=loss.device))
    return torch.stack(norms)
