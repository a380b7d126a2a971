"""The audit: who did what, and when."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AwareDatetime

from anon_tune.records import AuditQuery
from anon_tune.service.access import Admin
from anon_tune.service.problems import responses
from anon_tune.service.schemas import AuditPage

__all__ = ["router"]

router = APIRouter(prefix="/audit", tags=["audit"])


@router.get("", responses=responses())
def audit(
    user: Admin,
    job: Annotated[str | None, Query(max_length=32, description="Only actions on this job.")] = None,
    owner: Annotated[str | None, Query(max_length=64, description="Only actions of this user.")] = None,
    since: Annotated[AwareDatetime | None, Query(description="Only actions from this time on.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Items per page.")] = 100,
    after: Annotated[int | None, Query(ge=1, lt=2**31, description="`next` of the previous page.")] = None,
) -> AuditPage:
    """List what users did with jobs and tokens, newest first."""
    found = user.jobs.audit_page(AuditQuery(job, owner, since, limit + 1, after))
    return AuditPage(items=found[:limit], next=str(found[limit - 1].id) if len(found) > limit else None)
