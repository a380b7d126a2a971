"""Summary of the multiplier in a few numbers per param group: for logs, once an epoch.

The paper's convergence proof assumes bounds on the preconditioner; this module measures them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from anon_tune.optim.anon import Anon
from anon_tune.optim.delay import Delay
from anon_tune.optim.rule import Step, multiplier_in_use

__all__ = ["monitor"]

_SAMPLE = 65_536
"""Number of a group's coordinates, evenly spaced, that its quantiles are computed from."""

_QUANTILES = {"multiplier_q05": 0.05, "multiplier_q50": 0.5, "multiplier_q95": 0.95}


@torch.no_grad()
def monitor(optimizer: Anon) -> dict[str, float]:
    """Measure the state after any step, in a few passes over it, and change nothing.

    Args:
        optimizer: Its parameters and state may be on any device. If they are distributed (DTensor), all ranks must
            call this function together, and each gets the numbers of the whole tensors.

    Returns:
        For each param group i that has taken a step, with keys `group{i}/...`:

        - `gamma`, `lr`;
        - `multiplier_min`, `multiplier_max`, and `multiplier_q05`, `_q50`, `_q95` (from at most 65,536
          coordinates): the multiplier v of the coordinates that have had a gradient, all 1 at gamma = 0;
        - `waiting_share`: the share of coordinates, 0 to 1, that have had no gradient yet; 0 at gamma = 0;
        - `refreshes`: the number so far; `next_refresh`: the step of the next one, omitted if there is none;
        - `update_rms`: RMS of the last step without decay; `update_ratio`: that over the RMS of the
          parameters, omitted if all of these are 0;
        - `floor_share`: the share of coordinates, 0 to 1, whose own second moment was no larger than what eps
          and floor add to it, read back from v; 0 at gamma = 0.

        A group without any gradient so far is omitted. If the squares of all its gradients were 0, `multiplier_*`
        and `floor_share` are omitted.
    """
    report: dict[str, float] = {}
    for index, group in enumerate(optimizer.param_groups):
        made = [(p, state) for p in group["params"] if (state := optimizer.state.get(p)) and p.numel()]
        states = [(p, state) for p, state in made if int(state["step"])]
        if states:
            entries = sum(_reals(p).numel() for p, _ in made)
            measured = {
                **_schedule(group, states),
                **_update(group, states),
                **_multiplier(group, states, entries),
            }
            report |= {f"group{index}/{name}": float(value) for name, value in measured.items()}
    return report


def _schedule(group: dict[str, Any], states: list[tuple[Tensor, dict[str, Tensor]]]) -> dict[str, float]:
    gamma = float(group["gamma"])
    report = {"gamma": gamma, "lr": float(group["lr"]), "refreshes": 0.0}
    if gamma:
        delay = Delay.parse(group["delay"])
        t = max(int(state["step"]) for _, state in states)
        following = delay.next_after(t)
        report["refreshes"] = float(delay.count(t))
        if following is not None:
            report["next_refresh"] = float(following)
    return report


def _update(group: dict[str, Any], states: list[tuple[Tensor, dict[str, Tensor]]]) -> dict[str, float]:
    beta1 = float(group["betas"][0])
    moved: list[Tensor] = []
    size: list[Tensor] = []
    for p, state in states:
        m = _reals(state["exp_avg"])
        update = m * _in_use(group, state) if group["gamma"] else m
        bias = 1.0 - beta1 ** int(state["step"])
        moved.append(torch.linalg.vector_norm(update, dtype=torch.float64).cpu() / bias)
        size.append(torch.linalg.vector_norm(_reals(p), dtype=torch.float64).cpu())
    entries = sum(_reals(p).numel() for p, _ in states)
    rms = float(group["lr"]) * torch.stack(moved).norm().item() / math.sqrt(entries)
    parameter_rms = torch.stack(size).norm().item() / math.sqrt(entries)
    return {"update_rms": rms} | ({"update_ratio": rms / parameter_rms} if parameter_rms else {})


def _multiplier(
    group: dict[str, Any], states: list[tuple[Tensor, dict[str, Tensor]]], everything: int
) -> dict[str, float]:
    """Return the figures of v; `everything` also counts the coordinates of tensors without a gradient so far."""
    if not group["gamma"]:
        ones = dict.fromkeys(("multiplier_min", "multiplier_max", *_QUANTILES), 1.0)
        return {**ones, "waiting_share": 0.0, "floor_share": 0.0}
    used = [_in_use(group, state) for _, state in states]
    begun = [(v[v > 0], v.numel()) for v in used]
    multipliers = [v for v, _ in begun if v.numel()]
    entries = sum(v.numel() for v in multipliers)
    waiting = {"waiting_share": 1.0 - entries / everything}
    if not entries:  # The squares of all gradients were 0.
        return waiting
    stride = math.ceil(entries / _SAMPLE)
    sample = torch.cat([v[::stride] for v in multipliers]).to("cpu", torch.float64)
    low = min(v.min().item() for v in multipliers)
    high = max(v.max().item() for v in multipliers)
    at_floor = sum(_at_floor(v, n, group).item() for v, n in begun if v.numel())
    return {
        **waiting,
        "multiplier_min": low,
        "multiplier_max": high,
        **{name: _quantile(sample, share) for name, share in _QUANTILES.items()},
        "floor_share": at_floor / everything,
    }


def _in_use(group: dict[str, Any], state: dict[str, Tensor]) -> Tensor:
    """Return the multipliers of the last step, in one row."""
    s, v = _reals(state["exp_avg_sq"]), _reals(state["multiplier"])
    step = Step.of(group, int(state["step"]))
    return multiplier_in_use(s, v, step.gamma, step.eps, step.floor, step.correction)


def _quantile(values: Tensor, share: float) -> float:
    """Return torch.quantile's value without its sort, which takes as long as some steps of a small model."""
    position = share * (values.numel() - 1)
    below = int(position)
    low = values.kthvalue(below + 1).values.item()
    high = values.kthvalue(min(below + 2, values.numel())).values.item()
    return low + (high - low) * (position - below)


def _at_floor(v: Tensor, entries: int, group: dict[str, Any]) -> Tensor:
    """Count the coordinates of one tensor with sigma = v^(-2/gamma) <= 2 * (what was added to s_hat).

    Of `entries` coordinates, the n in v have begun: sigma = s_hat + floor * mean(s_hat) + eps. The others have
    s_hat = 0, so mean(s_hat) = (sum(sigma) - n * eps) / (entries + n * floor). The computation is in logs, because
    v^(-2/gamma) leaves the range of floats if gamma is small.
    """
    log_sigma = v.log() * (-2.0 / float(group["gamma"]))
    eps, floor = float(group["eps"]), float(group["floor"])
    log_mean = torch.logsumexp(log_sigma, 0).item() - math.log(entries + v.numel() * floor)
    of_floor = log_mean + math.log(floor) if floor else -math.inf
    of_eps = math.log(eps) if eps else -math.inf
    log_added = max(of_floor, of_eps)
    if log_added > -math.inf:
        log_added += math.log1p(math.exp(min(of_floor, of_eps) - log_added))
    return (log_sigma <= log_added + math.log(2.0)).sum()


def _reals(tensor: Tensor) -> Tensor:
    """Return all real coordinates in one row, those of a DTensor gathered from all ranks."""
    if hasattr(tensor, "full_tensor"):
        tensor = tensor.full_tensor()
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).flatten()
