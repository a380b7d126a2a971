"""The page that compares jobs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import HTMLResponse

from anon_tune.dashboards.charts import figure_json
from anon_tune.dashboards.overlay import responses
from anon_tune.dashboards.pages import render
from anon_tune.dashboards.pages.compare import compare
from anon_tune.errors import NotFoundError
from anon_tune.service.pages.session import PageReader, PageUser
from anon_tune.views import JobView

__all__ = ["router"]

_MOST = 8

router = APIRouter(prefix="/compare", include_in_schema=False)

Chosen = Annotated[str, Query(alias="jobs", max_length=33 * _MOST)]


@router.get("", response_class=HTMLResponse)
def page(
    user: PageReader, chosen: Chosen = "", add: Annotated[str, Query(max_length=33 * _MOST)] = ""
) -> str:
    """Compare jobs, whose ids are separated by commas."""
    jobs, problems = _jobs(user, f"{chosen},{add}")
    ids = [job.id for job in jobs]
    return render(
        "compare.html",
        user=user,
        page="Jobs",
        jobs=jobs,
        problems=problems,
        compared=compare(jobs),
        others=[job for job in user.user.jobs.job_page(50) if job.id not in ids],
        without={each: ",".join(other for other in ids if other != each) for each in ids},
        ids=",".join(ids),
    )


@router.get("/chart.json")
def chart(user: PageReader, chosen: Chosen = "") -> Response:
    """Send the figure of the jobs' responses, as plotly reads it."""
    jobs, _ = _jobs(user, chosen)
    return Response(figure_json(responses(jobs)), media_type="application/json")


def _jobs(user: PageUser, ids: str) -> tuple[list[JobView], list[str]]:
    """Return the jobs that exist, and what is wrong with the others."""
    jobs, problems = [], []
    chosen = list(dict.fromkeys(text.strip() for text in ids.split(",") if text.strip()))
    for job_id in chosen[:_MOST]:
        try:
            jobs.append(user.user.jobs.job(job_id))
        except NotFoundError:
            problems.append(f"There is no job {job_id}. The list of jobs has the ids.")
    if len(chosen) > _MOST:
        problems.append(f"Only the first {_MOST} jobs are shown.")
    return jobs, problems
