"""Links to a service's pages that sign a browser in."""

from __future__ import annotations

from urllib.parse import urlencode

from anon_tune.ledger import Ledger

__all__ = ["link_path"]

_SECONDS = 600.0


def link_path(ledger: Ledger, token_id: str, next: str = "/") -> str:
    """Return the path of a link that signs in once, within ten minutes, as the user of a token.

    Args:
        ledger: Ledger of the service.
        token_id: Id of the token.
        next: Path of the page that the link leads to.
    """
    query = {"link": ledger.sessions.link(token_id, _SECONDS)}
    if next != "/":
        query["next"] = next
    return f"/sign-in?{urlencode(query)}"
