"""Middleware for every request: limits its size, and writes one line to the log."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anon_tune.code_archive import LARGEST
from anon_tune.jobs.interface import API
from anon_tune.service.metrics import Metrics

__all__ = ["LimitedBodies", "Logged"]

LARGEST_BODY = 2**20
"""Largest request in bytes; a job file with search spaces has a few thousand. A code archive may be larger."""

_CODE = f"{API}/code/"
_JOB = re.compile(r"/jobs/([^/:]+)")
_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)

_log = logging.getLogger("anon_tune.requests")


class LimitedBodies:
    """Answers 413 to a body of more than `LARGEST_BODY` bytes, whatever its Content-Length.

    FastAPI's own `max_body_size` answers with plain text, not with a problem document.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received, most = 0, LARGEST if scope["path"].startswith(_CODE) else LARGEST_BODY

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                raise HTTPException(413, f"A request may have at most {most} bytes.")
            return message

        await self._app(scope, counted, send)


class Logged:
    """Logs and counts each request, and sends its id in the response."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        status = 500

        async def marked(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        began = time.perf_counter()
        try:
            await self._app(scope, receive, marked)
        finally:
            seconds = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", "unknown")
            self._metrics.count(scope["method"], route, status, seconds)
            job = _JOB.search(scope["path"])
            _log.info(
                "%s %s: %d",
                scope["method"],
                scope["path"],
                status,
                extra={
                    "request": request_id,
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "milliseconds": round(1000 * seconds, 1),
                    "owner": scope.get("state", {}).get("owner"),
                    "job": job[1] if job else None,
                },
            )
