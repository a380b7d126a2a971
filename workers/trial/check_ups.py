"""Comparison of the two runs of a check-up of user code. Needs neither torch nor Ray."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from anon_tune.workers.trial.messages import CheckUpRun, Failed, ProbeResult

__all__ = ["MOST_STEPS", "compared"]

MOST_STEPS = 100
"""Steps after which a run of the check-up ends without a report."""


def compared(runs: Sequence[CheckUpRun], *, fixed_seeds: bool, mode: str) -> ProbeResult | Failed:
    """Return the probe's result from the runs of the check-up, or the mistake that makes the job worthless.

    Args:
        runs: One run for each pair of a seed and a learning rate.
        fixed_seeds: The job states that its seeds have no effect.
        mode: The objective's mode, "min" or "max".
    """
    first, second = runs
    seedless = first.weights == second.weights and first.gradients == second.gradients
    if seedless and not fixed_seeds:
        return _mistake(
            "the seed has no effect: two seeds gave the same weights and the same gradients. If the training seeds "
            "itself, use the trial's seed there, such as torch.manual_seed(trial.seed). If it must be the same each "
            "time, set `seeds: fixed` in the job file; the job then makes no statement about seeds"
        )
    own = [rates == others and bool(rates) for rates, others in zip(first.used, second.used, strict=False)]
    if own and all(own):
        return _mistake(
            f"the learning rate has no effect: the training sets its own ({first.used[0][0]:g}) in each step or in "
            "its param groups. Multiply the trial's: group['lr'] = trial.lr * factor, where the factor is 1 at the "
            "peak of your schedule; in param groups, use `lr_scale` in place of `lr`"
        )
    notes = list(first.notes)
    if any(own):
        notes.append(
            f"{sum(own)} of {len(own)} param groups have a learning rate of their own, which the search does not "
            "change; give them `lr_scale` in place of `lr` to change all together"
        )
    if first.value is None:
        notes.append(f"no report came in the first {MOST_STEPS} steps, so the objective is not checked yet")
    elif not seedless and mode == "min" and first.value == second.value:
        notes.append(
            f"the objective was {first.value:g} for two different models; check that it is not constant"
        )
    return dataclasses.replace(first.probe, notes=tuple(notes))


def _mistake(reason: str) -> Failed:
    return Failed(reason, reason)
