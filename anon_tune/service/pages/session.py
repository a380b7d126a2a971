"""Users of pages: signed in by a cookie, or users of this machine where the service needs no token yet.

A cookie holds the secret of a session, which the ledger knows by its digest. A browser sends cookies with requests
that other sites make, too. So each request that changes something also carries `csrf`, which only our pages know.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Annotated
from urllib.parse import quote, urlsplit

from fastapi import Depends, Form, Header, HTTPException, Request, Response

from anon_tune.records import Channel, Role
from anon_tune.service.access import JobId, Surroundings, User, open_user, require

__all__ = [
    "COOKIE",
    "SESSION_SECONDS",
    "PageAdmin",
    "PageChanger",
    "PageOwner",
    "PageReader",
    "PageSubmitter",
    "PageUser",
    "cookie_name",
    "forget",
    "is_htmx",
    "remember",
]

COOKIE = "anon_tune_session"
SESSION_SECONDS = 14 * 24 * 3600.0
_SAFE = {"GET", "HEAD"}

_PAGES = (("/", "Jobs", Role.READ), ("/submit", "Submit", Role.SUBMIT), ("/advice", "Advice", Role.READ),
          ("/spaces", "Spaces", Role.READ), ("/tokens", "Tokens", Role.ADMIN))  # fmt: skip


@dataclass(frozen=True)
class PageUser:
    """User of a page.

    Attributes:
        user: The user, as the API knows them.
        csrf: Text that requests carry which change something.
    """

    user: User
    csrf: str
    secret: str | None = field(default=None, repr=False)

    def is_known(self) -> bool:
        """Return whether their session is still valid, or the service still open."""
        surroundings = self.user.surroundings
        if self.secret is None:
            return surroundings.is_open()
        return surroundings.ledger.sessions.find(self.secret) is not None

    @property
    def owner(self) -> str | None:
        """Name; None for a user of this machine, without a token."""
        return self.user.owner

    @property
    def role(self) -> Role:
        """Role of their token."""
        return self.user.role

    @property
    def pages(self) -> list[tuple[str, str]]:
        """Path and name of each page that they may open from the menu."""
        return [(path, name) for path, name, role in _PAGES if self.user.has(role)]

    def may_change(self, owner: str | None) -> bool:
        """Return whether they may change a job of this owner."""
        return self.user.has(Role.ADMIN) or (self.user.has(Role.SUBMIT) and owner == self.owner)


def cookie_name(request: Request) -> str:
    """Return the name of the cookie, with the port: browsers send cookies of all ports of a host to each of them."""
    port = request.headers.get("host", "").rpartition(":")[2]
    return f"{COOKIE}_{port}" if port.isdecimal() and port.isascii() else COOKIE


def remember(request: Request, response: Response, secret: str) -> None:
    """Set the cookie of a session."""
    is_secure = request.url.scheme == "https"
    response.set_cookie(
        cookie_name(request),
        secret,
        max_age=int(SESSION_SECONDS),
        httponly=True,
        samesite="lax",
        secure=is_secure,
    )


def forget(request: Request, response: Response) -> None:
    """Delete the cookie."""
    response.delete_cookie(cookie_name(request), httponly=True, samesite="lax")


def is_htmx(request: Request) -> bool:
    """Return whether htmx asks for a part of a page."""
    return "hx-request" in request.headers


def _page_user(request: Request, given: str | None) -> PageUser:
    """Return the user of a page, also as `request.state.page_user` for the page of an error.

    Raises:
        HTTPException: 303 to the form that signs in, or 403 if a form is not one of our pages'.
    """
    user = _find_user(request, given)
    request.state.page_user = user
    return user


def _find_user(request: Request, given: str | None) -> PageUser:
    surroundings: Surroundings = request.app.state.surroundings
    secret = request.cookies.get(cookie_name(request))
    token = surroundings.ledger.sessions.find(secret) if secret else None
    if token is not None and secret is not None:
        request.state.owner = token.owner
        user = User(
            token.owner,
            token.role,
            token.may_send_code,
            surroundings,
            token_id=token.id,
            channel=Channel.PAGE,
        )
        csrf = _csrf(secret)
        if request.method not in _SAFE and not hmac.compare_digest(csrf.encode(), (given or "").encode()):
            raise HTTPException(403, "This page is out of date. Load it again.")
        return PageUser(user, csrf, secret)
    if surroundings.is_open():
        return PageUser(open_user(request, Channel.PAGE), "")
    if is_htmx(request):  # it would follow a redirect by itself, and show the form as a part of the page
        raise HTTPException(401, "Sign in first.", {"HX-Redirect": _sign_in(request)})
    raise HTTPException(303, "Sign in first.", {"Location": _sign_in(request)})


def _sign_in(request: Request) -> str:
    """Return the path of the form that signs in, and leads back afterwards."""
    if request.method not in _SAFE and not is_htmx(request):
        return "/sign-in"
    try:
        url = urlsplit(request.headers.get("hx-current-url", "/") if is_htmx(request) else str(request.url))
    except ValueError:
        return "/sign-in"
    back = url.path + (f"?{url.query}" if url.query else "")
    return f"/sign-in?next={quote(back)}"


def _csrf(secret: str) -> str:
    return hashlib.sha256(b"csrf " + secret.encode()).hexdigest()


Field = Annotated[str | None, Form(alias="csrf")]
Sent = Annotated[str | None, Header(alias="X-CSRF-Token")]


def _given(header: Sent = None, field: Field = None) -> str | None:
    return header or field


Given = Annotated[str | None, Depends(_given)]


def _reader(request: Request) -> PageUser:
    return _page_user(request, None)


def _changer(request: Request, given: Given) -> PageUser:
    return _page_user(request, given)


def _submitter(request: Request, given: Given) -> PageUser:
    return _with(Role.SUBMIT, request, given)


def _admin(request: Request, given: Given) -> PageUser:
    return _with(Role.ADMIN, request, given)


def _owner(job_id: JobId, request: Request, given: Given) -> PageUser:
    found = _with(Role.SUBMIT, request, given)
    found.user.check_may_change(job_id)
    return found


def _with(role: Role, request: Request, given: str | None) -> PageUser:
    found = _page_user(request, given)
    require(found.user, role)
    return found


PageChanger = Annotated[PageUser, Depends(_changer)]
"""A user who sends a form, whatever their role."""
PageReader = Annotated[PageUser, Depends(_reader)]
"""A user who looks at a page; for GET alone, since it checks no `csrf`."""
PageSubmitter = Annotated[PageUser, Depends(_submitter)]
PageAdmin = Annotated[PageUser, Depends(_admin)]
PageOwner = Annotated[PageUser, Depends(_owner)]
"""A user who may change the job."""
