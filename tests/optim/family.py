"""RMSprop, AdaGrad and Adam with Anon's adaptivity gamma, line by line, in the paper's notation.

The members share one rule and differ in how they gather the second moment and in their momentum:

    s_hat <- gather(g^2)
    P     <- (sqrt(s_hat) + epsilon)^(-gamma)
    theta <- theta - rate * direction(g, P)

`test_family.py` compares them with torch's optimizers at gamma = 1, and with torch's SGD at gamma = 0. Anon itself,
which empties s at refresh steps, is `anon_tune.optim.ReferenceAnon`.
Sources: Duchi, Hazan and Singer 2011 (AdaGrad), Tieleman and Hinton 2012 (RMSprop), Graves 2013 (centered),
Kingma and Ba 2015 (Adam), Chen et al. 2018 (Padam, the exponent p = gamma/2 in (0, 1/2] for Adam and AMSGrad).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["AdaGrad", "Adam", "Member", "RMSprop"]


@dataclass
class Member(ABC):
    """The state of one parameter tensor and the rule that the family shares.

    Attributes:
        theta: The parameter; real, of any shape. `step` replaces it and never writes into it.
        alpha: The learning rate.
        gamma: Adaptivity: 0 as SGD, 1 as the member's namesake.
        epsilon: Added to the root of s_hat, in units of a gradient.
        weight_decay: Decay rate; weight_decay * theta is added to the gradient (L2), as torch does it.
    """

    theta: Tensor
    alpha: float = 1e-2
    gamma: float = 1.0
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        self.t = 0
        self.s = torch.zeros_like(self.theta)

    def step(self, gradient: Tensor) -> None:
        """One step t -> t + 1 with a gradient of theta's shape."""
        self.t += 1
        g = gradient + self.weight_decay * self.theta
        P = (self.gather(g).sqrt() + self.epsilon) ** -self.gamma
        self.theta = self.theta - self.rate() * self.direction(g, P)

    @abstractmethod
    def gather(self, g: Tensor) -> Tensor:
        """Add g to the second moment s and return s_hat."""

    def direction(self, g: Tensor, P: Tensor) -> Tensor:
        """The step for a learning rate of 1; without momentum, P * g."""
        return P * g

    def rate(self) -> float:
        """The learning rate of step t."""
        return self.alpha


@dataclass
class AdaGrad(Member):
    """A sum of squares, which never forgets; no momentum.

    Attributes:
        initial: What s begins at (torch's initial_accumulator_value), in units of a squared gradient.
        rate_decay: Step t has the learning rate alpha / (1 + (t - 1) * rate_decay) (torch's lr_decay).
    """

    initial: float = 0.0
    rate_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.s = self.s + self.initial

    def gather(self, g: Tensor) -> Tensor:
        self.s = self.s + g * g
        return self.s

    def rate(self) -> float:
        return self.alpha / (1 + (self.t - 1) * self.rate_decay)


@dataclass
class RMSprop(Member):
    """A moving average of squares without bias correction; heavy-ball momentum of the preconditioned gradient.

    Attributes:
        beta2: Weight of the old value in s, and in the mean gradient of `centered` (torch's alpha).
        momentum: Weight of the old value in the buffer b; the new P * g has the weight 1.
        centered: Whether the squared mean gradient is taken off s: P sees a variance.
    """

    beta2: float = 0.99
    momentum: float = 0.0
    centered: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.mean = torch.zeros_like(self.theta)
        self.b = torch.zeros_like(self.theta)

    def gather(self, g: Tensor) -> Tensor:
        self.s = self.beta2 * self.s + (1 - self.beta2) * g * g
        self.mean = self.beta2 * self.mean + (1 - self.beta2) * g
        return self.s - self.mean**2 if self.centered else self.s

    def direction(self, g: Tensor, P: Tensor) -> Tensor:
        self.b = self.momentum * self.b + P * g
        return self.b


@dataclass
class Adam(Member):
    """Moving averages of g and of g^2, both with bias correction; the average of g is preconditioned.

    Attributes:
        beta1: Weight of the old value in m.
        beta2: Weight of the old value in s.
    """

    beta1: float = 0.9
    beta2: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        self.m = torch.zeros_like(self.theta)

    def gather(self, g: Tensor) -> Tensor:
        self.s = self.beta2 * self.s + (1 - self.beta2) * g * g
        return self.s / (1 - self.beta2**self.t)

    def direction(self, g: Tensor, P: Tensor) -> Tensor:
        self.m = self.beta1 * self.m + (1 - self.beta1) * g
        return self.m / (1 - self.beta1**self.t) * P
