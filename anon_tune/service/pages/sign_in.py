"""Signing in and out: a token, or a link that works once, becomes a session."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Form, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from anon_tune.dashboards.pages import render
from anon_tune.service.access import Surroundings, about_expired
from anon_tune.service.pages.session import SESSION_SECONDS, PageChanger, cookie_name, forget, remember

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

Next = Annotated[str, Query(max_length=2000)]


@router.get("/sign-in")
def form(
    request: Request, next: Next = "/", link: Annotated[str | None, Query(max_length=64)] = None
) -> Response:
    """Show the form; or use up a link that signs in."""
    surroundings: Surroundings = request.app.state.surroundings
    if link is not None:
        secret = surroundings.ledger.sessions.follow(link, SESSION_SECONDS)
        if secret is not None:
            return _signed_in(request, secret, next)
        return _form(
            next, "This link has been used, or has run out. Sign in with a token, or ask for a new link."
        )
    return _form(next)


@router.post("/sign-in")
def sign_in(
    request: Request,
    token: Annotated[str, Form(max_length=200)],
    next: Annotated[str, Form(max_length=2000)] = "/",
) -> Response:
    """Begin a session for a token; not for the form of another site, which would sign one in as somebody else."""
    if request.headers.get("sec-fetch-site") == "cross-site":
        raise HTTPException(403, "Another site sent this form. Sign in on the service's own page: /sign-in")
    surroundings: Surroundings = request.app.state.surroundings
    found = surroundings.ledger.tokens.find(token.strip())
    expired = surroundings.ledger.tokens.expired(token.strip()) if found is None else None
    if expired is not None:
        return _form(next, about_expired(expired))
    if found is None:
        return _form(next, "Unknown or revoked token. An admin can create one: anon-tune token create NAME")
    return _signed_in(request, surroundings.ledger.sessions.begin(found.id, SESSION_SECONDS), next)


@router.post("/sign-out")
def sign_out(request: Request, user: PageChanger) -> Response:
    """End the session."""
    secret = request.cookies.get(cookie_name(request))
    if secret:
        user.user.surroundings.ledger.sessions.end(secret)
    response = RedirectResponse("/sign-in", 303)
    forget(request, response)
    return response


def _form(next: str, problem: str | None = None) -> Response:
    return HTMLResponse(render("sign_in.html", next=next, problem=problem), 200 if problem is None else 401)


def _signed_in(request: Request, secret: str, next: str) -> Response:
    response = RedirectResponse(_own(next), 303)
    remember(request, response, secret)
    return response


def _own(path: str) -> str:
    """Return a path of this service; the first page in place of another site's address."""
    if not path.startswith("/") or path.startswith(("//", "/\\")):
        return "/"
    try:
        return "/" if urlsplit(path).netloc else path  # "/<tab>/host" is another site's, too
    except ValueError:
        return "/"
