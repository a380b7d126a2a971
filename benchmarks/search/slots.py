"""Idle time of slots while a suggestion waits for results: `python -m benchmarks.search.slots`.

Searches of 20 trials an arm in virtual time, by the product's own `next_trial`; only the configurations are made up.
The lag is the job's default, and is compared with a lag so long that nothing waits, where a suggestion learns from
whatever has ended. Times of trials: all equal; log-normal with a deviation of 0.3; equal, but one in ten three times
as long.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
from collections.abc import Callable, Mapping
from unittest import mock

import numpy as np
from rich.console import Console
from rich.table import Table

from anon_tune.records import NewTrial, Trial, TrialState
from anon_tune.search import policy
from anon_tune.search.history import History
from anon_tune.search.policy import Plan, next_trial
from anon_tune.search_spaces import Space
from anon_tune.spec import parse_spec, spaces_of

TRIALS = 20
SLOTS = (2, 4, 8)
NO_LIMIT = 1000
"""A lag that no trial waits for."""

Draw = Callable[[np.random.Generator], float]

LAWS: Mapping[str, Draw] = {
    "equal": lambda rng: 1.0,
    "log-normal": lambda rng: float(rng.lognormal(0.0, 0.3)),
    "stragglers": lambda rng: 3.0 if rng.random() < 0.1 else 1.0,
}
"""Distributions of the duration of a trial."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    repeats = parser.parse_args().repeats
    table = Table(
        *("arms", "lag", "slots", "times", "idle until the last trial starts", "without waiting"),
        *("idle in the whole search", "without waiting", "length over that without waiting"),
        title=f"share of slot time without a trial, mean of {repeats} searches of {TRIALS} trials an arm",
    )
    for arms in (("anon", "adamw", "sgd"), ("anon",)):
        lag, endless = plan(arms), plan(arms, NO_LIMIT)
        for slots in SLOTS:
            for law, draw in LAWS.items():
                ours, free = (
                    np.array([simulate_slots(which, slots, draw, seed) for seed in range(repeats)])
                    for which in (lag, endless)
                )
                shares = (f"{found[:, column].mean():.1%}" for column in (0, 1) for found in (ours, free))
                longer = f"{(ours[:, 2] / free[:, 2]).mean():.2f}"
                table.add_row(str(len(arms)), str(lag.spec.lag), str(slots), law, *shares, longer)
    Console(width=130).print(table)


def plan(arms: tuple[str, ...], lag: int | None = None) -> Plan:
    """Return a job's plan; `lag` is the job's default if None."""
    spec = parse_spec(
        {
            "name": "slots",
            "task": "image_classification",
            "data": "digits",
            "model": "mlp",
            "arms": list(arms),
            "search": {} if lag is None else {"lag": lag},
            "budget": {"trials": TRIALS, "epochs": 1},
        }
    )
    return Plan(spec, spaces_of(spec), 0.0)


def simulate_slots(job: Plan, slots: int, draw: Draw, seed: int) -> tuple[float, float, float]:
    """Search once.

    Returns:
        Share of slot time idle until the last trial starts, the same until the last one ends, and when that is.
    """
    rng = np.random.default_rng(seed)
    times = {(arm, number): draw(rng) for number in range(TRIALS) for arm in job.spec.arms}
    history, running = History(), list[tuple[float, str]]()
    spans: list[tuple[float, float]] = []  # from when to when each trial ran
    now = 0.0
    with mock.patch.object(policy, "suggest", _any_point):
        while len(spans) < len(times):
            while len(running) < slots and len(spans) < len(times):
                new = next_trial(job, history)
                if not isinstance(new, NewTrial):
                    break
                trial = _begun(new)
                history.keep(trial)
                spans.append((now, now + times[new.arm, new.number]))
                heapq.heappush(running, (spans[-1][1], trial.id))
            now, ended = heapq.heappop(running)
            history.keep(dataclasses.replace(history[ended], state=TrialState.COMPLETE, value=1.0))
    last_start, last_end = (max(moments) for moments in zip(*spans, strict=True))
    busy = sum(min(end, last_start) - start for start, end in spans)
    work = sum(end - start for start, end in spans)
    idle = max(0.0, slots * last_start - busy)
    return idle / (slots * last_start), 1 - work / (slots * last_end), last_end


def _any_point(space: Space, *args: object, **options: object) -> dict[str, float | str]:
    """Replace the product's `suggest`."""
    return space.complete([0.5] * len(space.parameters), {})


def _begun(new: NewTrial) -> Trial:
    return Trial(
        f"{new.arm}-{new.number:03d}", "j", new.arm, new.phase, new.number, new.seed,
        TrialState.RUNNING, new.params, new.hyperparameters, attempts=1,
    )  # fmt: skip


if __name__ == "__main__":
    main()
