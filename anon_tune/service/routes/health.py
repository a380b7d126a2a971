"""Health and metrics, for supervisors, load balancers and monitoring."""

from __future__ import annotations

import asyncio
from importlib.metadata import version

import anyio
import anyio.to_thread
from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from anon_tune.errors import DependencyError
from anon_tune.ledger import Ledger
from anon_tune.reachable import ask_mlflow, check_reachable
from anon_tune.service.access import Reader, Surroundings
from anon_tune.service.problems import responses
from anon_tune.service.schemas import Health, Readiness
from anon_tune.settings import Settings

__all__ = ["router"]

_TIMEOUT_SECONDS = 2.0

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> Health:
    """Report that this process is alive. Needs no token."""
    return Health(status="ok", version=version("anon_tune"))


@router.get("/readyz", responses={503: {"model": Readiness, "description": "The database is unavailable."}})
async def readyz(request: Request, response: Response) -> Readiness:
    """Report whether the service can serve requests, and whether MLflow and Ray are reachable. Needs no token.

    MLflow and Ray may be unavailable: jobs are still accepted, and MLflow catches up.
    """
    surroundings: Surroundings = request.app.state.surroundings
    # One at a time, outside the threads that serve requests: an unreachable server takes until the timeout.
    looks: anyio.CapacityLimiter = request.app.state.looks
    database, mlflow, ray = await asyncio.gather(
        run_in_threadpool(_database, surroundings.ledger),
        anyio.to_thread.run_sync(_mlflow, surroundings.settings, limiter=looks),
        anyio.to_thread.run_sync(_ray, surroundings.settings, limiter=looks),
    )
    if database != "ok":
        response.status_code = 503
    return Readiness(ready=database == "ok", database=database, mlflow=mlflow, ray=ray)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **responses()},
)
def metrics(user: Reader, request: Request) -> Response:
    """Return metrics of requests, jobs and trials, for Prometheus."""
    content, media_type = request.app.state.metrics.exposition(user.surroundings.ledger)
    return Response(content, media_type=media_type)


def _database(ledger: Ledger) -> str:
    try:
        ledger.overviews.time()
    except DependencyError:
        return "unreachable"
    return "ok"


def _mlflow(settings: Settings) -> str:
    try:
        return "ok" if ask_mlflow(settings.tracking_uri, _TIMEOUT_SECONDS) else "a database"
    except OSError:
        return "unreachable"


def _ray(settings: Settings) -> str:
    if not settings.ray_address:
        return "started for each job"
    try:
        return "ok" if check_reachable(settings.ray_address, _TIMEOUT_SECONDS) else "unknown"
    except OSError:
        return "unreachable"
