"""What gamma to expect for an architecture family: from finished jobs, and from the published guidance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from anon_tune.records import JobRecord

__all__ = ["PUBLISHED", "suggest"]

PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "cnn": {"low": -0.1, "high": 0.1, "text": "gamma <= 0; published examples -0.1 and 0.1"},
    "transformer": {"low": 1.01, "high": 1.15, "text": "gamma >= 1; published examples 1.01 to 1.15"},
}
"""Guidance of arXiv 2605.02317, by family; its low and high are its examples, not an interval."""


def suggest(family: str, jobs: Sequence[JobRecord]) -> dict[str, Any]:
    """Return a gamma for a family, as plain values that say where it comes from.

    With finished jobs of the family that have a spread: the mean of the gammas they chose, from the lowest low to
    the highest high. Without: the middle of the published examples. Without either: no gamma.

    Args:
        family: As in a model's fingerprint: "cnn", "transformer", "mlp", ...
        jobs: Any jobs; those of another family or without a result are passed over.
    """
    evidence = [
        {
            "job": job.id,
            "name": job.name,
            **{key: job.result["gamma"][key] for key in ("best", "low", "high")},
        }
        for job in jobs
        if job.result is not None and job.architecture is not None
        if job.architecture["family"] == family and job.result["gamma"]["mean"] is not None
    ]
    published = PUBLISHED.get(family)
    if evidence:
        gamma: dict[str, float] | None = {
            "mean": fmean(item["best"] for item in evidence),
            "low": min(item["low"] for item in evidence),
            "high": max(item["high"] for item in evidence),
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
