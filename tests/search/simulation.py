"""A job without training: trials end at random, and time is a list of steps."""

from __future__ import annotations

import dataclasses
import datetime
import math
import random
from collections.abc import Iterator, Sequence

from anon_tune.records import FINISHED, NewTrial, Phase, Report, Trial, TrialState
from anon_tune.search.policy import Decision, Plan, next_trial
from anon_tune.search.pruning import should_prune
from tests.builders import EPOCH, begun

ENDS = (TrialState.COMPLETE, TrialState.DIVERGED, TrialState.FAILED, TrialState.PRUNED)


class Simulation:
    """Runs a plan with some trials at a time; every choice comes from one seed.

    Args:
        plan: What is run.
        seed: Of the outcomes.
        at_once: How many trials run together.
        ends: How trials end, each as likely; PRUNED only where a pruner says so, if `asks` is set.
        asks: Whether to ask the pruner after every report.
    """

    def __init__(
        self,
        plan: Plan,
        seed: int,
        at_once: int = 2,
        ends: Sequence[TrialState] = ENDS,
        asks: bool = False,
    ) -> None:
        self.plan = plan
        self.trials: list[Trial] = []
        self._random = random.Random(seed)
        self._at_once = at_once
        self._ends = ends
        self._asks = asks
        self._clock = 0

    def run(self) -> Iterator[list[Trial]]:
        """Run to the end, and give the trials after every change."""
        while True:
            running = [i for i, trial in enumerate(self.trials) if not trial.is_finished]
            new = next_trial(self.plan, self.trials) if len(running) < self._at_once else Decision.WAIT
            if new is Decision.DONE:
                assert not running
                return
            if isinstance(new, NewTrial):
                self.trials.append(begun(new))
            else:
                assert running, "WAIT with nothing to wait for"
                self._advance(self._random.choice(running))
            yield self.trials

    def _advance(self, index: int) -> None:
        trial = self.trials[index]
        self._clock += 1
        now = EPOCH + datetime.timedelta(seconds=self._clock)
        end = self._random.choice(self._ends)
        if trial.phase is not Phase.SEARCH and end is TrialState.PRUNED:
            end = TrialState.COMPLETE
        last = self.plan.spec.budget.epochs
        level, speed = self._random.uniform(0.1, 2.0), self._random.uniform(0.4, 0.6)
        curve = [level * (1 + math.exp(-speed * step)) for step in range(1, last + 1)]
        if end is TrialState.DIVERGED:
            curve = [*curve[: self._random.randrange(last)], math.nan]
        elif end is not TrialState.COMPLETE:
            curve = curve[: self._random.randrange(last)]
        for step, value in enumerate(curve, 1):
            report = Report(step, value, {}, now)
            trial = dataclasses.replace(trial, reports=(*trial.reports, report))
            others = [
                t for t in self.trials if t.phase is Phase.SEARCH and t.arm == trial.arm and t.id != trial.id
            ]
            goes_on = trial.phase is not Phase.SEARCH or not math.isfinite(value) or step == last
            if self._asks and not goes_on:
                search, objective = self.plan.spec.search, self.plan.spec.objective
                if should_prune(self.plan.spaces[trial.arm], trial, others, search, objective):
                    end = TrialState.PRUNED
                    break
        value = curve[-1] if end is TrialState.COMPLETE else None
        reason = f"reason {self._random.random()}" if end is TrialState.FAILED else None
        self.trials[index] = dataclasses.replace(trial, state=end, value=value, reason=reason, finished=now)
        assert end in FINISHED
