"""Which weights a job keeps when it has ended, and where (`keep: best` in the job file)."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anon_tune.records import Trial, TrialState, objective_key
from anon_tune.search.winners import winner
from anon_tune.spec import JobSpec
from anon_tune.workers.trial.checkpoints import intact, step_of, write_durably

__all__ = ["best_weights_trial", "write_best"]

_log = logging.getLogger(__name__)


def best_weights_trial(trials: Sequence[Trial], spec: JobSpec) -> Trial | None:
    """Of the winner's verdict trials whose last epoch is in a checkpoint, the one with the best validation value.

    Not the best test value: that is what the verdict reports, and nothing is chosen by it.
    """
    mode = spec.objective.mode
    chosen = winner(trials, "anon", mode)
    able = [
        trial
        for trial in trials
        if spec.may_keep(trial.arm, trial.phase)
        and chosen is not None
        and trial.origin == chosen.origin
        and trial.state is TrialState.COMPLETE
        and spec.budget.epochs in map(step_of, trial.checkpoints)
    ]
    return min(able, key=lambda trial: (objective_key(trial.reports[-1].value, mode), trial.id), default=None)


def write_best(trials: Sequence[Trial], spec: JobSpec, checkpoints: Path, target: Path) -> None:
    """Write the kept trial's weights, a `state_dict` of its model on CPU, for `torch.load`.

    Of diffusion also what the model draws: `samples.png` beside it. Where there are none to keep, the log says so.

    Raises:
        OSError: `target` cannot be written.
    """
    import torch  # here, as also below: the driver can do without until its job has ended

    trial = best_weights_trial(trials, spec)
    problems: list[str] = []
    if trial is not None:
        for name, state in intact(checkpoints, trial.checkpoints, spec.budget.epochs + 1, problems):
            if step_of(name) < spec.budget.epochs:
                break
            buffer = io.BytesIO()
            torch.save(state["model"], buffer)
            write_durably(target, buffer.getbuffer())
            _log.info("kept the weights of trial %s: %s", trial.id, target)
            if spec.task == "diffusion":
                _draw(state["model"], spec, target.with_name("samples.png"))
            return
    if trial is not None and not problems and target.exists():
        return  # it was written when the job ended before
    why = "; ".join(problems) or "no verdict trial of anon has a checkpoint of its last epoch"
    _log.warning("no weights were kept: %s", why)


def _draw(weights: Mapping[str, Any], spec: JobSpec, target: Path) -> None:
    """Draw what is nice to have: that it fails is no reason to lose a job's end."""
    from anon_tune.workers.driver.samples import write_samples

    try:
        write_samples(weights, spec, target)
    except Exception:  # noqa: BLE001 - data or a disk that is gone; the weights are what counts
        _log.warning("no samples were drawn", exc_info=True)
