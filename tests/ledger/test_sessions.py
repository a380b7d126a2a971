"""Sessions of browsers in the ledger."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from anon_tune.ledger import Ledger
from anon_tune.records import Role

TOGETHER = 4


def test_of_many_who_follow_a_link_together_one_gets_a_session(database_url: str):
    ledger = Ledger.open(database_url)
    token, _ = ledger.tokens.create("ann", Role.READ)
    barrier = Barrier(TOGETHER)

    def follow(link: str) -> str | None:
        barrier.wait()
        return ledger.sessions.follow(link, 60.0)

    with ThreadPoolExecutor(TOGETHER) as threads:
        for _ in range(5):  # a race is not lost every time
            link = ledger.sessions.link(token.id, 60.0)
            found = [secret for secret in threads.map(follow, [link] * TOGETHER) if secret is not None]
            assert len(found) == 1
            assert ledger.sessions.find(found[0]) == token
            assert ledger.sessions.find(link) is None
    ledger.close()
