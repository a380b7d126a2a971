"""The final value of a trial, from its reports alone: an attempt that was resumed gives the same."""

from __future__ import annotations

import math
from collections.abc import Sequence

from anon_tune.records import Report, objective_key
from anon_tune.search.scale import Scale
from anon_tune.spec import Objective

__all__ = ["final_value"]


def final_value(objective: Objective, reports: Sequence[Report], *, tested: bool) -> float | None:
    """Return what a trial that has completed is judged by; see `Objective.of`.

    The reports are chosen by their validation values. With `tested` their test values count. A training function of
    the user measures one test value, after its last report: then that one counts.

    Args:
        objective: Of the job.
        reports: All of the trial's, in the order of their steps.
        tested: Whether the trial is one of the verdict's.

    Returns:
        A finite value; None if there is no report with one.
    """
    known = [report for report in reports if math.isfinite(report.value)]
    if not known:
        return None
    if objective.reports is None:
        chosen = [min(known, key=lambda report: objective_key(report.value, objective.mode))]
    else:
        chosen = known[-objective.reports :]
    values = [report.value for report in chosen]
    name = f"test_{objective.metric}"
    if tested and name in known[-1].metrics:
        each = [report.metrics[name] for report in chosen if name in report.metrics]
        values = each if len(each) == len(chosen) else [known[-1].metrics[name]]
    # A single value stays as it is, to the last bit.
    return values[0] if len(values) == 1 else Scale(objective, values).mean(values)
