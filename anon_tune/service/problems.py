"""Errors as problem documents (RFC 9457)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from anon_tune.errors import AnonTuneError, DependencyError, SpecError
from anon_tune.jobs.interface import API

__all__ = ["MEDIA_TYPE", "Problem", "install", "responses"]

MEDIA_TYPE = "application/problem+json"

_WHEN = {
    401: "No token, or one that is not known.",
    403: "The token's role does not allow it, or the job is somebody else's.",
    404: "There is no such thing.",
    409: "The present state forbids it.",
    413: "The request is too long.",
    422: "What was sent cannot be used; `problems` names each key.",
    503: "Something that the service needs is not there; try again later.",
}

_log = logging.getLogger(__name__)


class Problem(BaseModel):
    """Problem of a request, and what to do about it."""

    type: str = Field("about:blank", description="Names the kind of problem, for programs.")
    title: str
    status: int
    detail: str = Field(description="What is wrong and what to do next.")
    problems: list[str] = Field(
        default_factory=list, description="One line for each wrong key, with its path."
    )


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Documentation of the problems that a route may answer with, besides those of every route."""
    schema = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    every = (401, 403, 413, 422, 503)
    return {
        status: {"description": _WHEN[status], "content": schema} for status in sorted({*every, *statuses})
    }


def install(app: FastAPI) -> None:
    """Have every error of `app` answered with a problem document."""

    @app.exception_handler(AnonTuneError)
    def _known(_: Request, error: AnonTuneError) -> JSONResponse:
        problems = error.problems if isinstance(error, SpecError) else []
        return _response(error.http_status, str(error), type(error).__name__, problems)

    @app.exception_handler(DependencyError)
    def _database(_: Request, error: DependencyError) -> JSONResponse:
        # Its message says where the database is, which is not for everyone who asks.
        _log.error("%s", error)
        detail = "The database cannot be used now; try again later. The service's log says why."
        return _response(error.http_status, detail, type(error).__name__)

    @app.exception_handler(RequestValidationError)
    def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        problems = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        return _response(422, "; ".join(problems), "RequestError", problems)

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> JSONResponse:
        detail, headers, path = error.detail, error.headers, request.url.path
        if error.status_code == 405:  # Starlette names the methods of the first route with this path alone
            methods = sorted(_methods(app, request))
            detail, headers = f"{path} takes {', '.join(methods)}.", {"Allow": ", ".join(methods)}
        elif detail == HTTPStatus.NOT_FOUND.phrase:
            detail = f"There is nothing at {path}. {API}/docs lists what there is."
        return _response(error.status_code, detail, headers=headers)

    @app.exception_handler(Exception)
    def _unknown(request: Request, error: Exception) -> JSONResponse:
        _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return _response(500, "The service failed; its log says why.")


def _methods(app: FastAPI, request: Request) -> set[str]:
    """Return the methods that the routes of a path take."""
    return {
        method
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in app.routes)
    }


def _response(
    status: int,
    detail: str,
    kind: str | None = None,
    problems: list[str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    problem = Problem(
        type="about:blank" if kind is None else f"urn:anon-tune:{kind}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=_written(detail),
        problems=[_written(line) for line in problems or ()],
    )
    return JSONResponse(problem.model_dump(), status, headers=headers, media_type=MEDIA_TYPE)


def _written(text: str) -> str:
    """A message as it can be sent: what it quotes may hold half of a pair of surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()
