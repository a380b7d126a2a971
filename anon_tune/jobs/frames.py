"""Trials and reports as pandas DataFrames."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from anon_tune.views import ReportView, TrialView

if TYPE_CHECKING:
    import pandas

__all__ = ["of_reports", "of_trials"]


def of_trials(trials: Iterable[TrialView]) -> pandas.DataFrame:
    """Return a row for each trial, with a column for each hyperparameter."""
    import pandas

    rows = []
    for trial in trials:
        row = trial.model_dump(mode="json", exclude={"params", "hyperparameters"})
        rows.append({**row, **trial.hyperparameters})
    frame = pandas.DataFrame(rows)
    for name in {"started", "finished"} & set(frame):
        frame[name] = pandas.to_datetime(frame[name], format="ISO8601", utc=True)
    return frame


def of_reports(reports: Iterable[ReportView]) -> pandas.DataFrame:
    """Return a row for each report, with a column `metrics.NAME` for each metric."""
    import pandas

    rows = [report.row() for report in reports]
    frame = pandas.DataFrame(rows, columns=None if rows else ReportView.columns())
    numbers = [name for name in frame if name == "value" or name.startswith("metrics.")]
    frame = frame.astype(dict.fromkeys(numbers, float))  # null is NaN there, also in a column of nothing else
    frame["time"] = pandas.to_datetime(frame["time"], format="ISO8601", utc=True)
    return frame
