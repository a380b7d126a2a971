"""One step of Anon, tensor by tensor: the plain path that every other path must equal.

`Step` holds the numbers of a step, a `Bucket` the tensors that share them. A refresh works on the multiplier v
itself and never on w = v^-2, which leaves the range of float32 long before v does (sigma = 1e-16 and
gamma > 2.4, or sigma = 1e20 and gamma < -1.9): see `blend_multipliers`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anon_tune.optim.bucket import Bucket
from anon_tune.optim.delay import Delay

__all__ = ["Step", "blend_multipliers", "refresh_multiplier", "single_tensor", "window_multiplier"]

_BLOCK = 65_536


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

    Args:
        step: A refresh step (window > 0).
        s: Second moment of the window, any shape; zero afterwards.
        v: Multiplier, shape of s; overwritten.
    """
    if s.numel() == 0:
        return
    correction = 1.0 - step.beta2**step.window
    # Not in place: the mean of a distributed tensor is still to be summed over its parts.
    added = s.mean() * (step.floor / correction) + step.eps if step.floor else step.eps
    for s_part, v_part in _blocks(s, v):
        u = window_multiplier(s_part.div(correction), step.gamma, added)
        v_part.copy_(u if step.t == 1 else blend_multipliers(v_part, u, step.beta3))
    s.zero_()


def _blocks(s: Tensor, v: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """Both tensors in pieces whose intermediate results stay in a CPU's cache; on other devices whole.

    Pieces of a plain tensor are views; those of a subclass, such as DTensor, may be copies.
    """
    plain = type(s) is type(v) is Tensor and s.device.type == "cpu"
    if not (plain and s.is_contiguous() and v.is_contiguous()):
        return [(s, v)]
    return zip(torch.split(s.view(-1), _BLOCK), torch.split(v.view(-1), _BLOCK), strict=True)


def window_multiplier(s_hat: Tensor, gamma: float, added: float | Tensor) -> Tensor:
    """sigma^(-gamma/2), kept between the smallest normal number of its dtype and the inverse of that.

    Args:
        s_hat: Bias-corrected second moment of one window; overwritten.
        gamma: Adaptivity.
        added: What makes sigma of s_hat: eps and the floor's share of the tensor's mean, a number or 0-d.
    """
    tiny = torch.finfo(s_hat.dtype).tiny
    return s_hat.add_(added).pow_(-0.5 * gamma).clamp_(tiny, 1.0 / tiny)


def blend_multipliers(v: Tensor, u: Tensor, beta3: float) -> Tensor:
    """The multiplier (beta3*v^-2 + (1-beta3)*u^-2)^(-1/2) of an old one v and a window's u.

    This is w <- beta3*w + (1-beta3)*sigma^gamma with w = v^-2. Divided by the smaller of the two, both terms
    lie in [0, 1]: nothing overflows, and the result lies between v and u.
    """
    if beta3 == 0.0:
        return u
    low = torch.minimum(u, v)
    old = low.div(v).square_().mul_(beta3)
    new = low.div(u).square_().mul_(1.0 - beta3)
    return low.div_(old.add_(new).sqrt_())
