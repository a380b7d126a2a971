"""Advice: a gamma for an architecture, before spending anything."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from anon_tune.catalogue import FAMILIES
from anon_tune.service.access import Reader
from anon_tune.service.problems import responses

__all__ = ["router"]

router = APIRouter(prefix="/advice", tags=["advice"])


@router.get("", responses=responses())
def advice(
    user: Reader, family: Annotated[str, Query(max_length=32, examples=list(FAMILIES))]
) -> dict[str, Any]:
    """Suggest a gamma for an architecture family, from finished jobs or the published guidance."""
    return user.backend.advice(family)
