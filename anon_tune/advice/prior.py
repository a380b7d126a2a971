"""What gamma to expect for an architecture family: from finished jobs, and from the published guidance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from anon_tune.answer import Answer
from anon_tune.records import JobRecord

__all__ = ["PUBLISHED", "suggest"]

PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "cnn": {"low": -0.1, "high": 0.1, "text": "gamma <= 0; published examples -0.1 and 0.1"},
    "transformer": {"low": 1.01, "high": 1.15, "text": "gamma >= 1; published examples 1.01 to 1.15"},
}
"""Guidance of arXiv 2605.02317, by family; its low and high are its examples, not an interval."""


def suggest(family: str, jobs: Sequence[JobRecord]) -> dict[str, Any]:
    """Return a gamma for a family, as plain values that say where it comes from.

    With finished jobs of the family whose trials say something: the mean of the gammas they recommend, from the
    lowest low of their intervals to the highest high. Without: the middle of the published examples. Without either:
    no gamma.

    Args:
        family: As in a model's fingerprint: "cnn", "transformer", "mlp", ...
        jobs: Any jobs; those of another family or without a result are passed over.
    """
    known = [
        (job, found.best, found.low, found.high)
        for job in jobs
        if job.architecture is not None and job.architecture["family"] == family
        if (answer := Answer.load(job.result)) is not None
        if (found := answer.gamma).best is not None and found.low is not None and found.high is not None
    ]
    evidence = [
        {"job": job.id, "name": job.name, "best": best, "low": low, "high": high}
        for job, best, low, high in known
    ]
    published = PUBLISHED.get(family)
    if evidence:
        gamma: dict[str, float] | None = {
            "mean": fmean(best for _, best, _, _ in known),
            "low": min(low for _, _, low, _ in known),
            "high": max(high for _, _, _, high in known),
        }
        source = "finished jobs"
    elif published is not None:
        gamma = {
            "mean": (published["low"] + published["high"]) / 2,
            "low": published["low"],
            "high": published["high"],
        }
        source = "published guidance"
    else:
        gamma, source = None, "nothing yet"
    return {
        "family": family,
        "gamma": gamma,
        "source": source,
        "jobs": evidence,
        "published": published["text"] if published else None,
    }
