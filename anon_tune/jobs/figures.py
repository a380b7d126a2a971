"""Figures of a job, by name, from any implementation of `Jobs`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

import plotly.io

from anon_tune.dashboards import charts
from anon_tune.dashboards.pages.report import Picture
from anon_tune.documents import unknown
from anon_tune.errors import InputError
from anon_tune.records import JobRecord, Report, Trial
from anon_tune.views import JobView, ReportView, TrialView

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["FIGURES", "figure_of", "pictures_of"]

FIGURES: Mapping[str, tuple[str, Callable[[JobRecord], go.Figure]]] = {
    "response": ("Loss over gamma", charts.loss_over_gamma),
    "curves": ("Learning curves", charts.learning_curves),
    "best": ("Best so far", charts.best_so_far),
}
"""Title and function of each figure."""


class Source(Protocol):
    """The methods of `Jobs` that figures need."""

    def job(self, job_id: str) -> JobView:
        """Return a job."""

    def list_trials(self, job_id: str) -> list[TrialView]:
        """Return its trials."""

    def reports(self, job_id: str) -> Iterator[ReportView]:
        """Yield the reports of all its trials."""


def figure_of(jobs: Source, job_id: str, name: str) -> go.Figure:
    """Return one figure. Raises InputError if there is none of this name."""
    if name not in FIGURES:
        raise InputError(unknown("figure", name, FIGURES))
    return FIGURES[name][1](_record(jobs, job_id))


def pictures_of(jobs: Source, job_id: str, names: Iterable[str] = FIGURES) -> list[Picture]:
    """Return figures with their titles; a name that there is no figure of is left out."""
    record = _record(jobs, job_id)
    return [
        Picture(name, FIGURES[name][0], "", _json(FIGURES[name][1](record)))
        for name in names
        if name in FIGURES
    ]


def _json(figure: go.Figure) -> str:
    found = json.loads(figure.to_json())
    del found["layout"]["template"]
    return json.dumps({**found, "themes": {"light": _theme("plotly_white"), "dark": _theme("plotly_dark")}})


def _theme(name: str) -> dict[str, object]:
    """Return a template of plotly on the ground of the page."""
    layout = json.loads(plotly.io.templates[name].layout.to_json())
    return {"layout": {**layout, "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)"}}


def _record(jobs: Source, job_id: str) -> JobRecord:
    job = jobs.job(job_id)
    curves: dict[str, list[ReportView]] = {}
    for report in jobs.reports(job_id):
        curves.setdefault(report.trial, []).append(report)
    counts: dict[tuple[str, str, int], int] = {}
    trials = []
    for trial in jobs.list_trials(job_id):
        key = trial.arm, trial.phase.value, trial.repeat
        counts[key] = counts.get(key, -1) + 1
        trials.append(_trial(trial, job, counts[key], curves.get(trial.id, [])))
    return JobRecord(
        id=job.id,
        name=job.name,
        state=job.state,
        phase=job.phase,
        spec=job.spec,
        created=job.created,
        result=None if job.result is None else job.result.model_dump(mode="json"),
        trials=tuple(trials),
    )


def _trial(trial: TrialView, job: JobView, number: int, curve: Iterable[ReportView]) -> Trial:
    return Trial(
        id=trial.id,
        job=job.id,
        arm=trial.arm,
        phase=trial.phase,
        number=number,
        seed=trial.seed,
        state=trial.state,
        params=trial.params,
        hyperparameters=trial.hyperparameters,
        source=trial.source,
        value=trial.value,
        repeat=trial.repeat,
        reports=tuple(
            Report(each.step, float("nan") if each.value is None else each.value, {}, each.time)
            for each in curve
        ),
    )
