"""The processes that a daemon has jobs run in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from anon_tune.ledger import Lease
from anon_tune.workers.processes import JobProcesses

_PATIENCE = 60.0

# Says what it was told, and that it is ready before.
TELLS = """
import sys
from anon_tune.workers.processes import told
print("ready", flush=True)
lease = told(sys.stdin)
open(sys.argv[1], "w").write("nothing" if lease is None else f"{lease.job} {lease.token} {lease.holder}")
"""
LEASE = Lease("j1", "me", 3, 15.0)


@pytest.fixture
def said(tmp_path: Path) -> Path:
    return tmp_path / "said"


def command(said: Path) -> list[str]:
    return [sys.executable, "-c", TELLS, str(said)]


def ready(processes: JobProcesses) -> int:
    """The process that is kept ready."""
    assert processes._ready is not None
    return processes._ready.pid


@pytest.mark.parametrize("prepared", [True, False])
def test_a_process_is_told_its_job(said: Path, prepared: bool):
    processes = JobProcesses(command(said))
    if prepared:
        processes.prepare()
        kept = ready(processes)
        processes.prepare()
        assert ready(processes) == kept, "one is enough"
    process = processes.start(LEASE)
    assert not prepared or process.pid == kept
    assert process.wait(_PATIENCE) == 0
    assert said.read_text() == "j1 3 me"
    processes.close()
    assert said.read_text() == "j1 3 me", "what has a job is not touched"


def test_one_that_ended_is_not_used_and_not_kept_ready_again(said: Path, caplog: pytest.LogCaptureFixture):
    processes = JobProcesses([sys.executable, "-c", "raise SystemExit(7)"])
    processes.prepare()
    os.waitid(os.P_PID, ready(processes), os.WEXITED | os.WNOWAIT)
    processes._command = command(said)
    process = processes.start(LEASE)
    assert process.wait(_PATIENCE) == 0
    assert said.read_text() == "j1 3 me"

    processes._command = [sys.executable, "-c", "raise SystemExit(7)"]
    processes.prepare()
    os.waitid(os.P_PID, ready(processes), os.WEXITED | os.WNOWAIT)
    for _ in range(2):
        processes.prepare()
        assert processes._ready is None
    assert "ended (exit code 7)" in caplog.text


def test_the_end_of_the_daemon_ends_what_it_kept_ready(said: Path):
    daemon = f"""
import time
from anon_tune.workers.processes import JobProcesses
JobProcesses({command(said)!r}).prepare()
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", daemon], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        (child,) = psutil.Process(process.pid).children()
        process.kill()
        child.wait(_PATIENCE)
    assert said.read_text() == "nothing"


def test_what_is_ready_ends_with_close(said: Path):
    processes = JobProcesses(command(said))
    processes.prepare()
    process = psutil.Process(ready(processes))
    processes.close()
    assert not process.is_running()
