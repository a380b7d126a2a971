"""Authentication and permissions: bearer tokens and roles.

A service on a loopback address whose ledger never had a token is open to every user of the machine. Any other service
requires a token with each request, except for its health.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, HTTPException, Path, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from anon_tune.jobs.ledger import LedgerJobs
from anon_tune.ledger import Ledger
from anon_tune.records import Actor, Channel, Role, TokenRecord
from anon_tune.settings import Settings

__all__ = [
    "Admin",
    "JobId",
    "Owner",
    "Reader",
    "Sender",
    "Submitter",
    "Surroundings",
    "User",
    "Watcher",
    "about_expired",
    "open_user",
    "require",
]

JobId = Annotated[str, Path(max_length=32, examples=["93gk79"])]

_NEW_TOKEN = "An admin can create one: anon-tune token create NAME"
_FORWARDED = {
    "cdn-loop",
    "client-ip",
    "forwarded",
    "true-client-ip",
    "via",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-real-ip",
    "x-remote-addr",
    "x-remote-ip",
    "x-scheme",
}
_FORWARDED_PREFIXES = (
    "cf-",
    "fastly-",
    "fly-",
    "tailscale-",
    "x-amz-cf-",
    "x-amzn-",
    "x-azure-",
    "x-envoy-",
    "x-forwarded",
    "x-original-",
    "x-proxyuser-",
)
"""Headers that proxies, load balancers and tunnels add, and clients do not."""

_RANKS = {role: rank for rank, role in enumerate(Role)}
_BEARER = HTTPBearer(
    auto_error=False,
    description="A token from `anon-tune token create`. None on a loopback address without tokens.",
)


@dataclass(frozen=True)
class Surroundings:
    """Dependencies of an instance of the service, in `app.state.surroundings`; nothing in it changes.

    Attributes:
        on_loopback: Whether only this machine can reach the service.
    """

    ledger: Ledger
    settings: Settings
    on_loopback: bool

    def is_open(self) -> bool:
        """Return whether every user of this machine may use the service, without a token."""
        return self.on_loopback and not self.ledger.tokens.ever_existed()


@dataclass(frozen=True)
class User:
    """User who sends a request.

    Attributes:
        owner: Name of the user; None for a user of the machine, without a token.
        may_send_code: Whether their token allows code; the service must allow it too.
        token_id: Id of their token; None for a user of the machine.
        channel: Way by which the request came.
    """

    owner: str | None
    role: Role
    may_send_code: bool
    surroundings: Surroundings
    secret: str | None = field(default=None, repr=False)
    token_id: str | None = None
    channel: Channel = Channel.SERVICE

    @property
    def jobs(self) -> LedgerJobs:
        """Jobs, on behalf of this user."""
        by = Actor(self.owner, self.token_id, self.channel)
        return LedgerJobs(self.surroundings.ledger, self.surroundings.settings, by)

    def has(self, role: Role) -> bool:
        """Return whether they have this role, or one above it."""
        return _RANKS[self.role] >= _RANKS[role]

    def is_known(self) -> bool:
        """Return whether their token is still valid, or the service still open."""
        if self.secret is None:
            return self.surroundings.is_open()
        return self.surroundings.ledger.tokens.find(self.secret) is not None

    def check_may_send_code(self) -> None:
        """Raise HTTPException (403) unless the service and their token allow code."""
        if not self.surroundings.settings.allow_code:
            raise HTTPException(
                403,
                "This service does not accept code. Set ANON_TUNE_ALLOW_CODE there, or install the modules there.",
            )
        if not self.may_send_code:
            raise HTTPException(
                403,
                "Your token may not send code. An admin can create one: anon-tune token create NAME --code",
            )

    def check_may_change(self, job_id: str) -> None:
        """Raise HTTPException (403) unless the job is theirs or they are an admin; NotFoundError if there is none."""
        owner = self.surroundings.ledger.jobs.get(job_id).owner
        if self.role is not Role.ADMIN and owner != self.owner:
            raise HTTPException(
                403, f"Job {job_id} belongs to {owner or 'nobody'}. Ask them or an admin to change it."
            )


def require(user: User, role: Role) -> None:
    """Raise HTTPException (403) unless the user has this role, or one above it."""
    if not user.has(role):
        raise HTTPException(403, f"This request needs a token with the role {role}; yours has {user.role}.")


def open_user(request: Request, channel: Channel = Channel.SERVICE) -> User:
    """Return the user of an open service.

    Raises:
        HTTPException: 403 for a request that may come from another machine, or from a web page of another origin.
    """
    _refuse_proxies(request)
    _refuse_other_pages(request)
    return User(None, Role.ADMIN, True, request.app.state.surroundings, channel=channel)


Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]


def _user(request: Request, credentials: HTTPAuthorizationCredentials | None, role: Role) -> User:
    """Return the user, who needs this role or one above it. Raises HTTPException (401, 403)."""
    user = _known(request, credentials)
    require(user, role)
    return user


def _known(request: Request, credentials: HTTPAuthorizationCredentials | None) -> User:
    surroundings: Surroundings = request.app.state.surroundings
    if credentials is not None:
        token = surroundings.ledger.tokens.find(credentials.credentials)
        if token is not None:
            request.state.owner = token.owner
            return User(
                token.owner,
                token.role,
                token.may_send_code,
                surroundings,
                credentials.credentials,
                token.id,
            )
    elif surroundings.is_open():
        return open_user(request)
    secret = None if credentials is None else credentials.credentials
    raise HTTPException(401, _no_token(request, surroundings, secret), {"WWW-Authenticate": "Bearer"})


def _no_token(request: Request, surroundings: Surroundings, secret: str | None) -> str:
    if surroundings.is_open():
        _refuse_proxies(request)
        return "Unknown token. This service needs no token yet: unset ANON_TUNE_TOKEN."
    expired = None if secret is None else surroundings.ledger.tokens.expired(secret)
    return about_expired(expired) if expired else f"Missing or unknown token. {_NEW_TOKEN}"


def about_expired(token: TokenRecord) -> str:
    """Return the message about a token that has expired."""
    return f"Your token {token.id} expired on {token.expires:%Y-%m-%d at %H:%M} UTC. {_NEW_TOKEN}"


def _refuse_proxies(request: Request) -> None:
    """Raise HTTPException (403) for a request through a proxy, which hides that it comes from another machine.

    nginx, as it comes, adds no header, but speaks HTTP/1.0.
    """
    names = (name for name in request.headers if name in _FORWARDED or name.startswith(_FORWARDED_PREFIXES))
    sign = next((f"header {name}" for name in names), None)
    if sign is None and request.scope["http_version"] == "1.0":
        sign = "HTTP/1.0"
    if sign is not None:
        raise HTTPException(
            403,
            f"This request came through a proxy ({sign}), and without tokens the service only answers users of its "
            "own machine. To publish it, create a token there: anon-tune token create NAME --role admin. On that "
            "machine, connect without the proxy: add 127.0.0.1 to NO_PROXY.",
        )


def _refuse_other_pages(request: Request) -> None:
    """Raise HTTPException (403) for a web page of another origin, which reaches loopback through a browser.

    Such a page names its origin. With DNS rebinding the host is the page's own name.
    """
    if len(request.headers.getlist("host")) != 1:
        raise HTTPException(
            403, "Without tokens the service only answers requests with exactly one Host header."
        )
    if not _is_loopback(request.url.hostname or ""):
        raise HTTPException(
            403, "Without tokens the service only answers on an address of this machine. Use 127.0.0.1."
        )
    origin = request.headers.get("origin")
    if origin is not None and _host(origin) != request.headers.get("host"):
        raise HTTPException(403, "A web page of another origin may not use this service.")


def _host(origin: str) -> str:
    """Return the host and port of an origin; nothing if it is not an address: a header may hold any text."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


# Each route has one of these, not several on top of one another: each is a turn in another thread.


def _reader(request: Request, credentials: Credentials) -> User:
    return _user(request, credentials, Role.READ)


def _submitter(request: Request, credentials: Credentials) -> User:
    return _user(request, credentials, Role.SUBMIT)


def _admin(request: Request, credentials: Credentials) -> User:
    return _user(request, credentials, Role.ADMIN)


def _sender(request: Request, credentials: Credentials) -> User:
    user = _user(request, credentials, Role.SUBMIT)
    user.check_may_send_code()
    return user


def _owner(job_id: JobId, request: Request, credentials: Credentials) -> User:
    user = _user(request, credentials, Role.SUBMIT)
    user.check_may_change(job_id)
    return user


def _watcher(job_id: JobId, request: Request, credentials: Credentials) -> User:
    user = _user(request, credentials, Role.READ)
    user.surroundings.ledger.jobs.get(job_id)  # no status can be sent once events have begun
    return user


Reader = Annotated[User, Depends(_reader)]
Submitter = Annotated[User, Depends(_submitter)]
Admin = Annotated[User, Depends(_admin)]
Sender = Annotated[User, Depends(_sender)]
"""A user who may send code."""
Owner = Annotated[User, Depends(_owner)]
"""A user who may change the job."""
Watcher = Annotated[User, Depends(_watcher)]
"""A user who may watch the job, which exists."""
