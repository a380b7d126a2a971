"""Errors as problem documents (RFC 9457), and as pages for browsers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from anon_tune.errors import AnonTuneError, DependencyError, SpecError
from anon_tune.jobs.interface import API
from anon_tune.service.headers import add_security_headers
from anon_tune.service.pages import errors

__all__ = ["MEDIA_TYPE", "Problem", "install", "responses"]

MEDIA_TYPE = "application/problem+json"

_WHEN = {
    401: "Missing or unknown token.",
    403: "The token's role does not allow the request, or the job belongs to another user.",
    404: "Not found.",
    409: "The current state does not allow it.",
    413: "The request is too large.",
    422: "The request is invalid; `problems` names each key.",
    503: "A dependency of the service is unavailable; try again later.",
}

_RETRY_SECONDS = 2
"""Time after which a client may try again, since a database restarts within seconds."""

_log = logging.getLogger(__name__)


class Problem(BaseModel):
    """Problem of a request, and what to do about it."""

    type: str = Field("about:blank", description="Names the kind of problem, for programs.")
    title: str
    status: int
    detail: str = Field(description="The problem, and what to do next.")
    problems: list[str] = Field(
        default_factory=list, description="One line for each wrong key, with its path."
    )


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of a route's problems, and of those that every route may answer with."""
    schema = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    every = (401, 403, 413, 422, 503)
    return {
        status: {"description": _WHEN[status], "content": schema} for status in sorted({*every, *statuses})
    }


def install(app: FastAPI) -> None:
    """Add handlers that answer every error of `app` with a problem document; to a browser, with a page."""

    @app.exception_handler(AnonTuneError)
    def _known(request: Request, error: AnonTuneError) -> Response:
        problems = error.problems if isinstance(error, SpecError) else []
        return _response(request, error.http_status, str(error), type(error).__name__, problems)

    @app.exception_handler(DependencyError)
    def _unavailable(request: Request, error: DependencyError) -> Response:
        # Its message may hold the database's address, which not every client may see.
        _log.error("%s", error)
        detail = (
            "The service cannot use something that it needs, such as its database; try again later. The "
            "service's log has the reason."
        )
        headers = {"Retry-After": str(_RETRY_SECONDS)}
        return _response(request, error.http_status, detail, type(error).__name__, headers=headers)

    @app.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: RequestValidationError) -> Response:
        problems = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        return _response(request, 422, "; ".join(problems), "RequestError", problems)

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> Response:
        detail, headers, path = error.detail, error.headers, request.url.path
        if error.status_code == 405:  # Starlette names the methods of the first route with this path alone
            methods = sorted(_methods(app, request))
            detail, headers = f"{path} accepts {', '.join(methods)}.", {"Allow": ", ".join(methods)}
        elif detail == HTTPStatus.NOT_FOUND.phrase:
            detail = f"There is no route {path}. {API}/docs lists all routes."
            if errors.is_page(request):
                detail = f"There is no page {path}. Check the address, or start from the list of jobs."
        return _response(request, error.status_code, detail, headers=headers)

    @app.exception_handler(Exception)
    def _unknown(request: Request, error: Exception) -> Response:
        _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        response = _response(request, 500, "The service failed; its log has the reason.")
        add_security_headers(response.headers)  # Starlette answers this one outside of the middleware
        return response


def _methods(app: FastAPI, request: Request) -> set[str]:
    """Return the methods that the routes of a path take."""
    return {
        method
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in app.routes)
    }


def _response(
    request: Request,
    status: int,
    detail: str,
    kind: str | None = None,
    problems: list[str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    problem = Problem(
        type="about:blank" if kind is None else f"urn:anon-tune:{kind}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=_written(detail),
        problems=[_written(line) for line in problems or ()],
    )
    if not errors.is_page(request):
        return JSONResponse(problem.model_dump(), status, headers=headers, media_type=MEDIA_TYPE)
    response = errors.page(request, status, problem.title, problem.detail, problem.problems)
    response.headers.update(headers or {})
    return response


def _written(text: str) -> str:
    """Return a message that can be encoded: what it quotes may hold a lone surrogate."""
    return text.encode("utf-8", "backslashreplace").decode()
