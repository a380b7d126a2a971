"""A trial in a worker's hands, without Ray around it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anon_tune.records import Phase
from anon_tune.workers.trial.trainable import TrialTrainable

TRIAL = "j-anon-s000"
_TIMES = {"epoch_seconds", "samples_per_second", "seconds", "typical"}
_ABOUT_THE_ATTEMPT = {"checkpoint", "resumed", "warnings", "metrics"}


class Local(TrialTrainable):
    """Takes the job's file from the config, as Tune hands it over to each worker."""

    def setup(self, config: dict[str, Any]) -> None:  # type: ignore[override]
        super().setup(config, config["spec"])


def config(
    spec: Mapping[str, Any], checkpoints: Path, attempt: int = 1, *names: str, **keys: Any
) -> dict[str, Any]:
    """What Tune gives to a trial's worker; `names` are the checkpoints that it may go on from."""
    return {
        "spec": spec,
        "trial": TRIAL,
        "attempt": attempt,
        "arm": "anon",
        "phase": Phase.SEARCH.value,
        "seed": 3,
        "hyperparameters": {"lr": 0.01, "gamma": 1.0, "floor": 0.03},
        "folder": str(checkpoints),
        "checkpoints": list(names),
        "output": str(checkpoints.parent / f"output{attempt}.log"),
        **keys,
    }


def results(trial: TrialTrainable) -> list[dict[str, Any]]:
    """Every result until the trial is over."""
    found = [trial.step()]
    while "outcome" not in found[-1]:
        found.append(trial.step())
    return found


def untimed(metrics: Mapping[str, float]) -> dict[str, float]:
    """All but how long it took."""
    return {name: value for name, value in metrics.items() if name not in _TIMES}


def learned(result: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same in another attempt: all but how long it took and which file holds it."""
    others = {key: value for key, value in result.items() if key not in _ABOUT_THE_ATTEMPT}
    return {**others, **untimed(result.get("metrics", {}))}
