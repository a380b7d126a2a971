"""The button that deletes a job, without a browser."""

from __future__ import annotations

import httpx2

from anon_tune.ledger import Ledger
from tests.service.conftest import Serve
from tests.service.pages.test_job import submit

HTMX = {"HX-Request": "true"}


def test_a_job_is_deleted_after_a_question(serve: Serve, ledger: Ledger):
    with httpx2.Client(base_url=serve(), headers=HTMX, timeout=120) as http:
        job = submit(ledger)
        page = http.get(f"/jobs/{job}").text
        assert f"Delete job {job} (" in page
        assert "will no longer count as evidence for advice" in page
        lease = ledger.leases.acquire(job, "worker", 3600.0)
        assert "/delete" not in http.get(f"/jobs/{job}").text
        refused = http.post(f"/jobs/{job}/delete")
        assert "is RUNNING and was not deleted" in refused.text
        ledger.jobs.cancel(job)
        ledger.leases.release(lease, ledger.jobs.get(job).state.CANCELLED)
        assert http.post(f"/jobs/{job}/delete").headers["HX-Redirect"] == "/"
        assert ledger.overviews.jobs() == []
