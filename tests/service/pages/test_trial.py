"""The page of a trial, without a browser."""

from __future__ import annotations

import httpx2
import pytest

from anon_tune.ledger import Ledger
from anon_tune.records import NewTrial, Phase
from anon_tune.service.pages import job_parts
from tests.service.conftest import Serve
from tests.service.pages.test_job import submit


def test_a_long_curve_and_the_last_report_reach_the_end(
    serve: Serve, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_parts, "_CURVE_POINTS", 3)
    job = submit(ledger)
    lease = ledger.leases.acquire(job, "worker", 3600.0)
    trial = ledger.trials.add(lease, NewTrial("anon", Phase.SEARCH, 0, 0, {"gamma": 0.5}, {"gamma": 0.5})).id
    ledger.attempts.start(lease, trial)
    for step in range(1, 10):
        ledger.trials.report(lease, trial, 1, step, 1.0 / step, {"loss": 100.0 + step})
    text = httpx2.get(f"{serve()}/jobs/{job}/trials/{trial}", timeout=60).text
    assert "1 to 9 done" in text
    assert "Last report, after 9" in text
    assert "<dt>loss</dt><dd>109</dd>" in text
    assert text.count("<time") == 1, "times are not nested"
