"""The live view of a job: outside a terminal, the notes of the check-up."""

from __future__ import annotations

import io
import threading
from pathlib import Path

from rich.console import Console

from anon_tune import display
from anon_tune.jobs.ledger import LedgerJobs
from anon_tune.ledger import Ledger
from anon_tune.settings import Settings
from tests import builders


def test_notes_are_printed_where_no_table_can_be_drawn(tmp_path: Path):
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    job = ledger.jobs.create("x", builders.spec().model_dump(mode="json"), {}).id
    lease = ledger.leases.acquire(job, "me", 60.0)
    ledger.jobs.update(lease, probe={"notes": ["no optimizer trains head.weight"]})
    written = io.StringIO()
    jobs = LedgerJobs(ledger, Settings(home=tmp_path))
    display._print_notes(jobs, job, Console(file=written), threading.Event())
    ledger.close()
    assert written.getvalue() == "  Note: no optimizer trains head.weight.\n"
