"""Health: for whoever starts, balances and watches the service."""

from __future__ import annotations

import socket
import urllib.request
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response
from sqlalchemy.exc import DBAPIError

from anon_tune.errors import AnonTuneError
from anon_tune.service.access import Reader, Surroundings
from anon_tune.service.problems import responses
from anon_tune.service.schemas import Health, Readiness
from anon_tune.settings import Settings

__all__ = ["router"]

_TIMEOUT_SECONDS = 2.0

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> Health:
    """Say that this process lives. Takes no token."""
    return Health(status="ok", version=version("anon_tune"))


@router.get("/readyz", responses={503: {"model": Readiness, "description": "The database is not there."}})
def readyz(request: Request, response: Response) -> Readiness:
    """Say whether requests can be served, and what else is there. Takes no token.

    MLflow and Ray may be away: jobs are taken in, and MLflow catches up.
    """
    surroundings: Surroundings = request.app.state.surroundings
    try:
        surroundings.ledger.overviews.jobs(limit=1)
        database = "ok"
    except (DBAPIError, AnonTuneError):
        database = "unreachable"
        response.status_code = 503
    return Readiness(
        ready=database == "ok",
        database=database,
        mlflow=_mlflow(surroundings.settings),
        ray=_ray(surroundings.settings),
    )


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **responses()},
)
def metrics(user: Reader, request: Request) -> Response:
    """Requests, jobs and trials, for Prometheus."""
    content, media_type = request.app.state.metrics.exposition(user.surroundings.ledger)
    return Response(content, media_type=media_type)


def _mlflow(settings: Settings) -> str:
    address = settings.tracking_uri
    if not address.startswith(("http://", "https://")):
        return "a database"
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=_TIMEOUT_SECONDS):
            return "ok"
    except (OSError, ValueError):
        return "unreachable"


def _ray(settings: Settings) -> str:
    if not settings.ray_address:
        return "started for each job"
    parts: Any = urlsplit(
        settings.ray_address if "://" in settings.ray_address else f"//{settings.ray_address}"
    )
    try:
        if parts.port is None:
            return "unknown"  # "auto"
        socket.create_connection((parts.hostname, parts.port), timeout=_TIMEOUT_SECONDS).close()
    except (OSError, ValueError):
        return "unreachable"
    return "ok"
