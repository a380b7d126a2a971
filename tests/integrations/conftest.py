"""Training functions of users in a folder of their own, and trials of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anon_tune import script
from anon_tune.records import Phase
from anon_tune.spec import JobSpec, load_spec
from anon_tune.workers.trial.checkpoints import ask
from anon_tune.workers.trial.context import Context
from anon_tune.workers.trial.messages import Failed, ProbeResult, StepResult
from tests import trials


def stand_in(epochs: int) -> Context:
    """Return what `anon_tune.trial()` returns outside a job."""
    return script._stand_in(epochs, seed=0, steps=None)


class UserCode:
    """A module `own_training` of a user, and jobs of its function `train`.

    Attributes:
        budget: `budget` of the jobs.
    """

    budget = "{trials: 1, epochs: 4}"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, code: str) -> None:
        self._folder.mkdir(exist_ok=True)
        (self._folder / "own_training.py").write_text(code, encoding="utf-8")

    def spec(self, metric: str = "loss", **arguments: Any) -> JobSpec:
        path = self._folder / "job.yaml"
        path.write_text(
            f"name: own\ntask: 'own_training:train'\nspace: mlp\narguments: {json.dumps(arguments)}\n"
            f"objective: {{metric: {metric!r}}}\nbudget: {self.budget}\n"
            "training: {checkpoint_seconds: 0}\n"
        )
        return load_spec(path)

    def trial(
        self,
        attempt: int = 1,
        *names: str,
        phase: Phase = Phase.SEARCH,
        metric: str = "loss",
        **arguments: Any,
    ) -> list[StepResult]:
        """Return the results of a trial; `names` are the checkpoints from which it continues."""
        checkpoints = self._folder.parent / "checkpoints"
        checkpoints.mkdir(exist_ok=True)
        hyperparameters = {"lr": 0.003, "gamma": 1.0, "floor": 0.03}
        spec = self.spec(metric, **arguments)
        given = trials.config(
            spec, checkpoints, attempt, *names, phase=phase, hyperparameters=hyperparameters
        )
        ask(checkpoints)  # one after each report
        return trials.trained_here(given)

    def probe(self, metric: str = "loss", **arguments: Any) -> ProbeResult | Failed:
        return trials.checked_up_here(self.spec(metric, **arguments), self._folder)


@pytest.fixture
def user(tmp_path: Path) -> Iterator[UserCode]:
    before = list(sys.path)
    sys.modules.pop("own_training", None)
    yield UserCode(tmp_path / "user")
    sys.path[:] = before
    sys.modules.pop("own_training", None)
