"""Anon line by line, in the paper's notation: slow, clear, and independent of the fast paths.

It exists to be compared with: the tests drive it and `anon_tune.optim.Anon` with the same gradients.
Source: arXiv 2605.02317; what the paper's text leaves open (order of operations, beta3 on the old value,
correction by the length of the window) follows the authors' published code.
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
        self.w = torch.ones_like(self.theta)
        self.v = torch.ones_like(self.theta)

    def step(self, gradient: Tensor) -> None:
        """One step t -> t + 1 with a gradient of theta's shape."""
        self.t += 1
        g = -gradient if self.maximize else gradient
        if self.decoupled:
            self.theta = self.theta * (1 - self.alpha * self.weight_decay)
        else:
            g = g + self.weight_decay * self.theta

        self.m = self.beta1 * self.m + (1 - self.beta1) * g
        self.s = self.beta2 * self.s + (1 - self.beta2) * g * g

        if self.delay.is_refresh(self.t):
            window = self.t - self.delay.at_or_before(self.t - 1)
            s_hat = self.s / (1 - self.beta2**window)
            sigma = s_hat + self.epsilon
            if self.floor > 0:
                sigma = sigma + self.floor * s_hat.mean()
            if self.t == 1:
                self.w = sigma**self.gamma
            else:
                self.w = self.beta3 * self.w + (1 - self.beta3) * sigma**self.gamma
            self.v = self.w**-0.5
            self.s = torch.zeros_like(self.s)

        self.theta = self.theta - self.alpha / (1 - self.beta1**self.t) * self.m * self.v
