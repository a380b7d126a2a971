"""The application: routes, error handlers and middleware."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from importlib.metadata import version

import anyio
import anyio.to_thread
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from anon_tune.jobs.interface import API
from anon_tune.jobs.ledger import LedgerJobs
from anon_tune.ledger import Ledger
from anon_tune.service import problems
from anon_tune.service.access import Surroundings
from anon_tune.service.headers import Secured
from anon_tune.service.hub import Hub
from anon_tune.service.limits import Limits, Streams
from anon_tune.service.metrics import Metrics
from anon_tune.service.pages import advice as advice_page
from anon_tune.service.pages import api, compare, job, job_parts, report, sign_in, spaces, static
from anon_tune.service.pages import jobs as jobs_page
from anon_tune.service.pages import submit as submit_page
from anon_tune.service.pages import tokens as tokens_page
from anon_tune.service.pages.chart_data import ChartSource
from anon_tune.service.requests import LimitedBodies, LimitedRequests, Logged
from anon_tune.service.routes import advice, audit, code, health, jobs, links, tokens, workers
from anon_tune.settings import Settings

__all__ = ["create_app"]

_THREADS = 4

_DESCRIPTION = """Tuning jobs for the Anon optimizer: submit, watch, stop, export.

Errors are problem documents (RFC 9457). Lists come in pages: pass `next` of a page as `after` of the next one."""


def create_app(
    ledger: Ledger, settings: Settings, *, on_loopback: bool, limits: Limits | None = None
) -> FastAPI:
    """Return the service of a ledger. Several services on one ledger behave as one.

    Args:
        ledger: Ledger that stores the jobs.
        settings: Settings, which name the jobs' folders and the data and modules that jobs may use.
        on_loopback: Whether only this machine can reach it. If so, it needs no tokens as long as none were created.
        limits: Limits of this instance.
    """
    limits = limits or Limits()
    app = FastAPI(
        lifespan=_few_threads,
        title="anon_tune",
        version=version("anon_tune"),
        description=_DESCRIPTION,
        generate_unique_id_function=_operation,
        openapi_url=f"{API}/openapi.json",
        docs_url=None,  # its page loads from a CDN; ours is pages/api.py
        redoc_url=None,
    )
    app.state.surroundings = Surroundings(ledger, settings, on_loopback)
    app.state.metrics = Metrics()
    app.state.chart_source = ChartSource()
    app.state.is_stopping = lambda: False
    jobs_of_ledger = LedgerJobs(ledger, settings)
    app.state.hub = Hub(jobs_of_ledger.job, lambda: app.state.is_stopping())
    app.state.streams = Streams(limits)
    versioned = APIRouter(prefix=API)
    for module in (jobs, workers, code, advice, tokens, links, audit):
        versioned.include_router(module.router)
    app.include_router(versioned)
    app.include_router(health.router)
    for page in (
        jobs_page,
        job,
        job_parts,
        compare,
        report,
        submit_page,
        advice_page,
        spaces,
        tokens_page,
        sign_in,
        static,
        api,
    ):
        app.include_router(page.router)
    problems.install(app)
    app.add_middleware(LimitedBodies, limits=limits)
    app.add_middleware(LimitedRequests, limits=limits)
    app.add_middleware(Secured)
    app.add_middleware(Logged, metrics=app.state.metrics)
    return app


@contextlib.asynccontextmanager
async def _few_threads(app: FastAPI) -> AsyncIterator[None]:
    """Limit the threads: requests compute, so with the default of 40 threads they slow one another down."""
    anyio.to_thread.current_default_thread_limiter().total_tokens = _THREADS
    app.state.looks = anyio.CapacityLimiter(1)
    yield


def _operation(route: APIRoute) -> str:
    return f"{route.tags[0]}_{route.name}" if route.tags else route.name
