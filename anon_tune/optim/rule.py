"""One step of Anon, tensor by tensor: the plain path that every other path must equal.

`Step` holds the numbers of a step, a `Bucket` the tensors that share them. A refresh works on the multiplier v
itself and never on w = v^-2, which leaves the range of float32 long before v does (sigma = 1e-16 and
gamma > 2.4, or sigma = 1e20 and gamma < -1.9): see `_blend_multipliers`.

A coordinate begins with its first gradient. The state `multiplier` encodes its stage:

- v > 0: it is settled, and v is its multiplier; it had a gradient at or before the last refresh.
- v = 0: it has had no gradient yet, and does not move.
- v < 0: it began after the last refresh. -v is the weight of its gradients in s (1 - beta2^k after k steps), so that
  s / -v is their mean square, from which its multiplier follows at every step until the next refresh.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anon_tune.errors import HyperparameterError
from anon_tune.optim.bucket import Bucket
from anon_tune.optim.delay import Delay

__all__ = [
    "Step",
    "added_to_moment",
    "count_begun",
    "multiplier_in_use",
    "refreshed",
    "renew_multiplier",
    "single_tensor",
    "three_betas",
    "without_decay_alone",
]

_BLOCK = 32_000
"""Entries whose intermediate results stay in a CPU's cache. It is below torch's grain size, 32,768, so that a refresh
starts no threads: on a busy machine each of a block's dozen operations would wait seconds for them."""

_LARGE_BLOCK = 2**24
"""Entries per block on other devices, where intermediate results must not take the memory of a whole model."""


@dataclass(frozen=True, slots=True)
class Step:
    """The numbers of one step t of tensors that have taken equally many steps.

    Attributes:
        t: The step, counted from 1.
        lr: Learning rate, as decoupled decay uses it.
        size: lr / (1 - beta1^t), the factor of m * v.
        beta1: Weight of the old value in m.
        beta2: Weight of the old value in s.
        beta3: Weight of the old value in w = v^-2.
        gamma: Adaptivity.
        eps: Added to sigma.
        floor: Relative floor of sigma.
        weight_decay: Decay rate.
        decoupled: Whether decay shrinks the parameter or joins the gradient.
        maximize: Whether to climb.
        refresh: Whether t is one of the refresh steps a_n.
        elapsed: Steps since the last refresh before t, this one included: t - a_(n-1) for a_(n-1) < t <= a_n.
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
    refresh: bool
    elapsed: int

    @classmethod
    def of(cls, group: Mapping[str, Any], t: int) -> Step:
        """Return the step t of a param group of `Anon`.

        Raises:
            HyperparameterError: A scheduler has replaced `betas` by something other than three numbers.
        """
        beta1, beta2, beta3 = three_betas(group)
        lr = float(group["lr"])
        delay = Delay.parse(group["delay"])
        return cls(
            t=t,
            lr=lr,
            size=lr / (1.0 - beta1**t),
            beta1=beta1,
            beta2=beta2,
            beta3=beta3,
            gamma=float(group["gamma"]),
            eps=float(group["eps"]),
            floor=float(group["floor"]),
            weight_decay=float(group["weight_decay"]),
            decoupled=group["decoupled_weight_decay"],
            maximize=group["maximize"],
            refresh=delay.is_refresh(t),
            elapsed=t - delay.at_or_before(t - 1),
        )

    @property
    def shrink(self) -> float:
        """The factor of decoupled decay on the parameter; 1 without decay."""
        return 1.0 - self.lr * self.weight_decay if self.decoupled else 1.0

    @property
    def correction(self) -> float:
        """The weight of the window so far in s, 1 - beta2^elapsed: s over this is the mean square."""
        return 1.0 - self.beta2**self.elapsed

    @property
    def coupling(self) -> float:
        """The factor of coupled decay on the parameter before it is added to the gradient."""
        return 0.0 if self.decoupled else self.weight_decay


def three_betas(group: Mapping[str, Any]) -> tuple[float, float, float]:
    """Return beta1, beta2 and beta3 of a param group; raise HyperparameterError if a scheduler left fewer."""
    try:
        beta1, beta2, beta3 = (float(beta) for beta in group["betas"])
    except (TypeError, ValueError):
        raise HyperparameterError(
            f"A param group has betas {group['betas']!r}; Anon needs beta1, beta2 and beta3. "
            "Use a scheduler that keeps the third value, as torch's OneCycleLR does."
        ) from None
    return beta1, beta2, beta3


def single_tensor(step: Step, bucket: Bucket) -> None:
    """Move the bucket's parameters and state in place, one tensor after the other."""
    for p, g, m, s, v in bucket.rows():
        # A half-precision parameter is widened to the dtype of its state and rounded once at the end.
        x = p.to(m.dtype)
        g = g.to(m.dtype)
        d = -g if step.maximize else g
        if step.coupling:
            d = d.add(x, alpha=step.coupling)
        if step.shrink != 1.0:
            x.mul_(step.shrink)
        m.lerp_(d, 1.0 - step.beta1)
        if s is None or v is None:
            x.add_(m, alpha=-step.size)
        else:
            if step.coupling:
                d = without_decay_alone(d, g)
            s.mul_(step.beta2).addcmul_(d, d, value=1.0 - step.beta2)
            x.addcmul_(m, renew_multiplier(step, s, v, bucket.settled), value=-step.size)
        if x is not p:
            p.copy_(x)


def without_decay_alone(d: Tensor, g: Tensor) -> Tensor:
    """Return d, the gradient with coupled decay, for s: 0 where g is 0, because decay alone is not a gradient."""
    return torch.where(g == 0, g, d)


def renew_multiplier(step: Step, s: Tensor, v: Tensor, settled: bool) -> Tensor:
    """Update v for this step, whose gradient s already holds, and return the multipliers for m.

    Args:
        step: The step; it may be a refresh.
        s: Second moment of the window so far, any shape; emptied by a refresh.
        v: The state `multiplier`, shape of s; changed in place.
        settled: Whether all of v is known to be positive, which saves a check.

    Returns:
        The multipliers of this step, shape of s: v itself if all coordinates are settled.
    """
    if s.numel() == 0:
        return v
    if not settled:
        for s_part, v_part in _unsettled(s, v):
            v_part.copy_(count_begun(s_part, v_part, step.beta2))
    if not step.refresh:
        if settled:
            return v
        return multiplier_in_use(s, v, step.gamma, step.eps, step.floor, step.correction)
    # Not block by block: the floor needs the mean over the tensor.
    added = added_to_moment(s, v, step.eps, step.floor, step.correction, settled)
    for s_part, v_part in _blocks(s, v):
        v_part.copy_(refreshed(s_part, v_part, step.gamma, step.beta3, added, step.correction, settled))
    s.zero_()
    return v


def count_begun(s: Tensor, v: Tensor, beta2: float) -> Tensor:
    """Return the multipliers v, with this step counted for the coordinates that began after the last refresh.

    A coordinate whose s has become 0 again, as it does at once with beta2 = 0, waits for a gradient again.
    """
    return torch.where(v <= 0, torch.where(s > 0, v * beta2 - (1.0 - beta2), 0.0), v)


def multiplier_in_use(
    s: Tensor, v: Tensor, gamma: float, eps: float, floor: float, correction: float | Tensor
) -> Tensor:
    """Return the multipliers of a step that is not a refresh.

    Args:
        s: Second moment of the window so far, any shape.
        v: The state `multiplier`, shape of s.
        gamma: Adaptivity.
        eps: Added to sigma.
        floor: Relative floor of sigma.
        correction: Weight of the window so far in s, 1 - beta2^elapsed.

    Returns:
        Shape of s: v where it is settled, 0 before a first gradient, and in between sigma^(-gamma/2) of the
        coordinate's own gradients.
    """
    if _is_plain(v) and v.is_cpu and not v.min() < 0:
        return v
    added = added_to_moment(s, v, eps, floor, correction, settled=False)
    used = v.clamp(min=0)
    for s_part, v_part, used_part in _unsettled(s, v, used):
        own = _window_multiplier(_mean_square(s_part, v_part, correction, settled=False), gamma, added)
        used_part.copy_(torch.where(v_part < 0, own, used_part))
    return used


def refreshed(
    s: Tensor,
    v: Tensor,
    gamma: float,
    beta3: float,
    added: float | Tensor,
    correction: float | Tensor,
    settled: bool,
) -> Tensor:
    """Return the multipliers after a refresh.

    A window without a gradient carries no information, so v stays where s is 0. A coordinate that began in this
    window has no older multiplier to blend with: this is its first refresh.

    Args:
        s: Second moment of the finished window, any shape.
        v: Multipliers before the refresh, shape of s.
        gamma: Adaptivity.
        beta3: Weight of the old value in w = v^-2.
        added: `added_to_moment` of the whole tensor: sigma less the mean square.
        correction: Weight of the window in s, 1 - beta2^(a_n - a_(n-1)).
        settled: Whether all of v is known to be positive.
    """
    u = _window_multiplier(_mean_square(s, v, correction, settled), gamma, added)
    renewed = torch.where(v > 0, _blend_multipliers(v, u, beta3), u)
    return torch.where(s > 0, renewed, v.clamp(min=0))


def added_to_moment(
    s: Tensor, v: Tensor, eps: float, floor: float, correction: float | Tensor, settled: bool
) -> float | Tensor:
    """Return the addend of sigma: eps, plus the floor's share of the mean square over the tensor.

    Infinite and NaN coordinates count as 0 in that mean, so that they do not spread.

    Returns:
        A number; a 0-d tensor with a floor.
    """
    if not floor:
        return eps
    finite = _mean_square(s, v, correction, settled).nan_to_num(nan=0.0, posinf=0.0)
    return finite.mean() * floor + eps


def _mean_square(s: Tensor, v: Tensor, correction: float | Tensor, settled: bool) -> Tensor:
    """Return the mean square of each coordinate's gradients: since they began, or in the window so far."""
    return s / correction if settled else s / torch.where(v < 0, -v, correction)


def _blocks(*tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Return tensors of one shape in pieces, to keep intermediate results small.

    Pieces of a plain tensor are views; a subclass, such as DTensor, stays whole, because its pieces may be copies.
    """
    if not all(_is_plain(each) and each.is_contiguous() for each in tensors):
        return [tensors]
    size = _BLOCK if tensors[0].is_cpu else _LARGE_BLOCK
    return zip(*(torch.split(each.view(-1), size) for each in tensors), strict=True)


def _unsettled(s: Tensor, v: Tensor, *others: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Return the blocks with some v that are not positive; all blocks on other devices, where a check costs more."""
    blocks = _blocks(s, v, *others)
    return (each for each in blocks if each[1].min() <= 0) if _is_plain(v) and v.is_cpu else blocks


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) is Tensor


def _window_multiplier(mean_square: Tensor, gamma: float, added: float | Tensor) -> Tensor:
    """Return sigma^(-gamma/2), clamped between the smallest normal number of its dtype and its inverse.

    Args:
        mean_square: Mean square of a window's gradients; overwritten.
        gamma: Adaptivity.
        added: Sigma less the mean square, a number or a 0-d tensor.
    """
    tiny = torch.finfo(mean_square.dtype).tiny
    return mean_square.add_(added).pow_(-0.5 * gamma).clamp_(tiny, 1.0 / tiny)


def _blend_multipliers(v: Tensor, u: Tensor, beta3: float) -> Tensor:
    """Return the multiplier (beta3*v^-2 + (1-beta3)*u^-2)^(-1/2) of an old v and a window's u.

    This is w <- beta3*w + (1-beta3)*sigma^gamma with w = v^-2. Divided by the smaller of the two, both terms
    lie in [0, 1]: nothing overflows, and the result lies between v and u.
    """
    if beta3 == 0.0:
        return u
    low = torch.minimum(u, v)
    old = low.div(v).square_().mul_(beta3)
    new = low.div(u).square_().mul_(1.0 - beta3)
    return low.div_(old.add_(new).sqrt_())
