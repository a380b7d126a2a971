"""Who asks, and what they may: bearer tokens and roles.

A service on a loopback address whose ledger never had a token is open: whoever is at the machine may do everything.
Any other asks for a token with each request, but for its health.
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
from anon_tune.records import Role
from anon_tune.settings import Settings

__all__ = ["Admin", "JobId", "Owner", "Reader", "Sender", "Submitter", "Surroundings", "User", "Watcher"]

JobId = Annotated[str, Path(max_length=32, examples=["93gk79"])]

_RANKS = {role: rank for rank, role in enumerate(Role)}
_BEARER = HTTPBearer(
    auto_error=False,
    description="A token of `anon-tune token create`. On a loopback address without tokens: none.",
)


@dataclass(frozen=True)
class Surroundings:
    """Dependencies of an instance of the service; `app.state.surroundings`. It holds nothing that changes.

    Attributes:
        on_loopback: Whether only this machine reaches it.
    """

    ledger: Ledger
    settings: Settings
    on_loopback: bool


@dataclass(frozen=True)
class User:
    """Who asks.

    Attributes:
        owner: Whose token it is; None: whoever is at the machine.
        may_send_code: Whether their token allows it; the service must, too.
    """

    owner: str | None
    role: Role
    may_send_code: bool
    surroundings: Surroundings
    secret: str | None = field(default=None, repr=False)

    @property
    def jobs(self) -> LedgerJobs:
        """The jobs, as this user sees them."""
        return LedgerJobs(self.surroundings.ledger, self.surroundings.settings, self.owner)

    def is_known(self) -> bool:
        """Whether their token has not been revoked meanwhile."""
        return self.secret is None or self.surroundings.ledger.tokens.find(self.secret) is not None

    def check_may_send_code(self) -> None:
        """Raise HTTPException (403) where the service takes no code, or not from them."""
        if not self.surroundings.settings.allow_code:
            raise HTTPException(
                403, "This service takes no code (ANON_TUNE_ALLOW_CODE); have it installed there."
            )
        if not self.may_send_code:
            raise HTTPException(
                403, "This takes a token that may send code: anon-tune token create NAME --code"
            )

    def check_may_change(self, job_id: str) -> None:
        """Raise HTTPException (403) for a job of somebody else, and NotFoundError for none."""
        owner = self.surroundings.ledger.jobs.get(job_id).owner
        if self.role is not Role.ADMIN and owner != self.owner:
            raise HTTPException(403, f"Job {job_id} belongs to {owner or 'nobody'}; ask them, or an admin.")


Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]


def _user(request: Request, credentials: HTTPAuthorizationCredentials | None, role: Role) -> User:
    """Who asks; they must have a role, or one above it. Raises HTTPException (401, 403)."""
    user = _known(request, credentials)
    if _RANKS[user.role] < _RANKS[role]:
        raise HTTPException(403, f"This takes a token with the role {role}; yours has {user.role}.")
    return user


def _known(request: Request, credentials: HTTPAuthorizationCredentials | None) -> User:
    surroundings: Surroundings = request.app.state.surroundings
    if credentials is not None:
        token = surroundings.ledger.tokens.find(credentials.credentials)
        if token is not None:
            request.state.owner = token.owner
            return User(token.owner, token.role, token.may_send_code, surroundings, credentials.credentials)
    elif surroundings.on_loopback and not surroundings.ledger.tokens.ever_existed():
        _refuse_other_pages(request)
        return User(None, Role.ADMIN, True, surroundings)
    raise HTTPException(401, _no_token(surroundings), {"WWW-Authenticate": "Bearer"})


def _no_token(surroundings: Surroundings) -> str:
    if surroundings.on_loopback and not surroundings.ledger.tokens.ever_existed():
        return "This token is not known, and none is needed here yet: unset ANON_TUNE_TOKEN."
    return (
        "A token is needed, and this is none that is known. An admin makes one: anon-tune token create NAME"
    )


def _refuse_other_pages(request: Request) -> None:
    """A page of the internet in a browser of this machine reaches loopback too.

    It names its origin; or its own name was made to lead here (DNS rebinding), which is then the host's.
    """
    if not _is_loopback(request.url.hostname or ""):
        raise HTTPException(
            403, "Without tokens the service is asked by an address of this machine: 127.0.0.1"
        )
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise HTTPException(403, "This page is of another origin, and may not use the service.")


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
    user.surroundings.ledger.jobs.get(job_id)  # there is no status any more once events have begun
    return user


Reader = Annotated[User, Depends(_reader)]
Submitter = Annotated[User, Depends(_submitter)]
Admin = Annotated[User, Depends(_admin)]
Sender = Annotated[User, Depends(_sender)]
"""A user who may send code."""
Owner = Annotated[User, Depends(_owner)]
"""A user who may change the job."""
Watcher = Annotated[User, Depends(_watcher)]
"""A user who may look at the job, which is there."""
