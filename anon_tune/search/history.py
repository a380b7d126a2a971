"""A job's trials, found by arm and phase without looking at all of them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

from anon_tune.records import Phase, Trial

__all__ = ["History"]


class History(Mapping[str, Trial]):
    """Trials by id, in the order in which they were first kept.

    Of 10,000 trials a decision needs those of one arm, which of all have not ended, and whether a configuration was
    tried: all are at hand.
    """

    def __init__(self, trials: Iterable[Trial] = ()) -> None:
        self._by_id: dict[str, Trial] = {}
        self._by_arm: dict[tuple[Phase, str], list[Trial]] = {}
        self._tried: dict[tuple[Phase, str], set[frozenset[tuple[str, Any]]]] = {}
        self._unfinished: dict[str, Trial] = {}
        for trial in trials:
            self.keep(trial)

    def keep(self, trial: Trial) -> None:
        """Add a trial, or put it in place of the one with its id."""
        self._by_id[trial.id] = trial
        key = trial.phase, trial.arm
        of_arm = self._by_arm.setdefault(key, [])
        place = bisect_left(of_arm, trial.number, key=attrgetter("number"))
        if place < len(of_arm) and of_arm[place].number == trial.number:
            of_arm[place] = trial
        else:
            of_arm.insert(place, trial)
            self._tried.setdefault(key, set()).add(frozenset(trial.params.items()))
        if trial.is_finished:
            self._unfinished.pop(trial.id, None)
        else:
            self._unfinished[trial.id] = trial

    def copy(self) -> History:
        """The history as it is now, which later changes of this one leave alone; the trials are shared."""
        copied = History()
        copied._by_id = self._by_id.copy()
        copied._by_arm = {key: trials.copy() for key, trials in self._by_arm.items()}
        copied._tried = {key: tried.copy() for key, tried in self._tried.items()}
        copied._unfinished = self._unfinished.copy()
        return copied

    def count(self, phase: Phase, arm: str) -> int:
        """How many trials a phase of an arm has."""
        return len(self._by_arm.get((phase, arm), ()))

    def select(self, phase: Phase, arm: str) -> Sequence[Trial]:
        """The trials of a phase of an arm in the order of their numbers: no copy, `keep` changes it."""
        return self._by_arm.get((phase, arm), ())

    def tried(self, phase: Phase, arm: str, params: Mapping[str, Any]) -> bool:
        """Whether a trial of a phase of an arm has this configuration."""
        return frozenset(params.items()) in self._tried.get((phase, arm), ())

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
