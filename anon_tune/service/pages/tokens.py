"""The page of tokens, for admins."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Path
from fastapi.responses import HTMLResponse

from anon_tune.dashboards.pages import render
from anon_tune.records import Role
from anon_tune.service.pages.session import PageAdmin
from anon_tune.views import TokenView

__all__ = ["router"]

router = APIRouter(prefix="/tokens", include_in_schema=False)


@router.get("", response_class=HTMLResponse)
def tokens(user: PageAdmin) -> str:
    """List all tokens, and offer to create one."""
    return _rendered("tokens.html", user)


@router.post("", response_class=HTMLResponse)
def create(
    user: PageAdmin,
    owner: Annotated[str, Form(max_length=64)] = "",
    role: Annotated[Role, Form()] = Role.SUBMIT,
    may_send_code: Annotated[bool, Form()] = False,
    expires: Annotated[str, Form(max_length=20)] = "",
) -> str:
    """Create a token; the part of the page that is returned shows its secret, once."""
    token, secret = user.user.jobs.create_token(
        owner, role, may_send_code=may_send_code, expires=expires.strip() or None
    )
    return _rendered("tokens_list.html", user, token, secret)


@router.post("/{token_id}/revoke", response_class=HTMLResponse)
def revoke(token_id: Annotated[str, Path(max_length=16)], user: PageAdmin) -> str:
    """Revoke a token."""
    return _rendered("tokens_list.html", user, user.user.jobs.revoke_token(token_id))


def _rendered(name: str, user: PageAdmin, changed: TokenView | None = None, secret: str | None = None) -> str:
    found = sorted(user.user.jobs.tokens(), key=lambda token: not token.is_valid)
    return render(
        name,
        user=user,
        page="Tokens",
        tokens=found,
        changed=changed,
        secret=secret,
        roles=list(Role),
        own=user.user.token_id,
        accepts_code=user.user.surroundings.settings.allow_code,
    )
