"""Middleware for every request: limits its size, time and number, and writes one line to the log."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anon_tune.code_archive import LARGEST
from anon_tune.jobs.interface import API
from anon_tune.service import problems
from anon_tune.service.limits import RETRY, Limits
from anon_tune.service.metrics import Metrics

__all__ = ["LimitedBodies", "LimitedRequests", "Logged"]

LARGEST_BODY = 2**20
"""Largest request in bytes; a job file with search spaces has a few thousand. A code archive may be larger."""

_CODE = f"{API}/code/"
_HEALTH = {"/healthz", "/readyz"}
_JOB = re.compile(r"/jobs/([^/:]+)")
_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)

_log = logging.getLogger("anon_tune.requests")


class LimitedRequests:
    """Answers 503 while too many requests are being answered, so that those which are answered end soon.

    Health is always answered, and an event stream no longer counts once it has begun (`limits.Streams`).
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app, self._limits = app, limits
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http" or scope["path"] in _HEALTH:
            await self._app(scope, receive, send)
            return
        if self._open >= self._limits.requests:
            why = f"The service is busy: it answers {self._limits.requests} requests now. Try again in some seconds."
            await problems.answer(Request(scope), 503, why, headers=RETRY)(scope, receive, send)
            return
        counts = True

        async def counted(message: Message) -> None:
            nonlocal counts
            if counts and message["type"] == "http.response.start" and _is_stream(message):
                counts = False
                self._open -= 1
            await send(message)

        self._open += 1
        try:
            await self._app(scope, receive, counted)
        finally:
            self._open -= counts


def _is_stream(message: Message) -> bool:
    return Headers(raw=message.get("headers", [])).get("content-type", "").startswith("text/event-stream")


class LimitedBodies:
    """Answers 413 to a body that is too large, whatever its Content-Length, and 408 to one that takes too long.

    FastAPI's own `max_body_size` answers with plain text, not with a problem document.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app, self._seconds = app, limits.body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(receive, LARGEST if scope["path"].startswith(_CODE) else LARGEST_BODY, self._seconds)

        async def marked(message: Message) -> None:
            body.is_answered = True
            await send(message)

        await self._app(scope, body.receive, marked)


class _Body:
    """The body of a request, as it comes in.

    Attributes:
        is_answered: Whether the response has begun, so that no other status can be sent.
    """

    def __init__(self, receive: Receive, most: int, seconds: float) -> None:
        self._receive, self._most, self._seconds = receive, most, seconds
        self._limit = asyncio.get_running_loop().time() + seconds
        self._received, self._is_complete = 0, False
        self.is_answered = False

    async def receive(self) -> Message:
        """Return the next part. Raises HTTPException (408, 413)."""
        if self._is_complete:  # what comes next is the end of the connection
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._limit):
                message = await self._receive()
        except TimeoutError:
            if self.is_answered:
                return {"type": "http.disconnect"}
            why = f"The request was not complete after {self._seconds:g} s. Send it again, on a faster connection."
            raise HTTPException(408, why, {"Connection": "close"}) from None
        self._received += len(message.get("body", b""))
        self._is_complete = not message.get("more_body", False)
        if self._received > self._most:
            raise HTTPException(413, f"A request may have at most {self._most} bytes.")
        return message


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
            route = getattr(scope.get("route"), "path_format", "unknown")
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
