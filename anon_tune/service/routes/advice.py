"""Advice: a gamma for an architecture, before any training."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from anon_tune.advice.statement import Advice, Fingerprint
from anon_tune.catalogue import FAMILIES
from anon_tune.service.access import Reader
from anon_tune.service.problems import responses
from anon_tune.service.schemas import Model

__all__ = ["router"]

router = APIRouter(prefix="/advice", tags=["advice"])


@router.get("", responses=responses())
def advice(user: Reader, family: Annotated[str, Query(max_length=32, examples=list(FAMILIES))]) -> Advice:
    """Suggest a gamma for an architecture family, from finished jobs, shipped searches and published guidance."""
    return user.jobs.advice(Fingerprint(family=family))


@router.post("", responses=responses(400))
def advice_on_model(body: Model, user: Reader) -> Advice:
    """Suggest a gamma for a model and, given its gradient scale, an optimizer to start from. Stores nothing."""
    return user.jobs.advice(body.architecture, body.log_mean_sigma)
