"""Processor time of reads on a large ledger (sqlite): `python -m benchmarks.reads [--quick]`.

The ledger has a job of 20,000 trials with ten reports each, of which one attempt in a hundred failed with 4 kB of
output, and whose log has 50,000 lines; 2,000 jobs that have SUCCEEDED with an answer; and 1,000 queued jobs, each
with search spaces of 100 kB. Each read is made five times, and the median is printed.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from anon_tune.advice.summary import summarize
from anon_tune.jobs.ledger import LedgerJobs
from anon_tune.ledger import Ledger
from anon_tune.ledger.database import open_database, write
from anon_tune.ledger.tables import ATTEMPTS, JOBS, REPORTS, TRIALS
from anon_tune.records import JobState, Phase, TrialState
from anon_tune.search.policy import Plan
from anon_tune.settings import Settings
from anon_tune.spec import parse_spec, spaces_of
from anon_tune.workers.driver.job_run import JobRun

REPORTS_EACH = 10
LOG, LINES = "x" * 4000, 50_000
ROUNDS = 5
BEGAN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
SPEC = {
    "name": "digits-mlp",
    "task": "image_classification",
    "data": "digits",
    "model": "mlp",
    "arms": ["anon"],
    "budget": {"trials": 4, "epochs": REPORTS_EACH},
}


def a_job(job_id: str, number: int, **values: Any) -> dict[str, Any]:
    """Return the row of a job."""
    spec = parse_spec(SPEC)
    row = {
        "id": job_id,
        "name": job_id,
        "state": JobState.QUEUED,
        "phase": Phase.PROBE,
        "spec": spec.model_dump(mode="json"),
        "spaces": {arm: space.model_dump(mode="json") for arm, space in spaces_of(spec).items()},
        "created": BEGAN + datetime.timedelta(seconds=number),
        "lease_token": 0,
    }
    return {**row, **values}


def trials_of(job_id: str, count: int) -> tuple[list[dict[str, Any]], ...]:
    """Return the rows of a job's trials, attempts and reports."""
    trials, attempts, reports = [], [], []
    for number in range(count):
        moment = BEGAN + datetime.timedelta(seconds=number)
        trial = f"{job_id}-anon-s{number:05}"
        failed = number % 100 == 0
        params = {"gamma": number / count, "step_size": 0.1}
        trials.append(
            {
                "id": trial,
                "job_id": job_id,
                "arm": "anon",
                "phase": Phase.SEARCH,
                "number": number,
                "seed": number,
                "state": TrialState.FAILED if failed else TrialState.COMPLETE,
                "configuration": str(number),
                "params": params,
                "hyperparameters": {**params, "lr": 0.1, "betas": [0.9, 0.999, 0.5], "delay": 2.0},
                "value": None if failed else abs(number - 77.0),
                "steps": REPORTS_EACH,
                "seconds": 1.0,
                "created": moment,
                "started": moment,
                "finished": moment,
            }
        )
        outcome = "FAILED" if failed else "COMPLETE"
        log = LOG if failed else None
        attempts.append(
            {
                "trial_id": trial,
                "number": 1,
                "started": moment,
                "finished": moment,
                "outcome": outcome,
                "log": log,
            }
        )
        reports += [
            {
                "trial_id": trial,
                "step": step,
                "attempt": 1,
                "value": 1.0 / step,
                "metrics": {"loss": 1.0 / step, "test_loss": 1.0 / step, "epoch_seconds": 0.1},
                "time": moment,
            }
            for step in range(1, REPORTS_EACH + 1)
        ]
    return trials, attempts, reports


def answered_by(result: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of a job that has SUCCEEDED with an answer."""
    return {
        "state": JobState.SUCCEEDED,
        "phase": Phase.VERDICT,
        "architecture": {"family": "mlp", "parameters": 9},
        "result": result,
        "started": BEGAN,
        "finished": BEGAN,
    }


def plan() -> Plan:
    """Return the plan of the jobs."""
    spec = parse_spec(SPEC)
    return Plan(spec, spaces_of(spec), 0.0)


def fill(url: str, trials: int, answered: int, queued: int) -> None:
    """Store the jobs."""
    engine = open_database(url)
    rows = trials_of("large", trials)
    spaces = spaces_of(parse_spec(SPEC))
    wide = {"anon": {**spaces["anon"].model_dump(mode="json"), "summary": "x" * 100_000}}
    with write(engine) as connection:
        connection.execute(sa.insert(JOBS), [a_job("large", 0)])
        for table, of_table in zip((TRIALS, ATTEMPTS, REPORTS), rows, strict=True):
            connection.execute(sa.insert(table), of_table)
    ledger = Ledger(engine)
    result = summarize(plan(), list(ledger.jobs.get("large", trials=True).trials[:1000])).model_dump(
        mode="json"
    )
    with write(engine) as connection:
        for number in range(answered):
            job = a_job(f"answered{number}", number + 1, **answered_by(result))
            connection.execute(sa.insert(JOBS).values(job))
        for number in range(queued):
            connection.execute(sa.insert(JOBS).values(a_job(f"queued{number}", number + 10**6, spaces=wide)))
    ledger.close()


def reads(jobs: LedgerJobs, ledger: Ledger) -> dict[str, Callable[[], object]]:
    """Return the reads by name."""
    return {
        "logs": lambda: jobs.logs("large"),
        "logs, new lines": lambda: jobs.logs("large", since=LINES - 1),
        "advice": lambda: jobs.advice("mlp"),
        "list of 1,000 jobs": lambda: jobs.job_page(1000),
        "job": lambda: jobs.job("large"),
        "start of a driver": lambda: JobRun(
            ledger, ledger.leases.acquire("large", "me", -1.0), plan()
        ).close(),
    }


def measure(read: Callable[[], object]) -> float:
    """Return the median of the processor seconds that a read takes."""
    taken = []
    for _ in range(ROUNDS):
        began = time.process_time()
        read()
        taken.append(time.process_time() - began)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of all")
    share = 10 if parser.parse_args().quick else 1
    with tempfile.TemporaryDirectory(prefix="at") as folder:
        settings = Settings(home=Path(folder))
        url = f"sqlite:///{folder}/ledger.db"
        fill(url, 20_000 // share, 2000 // share, 1000 // share)
        log = settings.job_folder("large") / "job.log"
        log.parent.mkdir(parents=True)
        log.write_text("2026-01-01 12:00:00 INFO a line of the log\n" * LINES)
        ledger = Ledger.open(url)
        for name, read in reads(LedgerJobs(ledger, settings), ledger).items():
            print(f"{name:20} {1000 * measure(read):8.1f} ms")
        ledger.close()


if __name__ == "__main__":
    main()
