"""Links that sign a browser in."""

from __future__ import annotations

from fastapi import APIRouter

from anon_tune.jobs.links import link_path
from anon_tune.service.access import Reader
from anon_tune.service.problems import responses
from anon_tune.service.schemas import Link
from anon_tune.views import LinkView

__all__ = ["router"]

router = APIRouter(prefix="/sign-in-links", tags=["sessions"])


@router.post("", status_code=201, responses=responses(400))
def create(body: Link, user: Reader) -> LinkView:
    """Create a link that signs a browser in once as the user of the token, within ten minutes.

    A service that needs no token yet returns the path of the page itself.
    """
    if user.token_id is None:
        return LinkView(path=body.next)
    return LinkView(path=link_path(user.surroundings.ledger, user.token_id, body.next))
