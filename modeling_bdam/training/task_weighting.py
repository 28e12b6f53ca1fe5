"""Weights of the task losses: GradNorm, and learned uncertainty as the method that GradNorm is compared with.

GradNorm: paper, eq. 5 and 6 and section 4.2, after Chen et al., "GradNorm: Gradient Normalization for Adaptive Loss
Balancing in Deep Multitask Networks" (ICML 2018). Learned uncertainty: Kendall, Gal and Cipolla, "Multi-Task Learning
Using Uncertainty to Weigh Losses" (CVPR 2018).
"""

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

# With a smaller initial loss, such as of a batch without positive pairs, later losses would be huge multiples of it
MIN_INITIAL_LOSS = 1e-8


class TaskWeighting:
    """Weights w_k = exp(s_k) of K tasks, where one Adam step on s is one update.

    Subclasses define the gradient of s.

    Args:
        tasks: names of the tasks, in the order of every [K] tensor.
        learning_rate: Adam's learning rate on s.
        min_weight, max_weight: bounds that the weights are clipped to.
        device: device of the weights.

    Raises:
        ValueError: no task, a duplicate name, or bounds that violate `0 < min_weight <= 1 <= max_weight`.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        learning_rate: float = 0.025,
        min_weight: float = 1e-4,
        max_weight: float = 10.0,
        device: torch.device | str | None = None,
    ) -> None:
        if not tasks or len(set(tasks)) != len(tasks):
            raise ValueError(f"tasks must be one or more distinct names, got {list(tasks)}")
        if not 0 < min_weight <= 1 <= max_weight:
            raise ValueError(f"[min_weight, max_weight] = [{min_weight}, {max_weight}] must contain 1, and exclude 0")
        self.tasks = tuple(tasks)
        self.min_weight, self.max_weight = min_weight, max_weight
        self._log_weights = torch.zeros(len(tasks), device=device)  # s, [K]
        self._optimizer = torch.optim.Adam([self._log_weights], lr=learning_rate)

    @property
    def weights(self) -> Tensor:
        """The task weights w_k: [K], float32, no gradient; all ones before the first update."""
        return self._log_weights.exp()

    def update(self, losses: Tensor, grad_norms: Tensor) -> None:
        """Moves the weights by one step.

        Args:
            losses: [K], the unweighted losses, averaged over processes.
            grad_norms: [K], their gradient norms by `shared_gradient_norms`, averaged over processes.

        Raises:
            ValueError: a shape is not [K], or a value is not finite; the weights are then unchanged.
        """
        raise NotImplementedError

    def _step(self, gradient: Tensor, sum_to: float | None = None) -> None:
        """One Adam step on s with its gradient [K]; the weights are scaled to `sum_to`, then clipped."""
        self._log_weights.grad = gradient
        self._optimizer.step()
        weights = self.weights
        if sum_to is not None:
            weights = weights * (sum_to / weights.sum())
        self._log_weights.copy_(weights.clamp(self.min_weight, self.max_weight).log())

    def state_dict(self) -> dict[str, Any]:
        """Everything an exact resume needs: method, tasks, s and the state of Adam, as a copy."""
        state = {"method": type(self).__name__, "tasks": list(self.tasks), **self._tensors()}
        return copy.deepcopy({**state, "optimizer": self._optimizer.state_dict()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict`, with the learning rate saved in it.

        Raises:
            ValueError: the state is that of another method, of other tasks, or of the same tasks in another order.
        """
        if state["method"] != type(self).__name__ or list(state["tasks"]) != list(self.tasks):
            raise ValueError(
                f"the checkpoint holds {state['method']} weights of the tasks {list(state['tasks'])}, this run uses "
                f"{type(self).__name__} on {list(self.tasks)}; resume with the same losses in the same order"
            )
        for name, tensor in self._tensors().items():
            tensor.copy_(state[name])
        # Adam keeps the tensors it is given, so without a copy its next steps would write into the caller's state.
        self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))

    def _tensors(self) -> dict[str, Tensor]:
        return {"log_weights": self._log_weights}

    def _finite(self, name: str, values: Tensor) -> Tensor:
        """`values` as float32 [K] on the device of the weights, or ValueError."""
        values = values.detach().to(self._log_weights)
        if values.shape != self._log_weights.shape:
            raise ValueError(f"need one {name} for each of {list(self.tasks)}, got shape {list(values.shape)}")
        if not values.isfinite().all():
            pairs = zip(self.tasks, values.tolist(), strict=True)
            bad = ", ".join(f"{task}: {value}" for task, value in pairs if not math.isfinite(value))
            raise ValueError(f"{name} is not finite for {bad}")
        return values


class GradNorm(TaskWeighting):
    """Keeps the gradient norms of the tasks in proportion to how slowly each task trains (paper, eq. 5 and 6).

    The objective of s is `sum_k |w_k n_k - target_k| + log_weight_penalty * sum_k s_k^2`, where n_k is the gradient
    norm of the unweighted loss, `target_k = r_k^alpha * w_1 n_1` is a constant, and `r_k = (L_k / L_k0) / mean` is the
    relative inverse training rate: a task that lags behind gets a larger norm (Chen et al., eq. 2). With
    `alpha_on="deviation"`, as eq. 6 of the paper is printed, alpha is a factor of the first sum instead and
    `target_k = r_k * w_1 n_1`; since Adam divides a gradient by its scale, this factor has an effect only relative to
    the penalty. The weighted losses of eq. 6 are not part of the objective: minimized over s, they would shrink every
    weight. After each step the weights are scaled to sum to K and then clipped.

    Args:
        tasks, learning_rate, min_weight, max_weight, device: see `TaskWeighting`. The first task is the reference.
        alpha: see above.
        alpha_on: `"rate"` or `"deviation"`.
        log_weight_penalty: lambda of eq. 6.
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
        alpha_on: Literal["rate", "deviation"] = "rate",
    ) -> None:
        super().__init__(tasks, learning_rate, min_weight, max_weight, device)
        self.factor, self.exponent = (1.0, alpha) if alpha_on == "rate" else (alpha, 1.0)
        self.log_weight_penalty = log_weight_penalty
        self._initial_losses = torch.zeros(len(tasks), device=device)  # L_k0, [K]; 0 until recorded

    def update(self, losses: Tensor, grad_norms: Tensor) -> None:
        """Moves the weights by one step.

        The initial loss L_k0 of a task is its first loss above `MIN_INITIAL_LOSS`; until then its ratio counts as 1.
        """
        losses = self._finite("loss", losses).clamp(min=0)  # unbiased HSIC can be negative
        grad_norms = self._finite("gradient norm", grad_norms)

        self._initial_losses = torch.where(self._initial_losses > MIN_INITIAL_LOSS, self._initial_losses, losses)
        recorded = self._initial_losses > MIN_INITIAL_LOSS
        ratios = torch.where(recorded, losses / self._initial_losses.clamp(min=MIN_INITIAL_LOSS), 1.0)
        relative_rates = ratios / ratios.mean().clamp(min=MIN_INITIAL_LOSS)  # r_k, [K]

        weighted_norms = self.weights * grad_norms  # [K]
        targets = relative_rates**self.exponent * weighted_norms[0]
        # As w = exp(s), the derivative of w_k n_k by s_k is w_k n_k itself; the targets are constants.
        deviation_gradient = (weighted_norms - targets).sign() * weighted_norms
        gradient = self.factor * deviation_gradient + 2 * self.log_weight_penalty * self._log_weights
        self._step(gradient, sum_to=len(self.tasks))

    def _tensors(self) -> dict[str, Tensor]:
        return {**super()._tensors(), "initial_losses": self._initial_losses}


class UncertaintyWeighting(TaskWeighting):
    """Learned uncertainty: s_k, the negative log variance of a task, descends on `sum_k w_k L_k - s_k`.

    At the optimum w_k = 1 / L_k. The weights are clipped, since a loss of 0 would make its weight infinite.
    """

    def update(self, losses: Tensor, grad_norms: Tensor | None = None) -> None:
        """Moves the weights by one step; gradient norms are not used."""
        self._step(self.weights * self._finite("loss", losses) - 1)


def shared_gradient_norms(losses: Sequence[Tensor], shared: Sequence[Tensor], scale: float = 1.0) -> Tensor:
    """Computes the gradient norm n_k of each task by the representation that the tasks share.

    The gradient is that of activations instead of parameters, so that the towers are not traversed K times.

    Args:
        losses: K scalars, unweighted.
        shared: tensors of any shapes; the norm is over all of them together.
        scale: factor of the losses in the backward pass, so that fp16 gradients do not underflow; the norms are divided
            by it.

    Returns:
        [K], float32, no gradient; 0 for a task that does not depend on `shared`, infinite or NaN if `scale` overflows.

    Raises:
        ValueError: a shared tensor is outside the graph.
    """
    if not all(tensor.requires_grad for tensor in shared):
        raise ValueError("every shared tensor must require a gradient; is this running under torch.no_grad()?")
    norms: list[Tensor] = []
    for loss in losses:
        grads: Sequence[Tensor | None] = []
        if loss.requires_grad:
            grads = torch.autograd.grad(scale * loss, shared, retain_graph=True, allow_unused=True)
        parts = [torch.linalg.vector_norm(grad.float() / scale) for grad in grads if grad is not None]
        norms.append(torch.linalg.vector_norm(torch.stack(parts)) if parts else torch.zeros((), device=loss.device))
    return torch.stack(norms)
