"""A job as one HTML file, to download."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from anon_tune.service.access import JobId
from anon_tune.service.pages.session import PageReader

__all__ = ["router"]

router = APIRouter(include_in_schema=False)


@router.get("/jobs/{job_id}/report.html")
def report(job_id: JobId, user: PageReader) -> HTMLResponse:
    """Send the report. It is a file to keep, with scripts of its own, so browsers save it instead of showing it."""
    headers = {"Content-Disposition": f'attachment; filename="{job_id}.html"'}
    return HTMLResponse(user.user.jobs.report(job_id), headers=headers)
