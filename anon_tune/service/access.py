"""Who asks, and what they may: bearer tokens and roles.

A service on a loopback address whose ledger never had a token is open: whoever is at the machine may do everything.
Any other asks for a token with each request, but for its health.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, HTTPException, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from anon_tune.ledger import Ledger
from anon_tune.local import LocalBackend
from anon_tune.records import Role
from anon_tune.settings import Settings

__all__ = ["Admin", "Reader", "Submitter", "Surroundings", "User"]

_RANKS = {role: rank for rank, role in enumerate(Role)}
_BEARER = HTTPBearer(
    auto_error=False,
    description="A token of `anon-tune token create`. On a loopback address without tokens: none.",
)


@dataclass(frozen=True)
class Surroundings:
    """What an instance of the service works with; `app.state.surroundings`. It holds nothing that changes.

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

    @property
    def backend(self) -> LocalBackend:
        """The jobs, as this user sees them."""
        return LocalBackend(self.surroundings.ledger, self.surroundings.settings, self.owner)

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
        owner = self.surroundings.ledger.job(job_id).owner
        if self.role is not Role.ADMIN and owner != self.owner:
            raise HTTPException(403, f"Job {job_id} belongs to {owner or 'nobody'}; ask them, or an admin.")


def _user(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]
) -> User:
    surroundings: Surroundings = request.app.state.surroundings
    if credentials is not None:
        token = surroundings.ledger.tokens.find(credentials.credentials)
        if token is not None:
            request.state.owner = token.owner
            return User(token.owner, token.role, token.may_send_code, surroundings)
    elif surroundings.on_loopback and not surroundings.ledger.tokens.ever_existed():
        _refuse_other_pages(request)
        return User(None, Role.ADMIN, True, surroundings)
    raise HTTPException(
        401,
        "A token is needed, and this is none that is known. An admin makes one: anon-tune token create NAME",
        {"WWW-Authenticate": "Bearer"},
    )


def _refuse_other_pages(request: Request) -> None:
    """A page of the internet in a browser of this machine reaches loopback too, and names its origin."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise HTTPException(403, "This page is of another origin, and may not use the service.")


class _Needs:
    """The user, who must have a role, or one above it."""

    def __init__(self, role: Role) -> None:
        self._role = role

    def __call__(self, user: Annotated[User, Depends(_user)]) -> User:
        if _RANKS[user.role] < _RANKS[self._role]:
            raise HTTPException(403, f"This takes a token with the role {self._role}; yours has {user.role}.")
        return user


Reader = Annotated[User, Depends(_Needs(Role.READ))]
Submitter = Annotated[User, Depends(_Needs(Role.SUBMIT))]
Admin = Annotated[User, Depends(_Needs(Role.ADMIN))]
