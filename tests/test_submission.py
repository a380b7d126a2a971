"""Jobs that a new one is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anon_tune.ledger import Ledger
from anon_tune.settings import Settings
from anon_tune.spec import JobSpec
from anon_tune.submission import measured_like
from tests import builders


def own_training(**budget: int) -> JobSpec:
    keys: dict[str, Any] = {"task": "train:train", "folder": "/x", "data": None, "model": None}
    return builders.spec(budget={"trials": 4, **budget}, **keys)


def test_a_job_that_counts_in_epochs_says_nothing_of_one_that_counts_in_steps(tmp_path: Path):
    ledger = Ledger.open(Settings(home=tmp_path).ledger_url)
    spec = own_training(steps=2000)
    job = ledger.jobs.create("a job", spec.model_dump(mode="json"), {}).id
    ledger.jobs.update(ledger.leases.acquire(job, "me", 60.0), probe={"seconds_per_step": 0.02})
    found = measured_like(ledger, own_training(steps=500))
    assert found is not None
    assert found.id == job
    assert measured_like(ledger, own_training(epochs=5)) is None
    ledger.close()
