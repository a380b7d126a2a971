"""Parts of a job's page that it loads when they are opened: trials, charts, logs, settings and history."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Header, HTTPException, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse

from anon_tune.dashboards.charts import CHARTS, figure_json
from anon_tune.dashboards.pages import job as contents
from anon_tune.dashboards.pages import render
from anon_tune.records import AuditQuery, Phase, ReportPlace, TrialColumn, TrialQuery, TrialState
from anon_tune.service.access import JobId
from anon_tune.service.pages.chart_data import ChartSource
from anon_tune.service.pages.mlflow import mlflow_of
from anon_tune.service.pages.session import PageReader

__all__ = ["router"]

_TRIALS_PER_PAGE = 50
_ATTEMPTS = 50
_CURVE_POINTS = 1000
_ACTIONS = 50

_SHOWN_AT_ONCE = {"response", "verdict"}
"""Charts that the page has outside of this part."""

router = APIRouter(prefix="/jobs/{job_id}", include_in_schema=False)

TrialId = Annotated[str, Path(max_length=96)]
Text = Annotated[str, Query(max_length=100)]
PageNumber = Annotated[int, Query(ge=1, le=10_000, alias="page")]


@router.get("/trials", response_class=HTMLResponse)
def trials(
    job_id: JobId,
    user: PageReader,
    arm: Text = "",
    phase: Phase | Literal[""] = "",
    state: TrialState | Literal[""] = "",
    text: Text = "",
    sort: TrialColumn | Literal[""] = "",
    descending: bool = False,
    number: PageNumber = 1,
) -> str:
    """List the trials that fit, a page of them."""
    query = TrialQuery(
        arm=arm or None,
        phase=phase or None,
        state=state or None,
        text=text.strip(),
        sort=sort or None,
        descending=descending,
        limit=_TRIALS_PER_PAGE,
        offset=_TRIALS_PER_PAGE * (number - 1),
    )
    found = user.user.jobs.find_trials(job_id, query)
    job = user.user.surroundings.ledger.jobs.get(job_id)
    return render(
        "job_trials.html",
        job_id=job_id,
        query=query,
        trials=[(trial.id, contents.cells(trial)) for trial in found.trials],
        total=found.total,
        number=number,
        last=max(1, -(-found.total // _TRIALS_PER_PAGE)),
        arms=list(job.spec["arms"]),
        phases=[phase for phase in Phase if phase is not Phase.PROBE],
        states=list(TrialState),
        titles=contents.TITLES,
        has_step_size=any("step_size" in trial.params for trial in found.trials),
    )


@router.get("/trials/{trial_id}", response_class=HTMLResponse)
def trial(
    job_id: JobId,
    trial_id: TrialId,
    user: PageReader,
    by_htmx: Annotated[str | None, Header(alias="HX-Request")] = None,
) -> str:
    """Show a trial: as a part of the job's page, or as a page of its own."""
    jobs = user.user.jobs
    found = jobs.trial(job_id, trial_id)
    last = jobs.report_page(job_id, 1, trial_id, ReportPlace(trial_id, found.steps - 1))
    return render(
        "job_trial.html" if by_htmx else "job_trial_page.html",
        user=user,
        page="Jobs",
        job_id=job_id,
        trial=found,
        curve=contents.learning_curve(jobs.curves(job_id, _CURVE_POINTS, trial_id).get(trial_id)),
        last=last[0] if last else None,
        attempts=jobs.logs(job_id, trial_id).attempts,
        mlflow_address=mlflow_of(user.user.surroundings.settings).run(found.mlflow_run_id),
    )


@router.get("/logs", response_class=HTMLResponse)
def logs(job_id: JobId, user: PageReader) -> str:
    """Show attempts that did not end well, the newest first, and the end of the job's log."""
    found = user.user.jobs.logs(job_id)
    attempts = found.attempts[::-1]
    return render(
        "job_logs.html",
        job_id=job_id,
        log=found.job_log,
        attempts=attempts[:_ATTEMPTS],
        left_out=max(0, len(attempts) - _ATTEMPTS),
    )


@router.get("/settings", response_class=HTMLResponse)
def settings(job_id: JobId, user: PageReader) -> str:
    """Show the job file, the spaces, the model, and what was measured before the first trial."""
    jobs = user.user.jobs
    return render("job_settings.html", setup=contents.setup(jobs.job(job_id), jobs.spaces(job_id)))


@router.get("/history", response_class=HTMLResponse)
def history(job_id: JobId, user: PageReader) -> str:
    """Show what users did with the job, newest first."""
    user.user.surroundings.ledger.jobs.get(job_id)
    found = user.user.jobs.audit_page(AuditQuery(job_id, limit=_ACTIONS + 1))
    return render("job_history.html", entries=found[:_ACTIONS], left_out=len(found) > _ACTIONS)


@router.get("/charts", response_class=HTMLResponse)
def all_charts(job_id: JobId, user: PageReader) -> str:
    """Show the places of the charts that the page does not have yet."""
    user.user.surroundings.ledger.jobs.get(job_id)
    charts = [chart for chart in CHARTS.values() if chart.name not in _SHOWN_AT_ONCE]
    return render("job_charts.html", job_id=job_id, charts=charts)


@router.get("/charts/{name}.json")
async def chart(
    job_id: JobId, name: Annotated[str, Path(max_length=30)], user: PageReader, request: Request
) -> Response:
    """Send the figure of a chart, as plotly reads it."""
    found = CHARTS.get(name)
    if found is None:
        raise HTTPException(404, f"There is no chart {name}. The charts are {', '.join(CHARTS)}.")
    source: ChartSource = request.app.state.chart_source
    data = await source.data(user.user.jobs, job_id)
    text = await run_in_threadpool(lambda: figure_json(found.draw(data)))
    return Response(text, media_type="application/json")
