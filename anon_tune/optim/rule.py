"""One step of Anon, tensor by tensor: the plain path that every other path must equal.

`Step` holds the numbers of a step, `Bucket` the tensors that share them. A refresh works on the multiplier v
itself and never on w = v^-2, which leaves the range of float32 long before v does (sigma = 1e-16 and
gamma > 2.4, or sigma = 1e20 and gamma < -1.9): see `refresh_multiplier`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from anon_tune.optim.delay import Delay

__all__ = ["Bucket", "Step", "refresh_multiplier", "single_tensor"]


@dataclass(frozen=True, slots=True)
class Step:
    """The numbers of one step t of tensors that have taken equally many steps.

    Attributes:
        t: The step, counted from 1.
        lr: Learning rate, as decoupled decay uses it.
        size: lr / (1 - beta1^t), what multiplies m * v.
        beta1: Weight of the old value in m.
        beta2: Weight of the old value in s.
        beta3: Weight of the old value in w = v^-2.
        gamma: Adaptivity.
        eps: Added to sigma.
        floor: Relative floor of sigma.
        weight_decay: Decay rate.
        decoupled: Whether decay shrinks the parameter or joins the gradient.
        maximize: Whether to climb.
        window: a_n - a_(n-1) where t = a_n is a refresh step, else 0.
    """

    t: int
    lr: float
    size: float
    beta1: float
    beta2: float
    beta3: float
    gamma: float
    eps: float
    floor: float
    weight_decay: float
    decoupled: bool
    maximize: bool
    window: int

    @classmethod
    def of(cls, group: Mapping[str, Any], t: int) -> Step:
        """The step t of a param group of `Anon`."""
        beta1, beta2, beta3 = (float(beta) for beta in group["betas"])
        lr = float(group["lr"])
        gamma = float(group["gamma"])
        return cls(
            t=t,
            lr=lr,
            size=lr / (1.0 - beta1**t),
            beta1=beta1,
            beta2=beta2,
            beta3=beta3,
            gamma=gamma,
            eps=float(group["eps"]),
            floor=float(group["floor"]),
            weight_decay=float(group["weight_decay"]),
            decoupled=group["decoupled_weight_decay"],
            maximize=group["maximize"],
            window=Delay.parse(group["delay"]).window(t) if gamma else 0,
        )

    @property
    def shrink(self) -> float:
        """What decoupled decay multiplies the parameter with; 1 where there is none."""
        return 1.0 - self.lr * self.weight_decay if self.decoupled else 1.0

    @property
    def coupling(self) -> float:
        """What coupled decay multiplies the parameter with before it joins the gradient."""
        return 0.0 if self.decoupled else self.weight_decay


@dataclass(slots=True)
class Bucket:
    """Tensors of one device, one dtype and one step count; the lists run in parallel.

    At gamma = 0 there is no second moment: `exp_avg_sqs` and `multipliers` stay empty.
    """

    params: list[Tensor] = field(default_factory=list)
    grads: list[Tensor] = field(default_factory=list)
    exp_avgs: list[Tensor] = field(default_factory=list)
    exp_avg_sqs: list[Tensor] = field(default_factory=list)
    multipliers: list[Tensor] = field(default_factory=list)

    def rows(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]]:
        """(p, g, m, s, v) of each tensor."""
        none: list[Tensor | None] = [None] * len(self.params)
        return zip(
            self.params,
            self.grads,
            self.exp_avgs,
            self.exp_avg_sqs or none,
            self.multipliers or none,
            strict=True,
        )


def single_tensor(step: Step, bucket: Bucket) -> None:
    """Moves the bucket's parameters and state in place, one tensor after the other."""
    for p, g, m, s, v in bucket.rows():
        # A half-precision parameter is widened to the dtype of its state, and rounded once at the end.
        x = p.to(m.dtype)
        g = g.to(m.dtype)
        if step.maximize:
            g = -g
        if step.coupling:
            g = g.add(x, alpha=step.coupling)
        if step.shrink != 1.0:
            x.mul_(step.shrink)
        m.lerp_(g, 1.0 - step.beta1)
        if s is None or v is None:
            x.add_(m, alpha=-step.size)
        else:
            s.mul_(step.beta2).addcmul_(g, g, value=1.0 - step.beta2)
            if step.window:
                refresh_multiplier(step, s, v)
            x.addcmul_(m, v, value=-step.size)
        if x is not p:
            p.copy_(x)


def refresh_multiplier(step: Step, s: Tensor, v: Tensor) -> None:
    """Turns the second moment s of a finished window into the multiplier v, and empties s.

    With u = sigma^(-gamma/2), the rule w <- b3*w + (1-b3)*sigma^gamma, v = w^(-1/2) reads
    v <- (b3*v^-2 + (1-b3)*u^-2)^(-1/2). Divided by the smaller of the two, both terms lie in [0, 1]: nothing
    overflows, and v lies between its old value and u.

    Args:
        step: A refresh step (window > 0).
        s: Second moment of the window, any shape; zero afterwards.
        v: Multiplier, shape of s; overwritten.
    """
    if s.numel() == 0:
        return
    sigma = s.div(1.0 - step.beta2**step.window)
    sigma = sigma.add_(step.floor * sigma.mean() + step.eps) if step.floor else sigma.add_(step.eps)
    tiny = torch.finfo(v.dtype).tiny
    u = sigma.pow_(-0.5 * step.gamma).clamp_(tiny, 1.0 / tiny)
    if step.t == 1 or step.beta3 == 0.0:
        v.copy_(u)
    else:
        low = torch.minimum(u, v)
        old = low.div(v).square_().mul_(step.beta3)
        new = low.div(u).square_().mul_(1.0 - step.beta3)
        torch.div(low, old.add_(new).sqrt_(), out=v)
    s.zero_()
