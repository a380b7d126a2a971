"""The final value of a trial, from its reports alone, so a resumed attempt gives the same value."""

from __future__ import annotations

import math
from collections.abc import Sequence

from anon_tune.records import Report, objective_key
from anon_tune.search.scale import Scale
from anon_tune.spec import Objective

__all__ = ["final_value"]


def final_value(objective: Objective, reports: Sequence[Report], *, tested: bool) -> float | None:
    """Return the final value of a completed trial; see `Objective.of`.

    The reports are chosen by their validation values. With `tested` their test values count. A user's training
    function measures one test value, after its last report; that value counts then.

    Args:
        objective: The job's objective.
        reports: All reports of the trial, in the order of their steps.
        tested: Whether the trial belongs to the verdict.

    Returns:
        A finite value; None if no report has one.
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
    # A single value is returned unchanged, to the last bit.
    return values[0] if len(values) == 1 else Scale(objective, values).mean(values)
