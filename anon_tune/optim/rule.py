"""One step of Anon, tensor by tensor: the plain path that every other path must equal.

`Step` holds the numbers of a step, `Bucket` the tensors that share them. A refresh works on the multiplier v
itself and never on w = v^-2, which leaves the range of float32 long before v does (sigma = 1e-16 and
gamma > 2.4, or sigma = 1e20 and gamma < -1.9): see `blend_multipliers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Bucket:
    """Tensors of one device, one dtype and one step count; the lists run in parallel.

    At gamma = 0 there is no second moment: `exp_avg_sqs` and `multipliers` are empty.
    """

    params: list[Tensor]
    grads: list[Tensor]
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]
    multipliers: list[Tensor]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Bucket:
        """The bucket of these rows; all of them have s and v, or none has."""
        p, g, m, s, v = zip(*rows, strict=True) if rows else ((),) * 5
        adaptive = bool(s) and s[0] is not None
        return cls(list(p), list(g), list(m), list(s) if adaptive else [], list(v) if adaptive else [])

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

    def split_by_order(self) -> tuple[Bucket, Bucket]:
        """The tensors that `one_order` accepts, and the others."""
        # Nearly always all of them, and then no Python function runs per tensor: a step of many small tensors
        # would spend more time on the question than on the work.
        states = (self.params, self.exp_avgs, self.exp_avg_sqs, self.multipliers)
        plain = (
            set(map(type, self.params)) <= {Tensor, torch.nn.Parameter}
            and len({t.dtype for tensors in (self.params, self.grads, self.exp_avgs) for t in tensors}) == 1
            and all(all(map(Tensor.is_contiguous, tensors)) for tensors in states)
        )
        return (self, Bucket.of([])) if plain else self.split(one_order)

    def parts(self, entries: int) -> Iterator[Bucket]:
        """The bucket in pieces of about so many entries, and of whole tensors."""
        part: list[Row] = []
        held = 0
        for row in self.rows():
            part.append(row)
            held += row[0].numel()
            if held >= entries:
                yield Bucket.of(part)
                part, held = [], 0
        if part:
            yield Bucket.of(part)

    def split(self, takes: Callable[[Row], bool]) -> tuple[Bucket, Bucket]:
        """The tensors whose row a predicate takes, and the others."""
        rows = list(self.rows())
        taken = [takes(row) for row in rows]
        if all(taken):
            return self, Bucket.of([])
        return (
            Bucket.of([row for row, yes in zip(rows, taken, strict=True) if yes]),
            Bucket.of([row for row, yes in zip(rows, taken, strict=True) if not yes]),
        )

    def aligned_grads(self) -> list[Tensor]:
        """The gradients, entry by entry in the order of their parameters; copied where they are not."""
        return [
            g if p.is_contiguous() and g.is_contiguous() else g.contiguous(memory_format=_order(p))
            for p, g in zip(self.params, self.grads, strict=True)
        ]


def one_order(row: Row) -> bool:
    """Whether a kernel may walk through the memory of these plain tensors side by side.

    Parameter and state must fill their memory without gaps and in the same order, with one dtype; a gradient in
    another order is no hindrance (`Bucket.aligned_grads`).
    """
    p, g, m, s, v = row
    order = _order(p)
    return (
        type(p) in (Tensor, torch.nn.Parameter)
        and p.dtype == g.dtype == m.dtype
        and p.is_contiguous(memory_format=order)
        and m.is_contiguous(memory_format=order)
        and (s is None or s.is_contiguous(memory_format=order))
        and (v is None or v.is_contiguous(memory_format=order))
    )


def _order(tensor: Tensor) -> torch.memory_format:
    """The order that the tensor's memory is in, or would best be brought into."""
    images = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if images and not tensor.is_contiguous() else torch.contiguous_format


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
