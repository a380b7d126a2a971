"""A job's trials, indexed by phase, arm and repeat."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

from anon_tune.records import Phase, Trial

__all__ = ["History"]

_Key = tuple[Phase, str, int]


class History(Mapping[str, Trial]):
    """Trials by id, in the order in which they were first kept.

    A decision among 10,000 trials needs the trials of one search, the trials that have not ended, and whether a
    configuration was tried. None of these needs a pass over all trials.
    """

    def __init__(self, trials: Iterable[Trial] = ()) -> None:
        self._by_id: dict[str, Trial] = {}
        self._by_search: dict[_Key, list[Trial]] = {}
        self._tried: dict[_Key, set[frozenset[tuple[str, Any]]]] = {}
        self._unfinished: dict[str, Trial] = {}
        for trial in trials:
            self.keep(trial)

    def keep(self, trial: Trial) -> None:
        """Add a trial, or replace the one with its id."""
        self._by_id[trial.id] = trial
        key = trial.phase, trial.arm, trial.repeat
        of_search = self._by_search.setdefault(key, [])
        place = bisect_left(of_search, trial.number, key=attrgetter("number"))
        if place < len(of_search) and of_search[place].number == trial.number:
            of_search[place] = trial
        else:
            of_search.insert(place, trial)
            self._tried.setdefault(key, set()).add(frozenset(trial.params.items()))
        if trial.is_finished:
            self._unfinished.pop(trial.id, None)
        else:
            self._unfinished[trial.id] = trial

    def copy(self) -> History:
        """Return a snapshot of the history, which later changes leave alone; the trials are shared."""
        copied = History()
        copied._by_id = self._by_id.copy()
        copied._by_search = {key: trials.copy() for key, trials in self._by_search.items()}
        copied._tried = {key: tried.copy() for key, tried in self._tried.items()}
        copied._unfinished = self._unfinished.copy()
        return copied

    def count(self, phase: Phase, arm: str, repeat: int) -> int:
        """Return the number of trials in a phase of one of an arm's searches."""
        return len(self.select(phase, arm, repeat))

    def select(self, phase: Phase, arm: str, repeat: int) -> Sequence[Trial]:
        """Return the trials of a phase of one search by number; this is not a copy, and `keep` changes it."""
        return self._by_search.get((phase, arm, repeat), ())

    def tried(self, phase: Phase, arm: str, repeat: int, params: Mapping[str, Any]) -> bool:
        """Return whether a trial of a phase of one search has this configuration."""
        return frozenset(params.items()) in self._tried.get((phase, arm, repeat), ())

    @property
    def unfinished(self) -> list[Trial]:
        """The trials that wait or run."""
        return list(self._unfinished.values())

    def __getitem__(self, trial_id: str) -> Trial:
        return self._by_id[trial_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_id)

    def __len__(self) -> int:
        return len(self._by_id)
