"""The rows of the list of jobs, which are only sent when they have changed; without a browser."""

from __future__ import annotations

import datetime

import httpx2
import sqlalchemy as sa

from anon_tune.ledger import Ledger
from anon_tune.ledger.tables import JOBS
from tests.service.conftest import Serve
from tests.service.pages.test_job import submit


def test_rows_are_only_sent_when_they_have_changed(serve: Serve, ledger: Ledger):
    job = submit(ledger)
    age = datetime.timedelta(days=1.5)  # which does not change in the test as that of a new job does
    with ledger._engine.begin() as connection:
        connection.execute(sa.update(JOBS).values(created=datetime.datetime.now(datetime.UTC) - age))
    with httpx2.Client(base_url=serve(), headers={"HX-Request": "true"}, timeout=120) as http:

        def rows(seen: str) -> httpx2.Response:
            return http.get("/rows", params={"sort": "name", "seen": seen})

        def digest(text: str) -> str:
            return text.split('name="seen" value="')[1].split('"')[0]

        seen = digest(rows("").text)
        again = rows(seen)
        assert (again.status_code, again.content) == (204, b"")
        ledger.jobs.pause(job)
        changed = rows(seen)
        assert "PAUSED" in changed.text
        assert digest(changed.text) != seen
