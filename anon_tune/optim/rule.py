"""One step of Anon, tensor by tensor: the plain path that every other path must equal.

`Step` holds the numbers of a step, `Bucket` the tensors that share them. A refresh works on the multiplier v
itself and never on w = v^-2, which leaves the range of float32 long before v does (sigma = 1e-16 and
gamma > 2.4, or sigma = 1e20 and gamma < -1.9): see `blend_multipliers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from anon_tune.optim.delay import Delay

__all__ = [
    "Bucket",
    "Step",
    "blend_multipliers",
    "one_order",
    "refresh_multiplier",
    "single_tensor",
    "window_multiplier",
]

Row: TypeAlias = "tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]"
"""(p, g, m, s, v) of one tensor; without s and v at gamma = 0."""


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

    def rows(self) -> Iterator[Row]:
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

    def append(self, p: Tensor, g: Tensor, m: Tensor, s: Tensor | None, v: Tensor | None) -> None:
        """Adds one tensor; s and v are None at gamma = 0."""
        self.params.append(p)
        self.grads.append(g)
        self.exp_avgs.append(m)
        if s is not None and v is not None:
            self.exp_avg_sqs.append(s)
            self.multipliers.append(v)

    def split(self, takes: Callable[..., bool]) -> tuple[Bucket, Bucket]:
        """The tensors whose (p, g, m, s, v) a predicate takes, and the others."""
        rows = list(self.rows())
        taken = [takes(*row) for row in rows]
        if all(taken):
            return self, Bucket()
        buckets = (Bucket(), Bucket())
        for row, yes in zip(rows, taken, strict=True):
            buckets[0 if yes else 1].append(*row)
        return buckets

    def aligned_grads(self) -> list[Tensor]:
        """The gradients, entry by entry in the order of their parameters; copied where they are not."""
        return [
            g if g.stride() == p.stride() else torch.empty_like(p).copy_(g)
            for p, g in zip(self.params, self.grads, strict=True)
        ]


def one_order(p: Tensor, g: Tensor, m: Tensor, s: Tensor | None, v: Tensor | None) -> bool:
    """Whether a kernel may walk through the memory of these plain tensors side by side.

    Parameter and state must fill their memory without gaps and in the same order, with one dtype; a gradient in
    another order is no hindrance (`Bucket.aligned_grads`).
    """
    strides = p.stride()
    return (
        type(p) in (Tensor, torch.nn.Parameter)
        and p.dtype == g.dtype == m.dtype
        and (p.is_contiguous() or (p.dim() == 4 and p.is_contiguous(memory_format=torch.channels_last)))
        and m.stride() == strides
        and (s is None or s.stride() == strides)
        and (v is None or v.stride() == strides)
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

    Args:
        step: A refresh step (window > 0).
        s: Second moment of the window, any shape; zero afterwards.
        v: Multiplier, shape of s; overwritten.
    """
    if s.numel() == 0:
        return
    u = window_multiplier(s.div(1.0 - step.beta2**step.window), step.gamma, step.eps, step.floor)
    v.copy_(u if step.t == 1 else blend_multipliers(v, u, step.beta3))
    s.zero_()


def window_multiplier(s_hat: Tensor, gamma: float, eps: float, floor: float) -> Tensor:
    """sigma^(-gamma/2), kept between the smallest normal number of its dtype and the inverse of that.

    Args:
        s_hat: Bias-corrected second moment of one window, not empty; overwritten.
        gamma: Adaptivity.
        eps: Added to s_hat.
        floor: Share of the mean of s_hat that is added too.
    """
    sigma = s_hat.add_(floor * s_hat.mean()).add_(eps) if floor else s_hat.add_(eps)
    tiny = torch.finfo(sigma.dtype).tiny
    return sigma.pow_(-0.5 * gamma).clamp_(tiny, 1.0 / tiny)


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
