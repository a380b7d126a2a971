"""The processes that a daemon has jobs run in."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from anon_tune.ledger import Lease
from anon_tune.workers.queue import processes as processes_module
from anon_tune.workers.queue.processes import JobProcesses

_PATIENCE = 60.0

# Writes down what it was told.
TELLS = """
import sys
from anon_tune.workers.queue.processes import receive_lease
lease = receive_lease()
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
    assert processes._kept is not None
    return processes._kept.pid


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
        assert processes._kept is None
    assert "ended (exit code 7)" in caplog.text


def until_ready(processes: JobProcesses) -> None:
    limit = time.monotonic() + _PATIENCE
    while processes.is_preparing():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_one_gets_ready_before_it_is_told(said: Path):
    processes = JobProcesses(command(said))
    assert not processes.is_preparing(), "there is none"
    assert processes.lacks_one
    processes.prepare()
    assert processes.is_preparing()
    assert not processes.lacks_one
    until_ready(processes)
    assert processes.start(LEASE).wait(_PATIENCE) == 0
    assert said.read_text() == "j1 3 me"
    assert not processes.is_preparing()


def test_none_is_kept_ready_where_that_is_not_wanted(said: Path):
    processes = JobProcesses(command(said), keep_ready=False)
    assert not processes.lacks_one
    processes.prepare()
    assert processes._kept is None
    assert processes.start(LEASE).wait(_PATIENCE) == 0
    assert said.read_text() == "j1 3 me"


def test_one_that_was_ready_and_ended_is_replaced(said: Path):
    processes = JobProcesses(command(said))
    processes.prepare()
    until_ready(processes)
    first = psutil.Process(ready(processes))
    first.kill()
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
    assert processes.lacks_one
    processes.prepare()
    assert ready(processes) != first.pid
    processes.close()


def test_what_else_a_process_prints_is_no_readiness(said: Path):
    processes = JobProcesses([*command(said)[:2], "print('loading', flush=True)\n" + TELLS, str(said)])
    processes.prepare()
    until_ready(processes)
    assert processes._said == b"loading\nready\n"
    processes.close()
    assert said.read_text() == "nothing"


def test_one_that_does_not_end_with_close_is_killed_with_what_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(processes_module, "_CLOSE_SECONDS", 0.1)
    code = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "os.write(1, f'{child.pid}\\n'.encode() + b'ready\\n')\n"
        "time.sleep(600)\n"
    )
    processes = JobProcesses([sys.executable, "-c", code])
    processes.prepare()
    until_ready(processes)
    child = psutil.Process(int(processes._said.split()[0]))
    processes.close()
    psutil.wait_procs([child], timeout=_PATIENCE)
    assert not child.is_running()


def test_one_that_does_not_get_ready_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(processes_module, "_LOAD_SECONDS", -1.0)
    processes = JobProcesses([sys.executable, "-c", "import time; time.sleep(600)"])
    processes.prepare()
    hung = psutil.Process(ready(processes))
    assert not processes.is_preparing(), "jobs are taken again"
    assert not hung.is_running()
    processes.prepare()
    assert processes._kept is None


def test_whether_a_process_is_told_is_known_before_it_reads():
    code = (
        "import sys\n"
        "from anon_tune.workers.queue.processes import is_assigned\n"
        "print(is_assigned(), flush=True)\n"
        "sys.stdin.read()\n"
        "print(is_assigned())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "False\n"
        assert process.communicate()[0] == "True\n", "the end of its input is news, too"
    ours, theirs = os.pipe()
    os.write(theirs, b"{}")
    with os.fdopen(ours) as stdin, os.fdopen(theirs):
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=stdin, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
    process.communicate()


def test_the_end_of_the_daemon_ends_what_it_kept_ready(said: Path):
    daemon = f"""
import time
from anon_tune.workers.queue.processes import JobProcesses
processes = JobProcesses({command(said)!r})
processes.prepare()
while processes.is_preparing():
    time.sleep(0.02)
print("ready", flush=True)
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
