"""Code of jobs: off by default, and a separate permission."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Path, Response

from anon_tune.service.access import Sender
from anon_tune.service.problems import responses

__all__ = ["router"]

router = APIRouter(prefix="/code", tags=["code"])


@router.put("/{digest}", status_code=204, responses=responses(507))
def store(
    digest: Annotated[
        str, Path(pattern="^[0-9a-f]{64}$", description="SHA-256 of the archive, in hexadecimal.")
    ],
    archive: Annotated[bytes, Body(media_type="application/zip")],
    user: Sender,
) -> Response:
    """Store a zip of code for jobs to be submitted. Storing it again changes nothing."""
    user.jobs.store_code(digest, archive)
    return Response(status_code=204)
