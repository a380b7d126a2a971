"""Tokens of the service's users."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from anon_tune.service.access import Admin
from anon_tune.service.problems import responses
from anon_tune.service.schemas import NewToken, SecretToken
from anon_tune.views import TokenView

__all__ = ["router"]

router = APIRouter(prefix="/tokens", tags=["tokens"])


@router.post("", status_code=201, responses=responses(400))
def create(body: NewToken, user: Admin) -> SecretToken:
    """Create a token; its secret is shown only once."""
    token, secret = user.jobs.create_token(
        body.owner, body.role, may_send_code=body.may_send_code, expires=body.expires_in
    )
    return SecretToken(**token.model_dump(), secret=secret)


@router.get("", responses=responses())
def tokens(user: Admin) -> list[TokenView]:
    """List all tokens, the oldest first."""
    return user.jobs.tokens()


@router.delete("/{token_id}", responses=responses(404))
def revoke(token_id: Annotated[str, Path(max_length=16)], user: Admin) -> TokenView:
    """Revoke a token."""
    return user.jobs.revoke_token(token_id)
