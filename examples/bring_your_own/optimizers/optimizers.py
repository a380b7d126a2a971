"""Two optimizers as arms of a job. A factory gets the model and the hyperparameters of one trial."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer


class Lion(Optimizer):
    """Lion (Chen et al. 2023, arXiv 2302.06675, algorithm 2): the step is the sign of an average of gradients.

    Args:
        params: Parameters or param groups.
        lr: Length of the step of each coordinate.
        beta1: Weight of the momentum in the average whose sign is the step, in [0, 1).
        beta2: Weight of the old momentum in the new one, in [0, 1).
        weight_decay: Decoupled: a step takes lr * weight_decay of the weights.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        beta1: float = 0.9,
        beta2: float = 0.99,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "beta1": beta1, "beta2": beta2, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step; return the value of the closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                state = self.state[parameter]
                momentum = state.setdefault("momentum", torch.zeros_like(parameter))
                direction = momentum.lerp(gradient, 1 - group["beta1"]).sign_()
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=group["lr"])
                momentum.lerp_(gradient, 1 - group["beta2"])
        return loss


def make_lion(model: nn.Module, **hyperparameters: float) -> Optimizer:
    """Lion for all parameters of the model."""
    return Lion(model.parameters(), **hyperparameters)


class MuonWithAdamW(Optimizer):
    """Muon for matrices and AdamW for the rest, as one optimizer: one list of groups, one state, one schedule.

    torch.optim.Muon takes nothing but matrices. Each group says under `rule` which of the two moves it.

    Args:
        matrices: Parameters with two dimensions; one at least.
        others: All other parameters; one at least.
        lr: Learning rate of both: Muon's step is scaled to the size of AdamW's.
        momentum: Muon's, in [0, 1).
        weight_decay: Decoupled, of both.
    """

    def __init__(
        self,
        matrices: list[nn.Parameter],
        others: list[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
    ) -> None:
        self._rules: dict[str, Optimizer] = {
            "muon": torch.optim.Muon(
                matrices,
                lr=lr,
                momentum=momentum,
                weight_decay=weight_decay,
                adjust_lr_fn="match_rms_adamw",
            ),
            "adamw": torch.optim.AdamW(others, lr=lr, weight_decay=weight_decay),
        }
        groups = [
            {**group, "rule": name} for name, rule in self._rules.items() for group in rule.param_groups
        ]
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step; return the value of the closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for name, rule in self._rules.items():
            # Each time: load_state_dict puts new ones in their place.
            rule.param_groups = [group for group in self.param_groups if group["rule"] == name]
            rule.state = self.state
            rule.step()
        return loss


def make_muon(model: nn.Module, **hyperparameters: float) -> Optimizer:
    """Muon for the weights of linear layers but the last, the head; AdamW for all else, as its author has it."""
    linear = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    matrices = linear[:-1]
    taken = {id(matrix) for matrix in matrices}
    others = [parameter for parameter in model.parameters() if id(parameter) not in taken]
    return MuonWithAdamW(matrices, others, **hyperparameters)
