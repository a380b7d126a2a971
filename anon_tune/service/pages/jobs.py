"""The first page: all jobs."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from anon_tune.dashboards.pages import render
from anon_tune.service.pages.session import PageReader

__all__ = ["router"]

router = APIRouter(include_in_schema=False)


@router.get("/", response_class=HTMLResponse)
def jobs(user: PageReader) -> str:
    """List the jobs, newest first."""
    return render("jobs.html", user=user, page="Jobs", jobs=user.user.jobs.job_page(50))
