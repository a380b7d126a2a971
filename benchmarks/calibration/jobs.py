"""Whole jobs on a known surface, with the product's own decisions: real sampler, finalists, verdict, answer."""

from __future__ import annotations

import dataclasses
import math
import pickle
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anon_tune.records import NewTrial, Phase, Trial, TrialState
from anon_tune.search.policy import Decision, Plan, next_trial
from anon_tune.search_spaces import load_space
from anon_tune.spec import JobSpec, parse_spec
from benchmarks.search.surfaces import Surface

__all__ = ["plan_of", "relabelled", "run", "searched"]


def plan_of(
    surface: Surface, trials: int, seed: int, arms: Sequence[str] = ("anon",), lag: int | None = None
) -> Plan:
    """Return a job in which every arm is Anon, so that all of them are equal; `lag` is `search.lag`."""
    spec: JobSpec = parse_spec(
        {
            "name": "calibration",
            "task": "image_classification",
            "data": "digits",
            "model": "mlp",
            "budget": {"trials": trials, "epochs": surface.epochs},
            "search": {"seed": seed, "lag": lag},
            "arms": list(arms),
        }
    )
    space = load_space(surface.space).for_family(surface.space)
    return Plan(spec, dict.fromkeys(arms, space), surface.log_mean_sigma)


def run(plan: Plan, surface: Surface, seed: int, trials: Sequence[Trial] = ()) -> list[Trial]:
    """Run a job to its end, one trial after another, from the trials that it has.

    Args:
        plan: The job.
        surface: The surface of its trials.
        seed: Seed of the noise.
        trials: Earlier trials.
    """
    made = list(trials)
    while isinstance(new := next_trial(plan, made), NewTrial):
        made.append(_ended(new, surface, seed))
    if new is not Decision.DONE:
        raise RuntimeError(f"a job in which nothing runs came to {new}")
    return made


def searched(surface: Surface, trials: int, seed: int, folder: Path, lag: int | None = None) -> list[Trial]:
    """Return the search of one arm; kept in a folder, since it takes most of the time."""
    file = folder / f"{surface.name}-{trials}-{seed}.pickle"
    if not file.exists():
        plan = plan_of(surface, trials, seed, lag=lag)
        made = [trial for trial in run(plan, surface, seed) if trial.phase is Phase.SEARCH]
        folder.mkdir(parents=True, exist_ok=True)
        whole = file.with_suffix(".new")
        whole.write_bytes(pickle.dumps(made))
        whole.replace(file)
    found: list[Trial] = pickle.loads(file.read_bytes())
    return found


def relabelled(trials: Sequence[Trial], arm: str) -> list[Trial]:
    """Return the same trials as those of another arm."""

    def named(trial_id: str | None) -> str | None:
        return trial_id.replace("-anon-", f"-{arm}-") if trial_id is not None else None

    return [
        dataclasses.replace(trial, id=str(named(trial.id)), arm=arm, source=named(trial.source))
        for trial in trials
    ]


def _ended(new: NewTrial, surface: Surface, seed: int) -> Trial:
    value: float | None = float(surface.curve(new.hyperparameters, _noise(seed, new))[-1])
    if value is None or not math.isfinite(value):
        value = None
    state = TrialState.DIVERGED if value is None else TrialState.COMPLETE
    plain: dict[str, Any] = {field.name: getattr(new, field.name) for field in dataclasses.fields(new)}
    return Trial(new.id_in("j"), "j", state=state, value=value, attempts=1, **plain)


def _noise(seed: int, new: NewTrial) -> int:
    """Return the seed of a trial's noise: configurations that share a seed do not share its noise."""
    return zlib.crc32(f"{seed} {new.arm} {new.seed} {sorted(new.params.items())}".encode())
