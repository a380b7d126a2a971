"""The best weights of a job, kept when it has ended (`keep: best` in the job file)."""

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
    """Return the winner's verdict trial with the best validation value, among those with a last checkpoint.

    The test value decides nothing here, since the verdict reports it.
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
        and spec.budget.length in map(step_of, trial.checkpoints)
    ]
    return min(able, key=lambda trial: (objective_key(trial.reports[-1].value, mode), trial.id), default=None)


def write_best(trials: Sequence[Trial], spec: JobSpec, checkpoints: Path, target: Path) -> None:
    """Write the best weights, a `state_dict` of the model on CPU, for `torch.load`.

    The task diffusion also gets `samples.png` with images from the model. If there are no weights, the log says why.

    Raises:
        OSError: `target` cannot be written.
    """
    import torch  # here and below: the driver does not need it before its job has ended

    trial = best_weights_trial(trials, spec)
    problems: list[str] = []
    if trial is not None:
        for name, state in intact(checkpoints, trial.checkpoints, spec.budget.length + 1, problems):
            if step_of(name) < spec.budget.length:
                break
            buffer = io.BytesIO()
            torch.save(state["model"], buffer)
            write_durably(target, buffer.getbuffer())
            _log.info("wrote the best weights, of trial %s: %s", trial.id, target)
            if spec.task == "diffusion":
                _draw(state["model"], spec, target.with_name("samples.png"))
            return
    if trial is not None and not problems and target.exists():
        return  # it was written when the job ended before
    why = "; ".join(problems) or "no verdict trial of anon has a checkpoint of its last epoch"
    _log.warning("no best weights were written: %s", why)


def _draw(weights: Mapping[str, Any], spec: JobSpec, target: Path) -> None:
    """Write sample images. They are optional, so an error is only logged."""
    from anon_tune.workers.driver.samples import write_samples

    try:
        write_samples(weights, spec, target)
    except Exception:  # noqa: BLE001 - missing data or a full disk; the weights count
        _log.warning("no samples were drawn", exc_info=True)
