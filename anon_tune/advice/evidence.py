"""The searches behind advice: finished jobs, and the searches that come with anon_tune."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from anon_tune.advice.statement import Evidence, Fingerprint
from anon_tune.records import JobRecord

__all__ = ["SHIPPED", "ShippedEvidence", "distinct", "evidence_of", "shipped", "subject_of"]

SHIPPED = Path(__file__).with_name("evidence.json")
"""File of searches of small models that comes with anon_tune; `python -m benchmarks.evidence` makes it."""

_SUBJECT = ("task", "command", "arguments", "data", "model")


class ShippedEvidence(BaseModel):
    """The file of searches that come with anon_tune.

    Attributes:
        made_by: The command that made the file.
        versions: Versions of the packages that the searches depend on.
        trials: Number of trials of each search.
        searches: The finished searches.
    """

    made_by: str
    versions: dict[str, str]
    trials: int
    searches: list[Evidence]


@cache
def shipped() -> tuple[Evidence, ...]:
    """Return the searches that come with anon_tune; none if the file is missing."""
    if not SHIPPED.exists():
        return ()
    return tuple(ShippedEvidence.model_validate_json(SHIPPED.read_bytes()).searches)


def subject_of(spec: Mapping[str, Any]) -> str:
    """Return the model and data of a job, whose `spec` has plain values."""
    return json.dumps({key: spec.get(key) for key in _SUBJECT if spec.get(key)}, sort_keys=True)


def evidence_of(job: JobRecord) -> Evidence | None:
    """Return a job's findings; None if its model is unknown, it has no answer, or it has too few trials."""
    answer = job.answer
    if answer is None or job.architecture is None or answer.gamma.low is None or answer.gamma.high is None:
        return None
    won = answer.winners.get("anon")
    step_size = won.params.get("step_size") if won is not None else None
    return Evidence(
        id=job.id,
        name=job.name,
        subject=subject_of(job.spec),
        architecture=Fingerprint.model_validate(job.architecture),
        scale=answer.scale,
        gamma=answer.gamma,
        step_size=step_size,
    )


def distinct(evidence: Iterable[Evidence]) -> list[Evidence]:
    """Return one search of each subject, finished jobs first: the one with the most trials, the first if tied."""
    ordered = sorted(evidence, key=lambda each: (each.shipped, -each.gamma.trials))
    return list({each.subject: each for each in reversed(ordered)}.values())[::-1]
