"""Errors in a browser: a page, or the part of one that htmx shows beside an unchanged page."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import Request
from fastapi.responses import HTMLResponse

from anon_tune.dashboards.pages import render
from anon_tune.jobs.interface import API
from anon_tune.service.pages.session import is_htmx

__all__ = ["is_page", "page"]

_TITLES = {
    403: "Not allowed",
    404: "Not found",
    409: "Not possible in this state",
    408: "The request took too long",
    422: "Invalid request",
    429: "Too many open pages",
    500: "The service failed",
    503: "Not available at the moment",
}


def is_page(request: Request) -> bool:
    """Return whether a browser asked for a page, or for a part of one."""
    if request.url.path.startswith(f"{API}/"):
        return False
    return is_htmx(request) or "text/html" in request.headers.get("accept", "")


def page(request: Request, status: int, title: str, detail: str, problems: Sequence[str]) -> HTMLResponse:
    """Return an error as a browser shows it; htmx shows it in #messages.

    Args:
        request: The request that failed.
        status: HTTP status.
        title: Phrase of the status, for those that pages do not name themselves.
        detail: The error and what to do.
        problems: A line for each wrong key.
    """
    values = {
        "title": _TITLES.get(status, title),
        "detail": detail,
        "problems": problems,
        "may_pass": request.method == "GET" and status in {500, 503},
    }
    if is_htmx(request):
        headers = {"HX-Retarget": "#messages", "HX-Reswap": "innerHTML"}
        return HTMLResponse(render("problem.html", **values), status, headers)
    user = getattr(request.state, "page_user", None)
    return HTMLResponse(render("error.html", user=user, page=None, **values), status)
