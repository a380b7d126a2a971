"""A job's trials, found by arm and phase without looking at all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from anon_tune.records import Phase, Trial

__all__ = ["History"]


class History(Mapping[str, Trial]):
    """Trials by id, in the order in which they were first kept.

    Of 10,000 trials a decision needs those of one arm, and which of all have not ended: both are at hand.
    """

    def __init__(self, trials: Iterable[Trial] = ()) -> None:
        self._by_id: dict[str, Trial] = {}
        self._by_arm: dict[tuple[Phase, str], dict[str, Trial]] = {}
        self._unfinished: dict[str, Trial] = {}
        for trial in trials:
            self.keep(trial)

    def keep(self, trial: Trial) -> None:
        """Add a trial, or put it in place of the one with its id."""
        self._by_id[trial.id] = trial
        self._by_arm.setdefault((trial.phase, trial.arm), {})[trial.id] = trial
        if trial.is_finished:
            self._unfinished.pop(trial.id, None)
        else:
            self._unfinished[trial.id] = trial

    def copy(self) -> History:
        """The history as it is now, which later changes of this one leave alone; the trials are shared."""
        copied = History()
        copied._by_id = self._by_id.copy()
        copied._by_arm = {key: trials.copy() for key, trials in self._by_arm.items()}
        copied._unfinished = self._unfinished.copy()
        return copied

    def count(self, phase: Phase, arm: str) -> int:
        """How many trials a phase of an arm has."""
        return len(self._by_arm.get((phase, arm), ()))

    def select(self, phase: Phase, arm: str) -> list[Trial]:
        """The trials of a phase of an arm."""
        return list(self._by_arm.get((phase, arm), {}).values())

    @property
    def unfinished(self) -> list[Trial]:
        """Those that wait or run."""
        return list(self._unfinished.values())

    def __getitem__(self, trial_id: str) -> Trial:
        return self._by_id[trial_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_id)

    def __len__(self) -> int:
        return len(self._by_id)
