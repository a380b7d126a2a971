"""The files that pages load."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Response

from anon_tune.dashboards.pages import static_file
from anon_tune.dashboards.pages.static import PREFIX

__all__ = ["router"]

_FOR_EVER = "public, max-age=31536000, immutable"

router = APIRouter(include_in_schema=False)


@router.get(f"{PREFIX}/{{digest}}/{{name}}")
def static(digest: str, name: str) -> Response:
    """Send a file, compressed. Its address holds a digest of its content, so it may be kept for ever."""
    found = static_file(name)
    if found is None or found.digest != digest:
        raise HTTPException(404, f"There is no file {name} of this version. Load the page again.")
    headers = {"Cache-Control": _FOR_EVER, "Content-Encoding": "gzip"}
    return Response(found.content, media_type=found.media_type, headers=headers)
