"""Names of tags, metrics and parameters in MLflow."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from anon_tune.records import OPTIMIZER_STEPS

__all__ = ["DESCRIPTION_TAG", "JOB_TAG", "NAME_TAG", "PARENT_TAG", "TRIAL_TAG", "accepted", "readable"]

JOB_TAG, TRIAL_TAG = "anon_tune.job_id", "anon_tune.trial_id"
PARENT_TAG, NAME_TAG = "mlflow.parentRunId", "mlflow.runName"
DESCRIPTION_TAG = "mlflow.note.content"

_REFUSED = re.compile(r"[^/\w.\- :]|(?<![^/])(?=/|$)|^\.\.|(?<![^/])\.{1,2}(?=/|$)")
"""Parts of a name that MLflow refuses: other characters, and empty and relative parts of a path."""
_LONGEST_NAME = 240  # MLflow's limit is 250

_READABLE = {
    "gradient_norm": "optimizer/gradient_norm",
    "update_ratio": "optimizer/update_ratio",
    OPTIMIZER_STEPS: "optimizer/steps",
    "group0/update_ratio": "optimizer/update_ratio_without_decay",
    "epoch_seconds": "speed/epoch_seconds",
    "samples_per_second": "speed/samples_per_second",
    "peak_memory_bytes": "speed/peak_memory_bytes",
}
_GROUP = re.compile(r"group(\d+)/")


@lru_cache
def readable(metric: str) -> str:
    """Return the name in MLflow of a metric of the training.

    MLflow's pages fold metrics with one prefix into a section. Everything about the optimizer is under `optimizer/`:
    its first param group there, each further one in a section of its own.
    """
    if metric in _READABLE:
        return _READABLE[metric]
    group = _GROUP.match(metric)
    if group is None:
        return metric
    inside = "" if group[1] == "0" else group[0]
    return f"optimizer/{inside}{metric[group.end() :]}"


def accepted(given: Iterable[str]) -> dict[str, str]:
    """Return the name in MLflow of each metric or parameter: the same if MLflow takes it, else with "_" in it.

    Names stay distinct: of two that would become the same, the later one gets a number.
    """
    plain = {name: _REFUSED.sub("_", name)[:_LONGEST_NAME] for name in dict.fromkeys(given)}
    found = {name: name for name in plain if plain[name] == name}
    for name, new in plain.items():
        taken, number = set(found.values()), 2
        while name not in found:
            if new not in taken:
                found[name] = new
            new, number = f"{plain[name]}_{number}", number + 1
    return found
