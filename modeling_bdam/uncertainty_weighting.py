"""Task weights by learned uncertainty, what GradNorm is compared with.

After Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses" (CVPR 2018).
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class UncertaintyWeighting:
    """Weights w_k = exp(-s_k) of K tasks; s_k, the logarithm of a task's variance, descends on `sum_k w_k L_k + s_k`.

    At rest w_k = 1 / L_k: a task weighs the less the larger its loss stays. One Adam step on s an `update`; then the
    weights are clipped, as GradNorm's are, since a loss that can reach 0 would take its weight to infinity.

    Args:
        tasks: the tasks' names, in the order of every [K] tensor.
        learning_rate: Adam's, on s.
        min_weight, max_weight: bounds of a weight.
        device: where the weights live.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        learning_rate: float = 0.025,
        min_weight: float = 1e-4,
        max_weight: float = 10.0,
        device: torch.device | str | None = None,
    ) -> None:
        self.tasks = tuple(tasks)
        self.min_weight, self.max_weight = min_weight, max_weight
        self._log_variances = torch.zeros(len(tasks), device=device)  # s, [K]
        self._optimizer = torch.optim.Adam([self._log_variances], lr=learning_rate)

    @property
    def weights(self) -> Tensor:
        """The task weights w_k: [K], float32, no gradient; all ones before the first update."""
        return (-self._log_variances).exp()

    def update(self, losses: Tensor) -> None:
        """Moves the weights by one step.

        Args:
            losses: [K], unweighted, averaged over processes.
        """
        self._log_variances.grad = 1 - self.weights * losses.detach().to(self._log_variances)
        self._optimizer.step()
        self._log_variances.copy_(-self.weights.clamp(self.min_weight, self.max_weight).log())

    def state_dict(self) -> dict[str, Any]:
        """Everything an exact resume needs, as a copy."""
        state = {"log_variances": self._log_variances, "optimizer": self._optimizer.state_dict()}
        return copy.deepcopy({"tasks": list(self.tasks), **state})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict`.

        Raises:
            ValueError: the state is that of other tasks.
        """
        if list(state["tasks"]) != list(self.tasks):
            raise ValueError(f"the checkpoint weighs the tasks {list(state['tasks'])}, this run {list(self.tasks)}")
        self._log_variances.copy_(state["log_variances"])
        self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
