"""Anon line by line, in the paper's notation: slow, clear, and independent of the fast paths.

The tests drive it and `anon_tune.optim.Anon` with the same gradients and compare the results.
Source: arXiv 2605.02317. Where the paper's text is ambiguous (order of operations, beta3 on the old value,
correction by the length of the window), the code follows the authors' published code. The treatment of gradients of
exactly 0 is ours: if every coordinate has a nonzero gradient at every step, the rule is the published one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from anon_tune.optim.delay import Delay

__all__ = ["ReferenceAnon"]


@dataclass
class ReferenceAnon:
    """The state of one parameter tensor and the rule that moves it.

    Attributes:
        theta: The parameter; real, of any shape. `step` replaces it and never writes into it.
        alpha: The learning rate.
        beta1: Weight of the old value in m.
        beta2: Weight of the old value in s.
        beta3: Weight of the old value in w.
        gamma: Adaptivity: 0 as SGD, 1 as Adam.
        delay: The refresh steps a_n.
        epsilon: Added to sigma.
        floor: Relative floor of sigma (0 in the paper).
        weight_decay: Decay rate.
        decoupled: Whether decay shrinks theta (AdamW) or is added to the gradient (Adam with L2).
        maximize: Whether to climb.
    """

    theta: Tensor
    alpha: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    beta3: float = 0.5
    gamma: float = 1.0
    delay: Delay = field(default_factory=lambda: Delay("geometric", 2.0))
    epsilon: float = 1e-16
    floor: float = 0.0
    weight_decay: float = 0.0
    decoupled: bool = True
    maximize: bool = False

    def __post_init__(self) -> None:
        self.t = 0
        self.m = torch.zeros_like(self.theta)
        self.s = torch.zeros_like(self.theta)
        self.w = torch.zeros_like(self.theta)
        self.v = torch.zeros_like(self.theta)
        self.steps = torch.zeros_like(self.theta)
        """Steps of each coordinate's window: since the last refresh, or since it began if that is later."""
        self.refreshed = torch.zeros_like(self.theta, dtype=torch.bool)

    def step(self, gradient: Tensor) -> None:
        """Take one step t -> t + 1 with a gradient of theta's shape."""
        if self.decoupled:
            self.theta = self.theta * (1 - self.alpha * self.weight_decay)
        silent = gradient == 0
        # t counts from the first step in which any coordinate has a gradient; at gamma = 0 nothing depends on one.
        if self.t == 0 and self.gamma != 0 and silent.all():
            return
        self.t += 1
        g = -gradient if self.maximize else gradient
        if not self.decoupled:
            g = g + self.weight_decay * self.theta

        self.m = self.beta1 * self.m + (1 - self.beta1) * g
        # Decay alone does not count as a gradient.
        self.s = self.beta2 * self.s + (1 - self.beta2) * torch.where(silent, 0, g * g)

        # A coordinate begins with its first gradient.
        began = self.refreshed | (self.s > 0)
        self.steps = torch.where(began, self.steps + 1, 0)
        s_hat = torch.where(began, self.s / (1 - self.beta2**self.steps), 0)
        sigma = s_hat + self.epsilon
        if self.floor > 0:
            sigma = sigma + self.floor * s_hat.mean()

        if self.delay.is_refresh(self.t):
            # A window without a gradient says nothing.
            has_gradient = self.s > 0
            blended = self.beta3 * self.w + (1 - self.beta3) * sigma**self.gamma
            self.w = torch.where(
                has_gradient, torch.where(self.refreshed, blended, sigma**self.gamma), self.w
            )
            self.refreshed = self.refreshed | has_gradient
            self.v = torch.where(self.refreshed, self.w**-0.5, 0)
            self.s = torch.zeros_like(self.s)
            self.steps = torch.zeros_like(self.steps)
        else:
            # From its first gradient to its first refresh a coordinate follows its own gradients at every step.
            own = torch.where(began, sigma ** (-self.gamma / 2), 0)
            self.v = torch.where(self.refreshed, self.v, own)

        if self.gamma == 0:
            self.v = torch.ones_like(self.theta)

        self.theta = self.theta - self.alpha / (1 - self.beta1**self.t) * self.m * self.v
