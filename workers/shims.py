"""Between Ray Tune and the ledger: where trials come from, and where their results go.

Tune's searcher asks `JobSearcher` for trials; its scheduler hands every result to `JobScheduler`. Both only
translate: `Run` holds the state, and the ledger the truth. Tune pickles both into files of its own, which nothing
reads (a Tuner is never restored), so they leave the run behind.
"""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from anon_tune.records import Trial
from anon_tune.search.policy import Signal
from anon_tune.workers.run import Run

__all__ = ["JobScheduler", "JobSearcher"]


class _WithoutRun:
    """Pickles everything but the run, which holds a database connection."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_run"}


class JobSearcher(_WithoutRun, Searcher):
    """Gives Tune the next trial of the ledger, up to `ahead` that have not ended.

    One more than can run is enough for no worker to wait; each further one would be chosen knowing less.
    """

    def __init__(self, run: Run, ahead: int) -> None:
        super().__init__(metric="value", mode="min")
        self._run = run
        self._ahead = ahead

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return a trial's config, None to be asked again, or FINISHED."""
        if self._run.running >= self._ahead:
            return None
        found = self._run.guard(self._run.next, Signal.DONE)
        if isinstance(found, Trial):
            return {
                "trial": found.id,
                "arm": found.arm,
                "phase": found.phase.value,
                "seed": found.seed,
                "hyperparameters": dict(found.hyperparameters),
            }
        return Searcher.FINISHED if found is Signal.DONE else None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The scheduler sees the same."""

    def save(self, checkpoint_path: str) -> None:
        """The ledger holds it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Never called: a fresh Tuner is made instead."""


class JobScheduler(_WithoutRun, FIFOScheduler):
    """Stores every result, and stops trials that are pruned.

    Args:
        run: Where results go.
        slots: How many workers to keep while there is nothing for them to do.
    """

    def __init__(self, run: Run, slots: int) -> None:
        super().__init__()
        self._run = run
        self._slots = slots
        self._keeps_workers = False

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Have Tune keep all workers between phases; by itself it keeps one, and starting another takes seconds."""
        super().on_trial_add(tune_controller, trial)
        if not self._keeps_workers:
            # Tune has no setting for it; a test of whole jobs sees to it that this goes on working.
            controller = getattr(tune_controller, "_tune_controller", tune_controller)
            controller._actor_cache.increase_max(trial.placement_group_factory, by=self._slots)
            self._keeps_workers = True

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Every result but the last."""
        # After an error the run stores nothing more, and every trial stops.
        stop = self._run.guard(lambda: self._run.report(trial.config["trial"], result), otherwise=True)
        decision: str = TrialScheduler.STOP if stop else TrialScheduler.CONTINUE
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> None:
        """The last result of a trial that ended by itself."""
        self._run.guard(lambda: self._run.report(trial.config["trial"], result), otherwise=True)

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        """The worker died."""
        self._run.guard(
            lambda: self._run.lose(trial.config["trial"], "the worker process died"), otherwise=None
        )
