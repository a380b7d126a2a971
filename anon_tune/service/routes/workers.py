"""Workers: the processes that work on jobs."""

from __future__ import annotations

from fastapi import APIRouter

from anon_tune.service.access import Reader
from anon_tune.service.problems import responses
from anon_tune.views import WorkerView

__all__ = ["router"]

router = APIRouter(prefix="/workers", tags=["workers"])


@router.get("", responses=responses())
def workers(user: Reader) -> list[WorkerView]:
    """List the processes that work on jobs, the longest running first; lost ones for a day."""
    return user.jobs.workers()
