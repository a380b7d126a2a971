"""Real processes of user code: what they send, how they end, and that nothing of them is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from anon_tune.workers.isolation.messages import Ended, Order, describe
from anon_tune.workers.isolation.process import IsolatedProcess, Keeper

PATIENCE = 30.0

SCRIPT = """
import json, os, signal, socket, subprocess, sys, threading

channel = socket.socket(socket.AF_UNIX)
channel.connect(os.environ["ANON_TUNE_CHANNEL"])
sleep = ["sleep", "1000"]
started = [subprocess.Popen(sleep), subprocess.Popen(sleep, start_new_session=True)]
orphan = (
    "import subprocess;"
    "print(subprocess.Popen(['sleep', '1000'], start_new_session=True, stdout=-3, stderr=-3).pid)"
)
pids = [os.getpid(), *(each.pid for each in started)]
if "orphan" in sys.argv:
    pids.append(int(subprocess.run([sys.executable, "-c", orphan], capture_output=True).stdout))
channel.sendall(json.dumps(pids).encode() + b"\\n")
answer = channel.recv(1000)
print("told", answer.decode(), flush=True)
exec(answer.decode())
"""

FUNCTION = """
import os, socket, sys

import anon_tune

def main():
    main_file = sys.modules["__main__"].__dict__.get("__file__")
    seen = [hasattr(anon_tune, "mark"), "MARK" in os.environ, os.getcwd(), main_file]
    anon_tune.mark = os.environ["MARK"] = "set"
    os.chdir("/")
    channel = socket.socket(socket.AF_UNIX)
    channel.connect(os.environ["ANON_TUNE_CHANNEL"])
    channel.sendall(repr(seen).encode() + b"\\n")
    sys.exit("no data here")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path


def start(keeper: Keeper, folder: Path, *arguments: str) -> tuple[IsolatedProcess, list[psutil.Process]]:
    """A script that has said which processes it has started, itself the first."""
    command = [sys.executable, "script.py", *arguments]
    process = keeper.start(Order(str(folder), str(folder / "output"), command=command))
    line = process.receive()
    assert isinstance(line, bytes)
    return process, [psutil.Process(pid) for pid in json.loads(line)]


def end(process: IsolatedProcess) -> Ended:
    found = process.receive()
    assert isinstance(found, Ended)
    return found


def gone(processes: list[psutil.Process]) -> bool:
    """Whether all end, each of which somebody kills; orphans are waited for by nobody here."""
    return psutil.wait_procs(processes, timeout=PATIENCE)[1] == []


@pytest.mark.parametrize(
    ("action", "how"),
    [
        ("sys.exit(0)", "exit code 0"),
        ("sys.exit(3)", "exit code 3"),
        ("raise ValueError('bad')", "exit code 1"),
        ("os._exit(0)", "exit code 0"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV (Segmentation fault)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL (Killed)"),
        ("os.abort()", "SIGABRT (Aborted)"),
    ],
)
def test_how_a_process_ended_and_nothing_of_it_is_left(keeper: Keeper, folder: Path, action: str, how: str):
    process, started = start(keeper, folder, "orphan")
    process.reply(action.encode())
    ended = end(process)
    assert describe(ended.status) == how
    assert ended.left == len(started) - 1
    assert gone(started)
    assert f"told {action}" in (folder / "output").read_text()


def test_a_stopped_process_ends_with_all_it_has_started(keeper: Keeper, folder: Path):
    process, started = start(keeper, folder, "orphan")
    assert describe(process.stop(0.0).status) == "SIGKILL (Killed)"
    assert gone(started)


def test_a_process_may_clean_up_on_sigterm(keeper: Keeper, folder: Path):
    process, started = start(keeper, folder)
    handler = "signal.signal(signal.SIGTERM, lambda *_: (print('cleaned', flush=True), os._exit(7)))"
    process.reply(f"{handler}\nchannel.sendall(b'ready\\n'); signal.pause()".encode())
    assert process.receive() == b"ready"
    assert describe(process.stop(PATIENCE).status) == "exit code 7"
    assert "cleaned" in (folder / "output").read_text()
    assert gone(started)


def test_a_process_that_ignores_sigterm_is_killed(keeper: Keeper, folder: Path):
    process, started = start(keeper, folder)
    process.reply(
        b"signal.signal(signal.SIGTERM, signal.SIG_IGN); channel.sendall(b'ready\\n'); threading.Event().wait()"
    )
    assert process.receive() == b"ready"
    assert describe(process.stop(0.05).status) == "SIGKILL (Killed)"
    assert gone(started)


def test_ctrl_c_can_reach_a_process(keeper: Keeper, folder: Path):
    process, _ = start(keeper, folder)
    process.reply(b"os.kill(os.getpid(), signal.SIGINT); threading.Event().wait()")
    assert describe(end(process).status) == "SIGINT (Interrupt)"


def test_a_program_that_does_not_exist_says_so(keeper: Keeper, folder: Path):
    process = keeper.start(Order(str(folder), str(folder / "output"), command=["no-such-program"]))
    assert end(process).status != 0
    assert "no-such-program" in (folder / "output").read_text()


def test_two_functions_share_nothing(keeper: Keeper, folder: Path):
    (folder / "mine.py").write_text(FUNCTION)
    for _ in range(2):
        order = Order(str(folder), str(folder / "output"), module="mine")
        process = keeper.start(order)
        assert process.receive() == repr([False, False, str(folder), None]).encode()
        assert describe(end(process).status) == "exit code 1"
    assert "no data here" in (folder / "output").read_text()


def test_after_a_kill_of_the_guard_nothing_is_left(folder: Path):
    with Keeper() as keeper:
        process, started = start(keeper, folder)
        os.kill(started[0].ppid(), signal.SIGKILL)
        assert describe(end(process).status) == "SIGKILL (Killed)"
        assert gone(started)
        process, started = start(keeper, folder)  # by another keeper
        process.reply(b"sys.exit(0)")
        assert describe(end(process).status) == "exit code 0"


def test_after_a_kill_of_the_keeper_another_takes_over(folder: Path):
    with Keeper() as keeper:
        process, started = start(keeper, folder)
        keeper_process = psutil.Process(started[0].ppid()).parents()[0]
        keeper_process.kill()
        process.reply(b"sys.exit(0)")
        assert describe(end(process).status) == "exit code 0"
        process, started = start(keeper, folder)
        process.stop(0.0)
    assert gone(started)


def test_after_a_kill_of_who_asked_nothing_is_left(folder: Path):
    asks = (
        "import sys; from pathlib import Path; from anon_tune.workers.isolation.process import *\n"
        "from anon_tune.workers.isolation.messages import Order\n"
        f"order = Order({str(folder)!r}, {str(folder / 'output')!r}, command=[sys.executable, 'script.py'])\n"
        "keeper = Keeper(); process = keeper.start(order)\n"
        "print(process.receive().decode(), flush=True); process.receive()"
    )
    with subprocess.Popen([sys.executable, "-c", asks], stdout=subprocess.PIPE, text=True) as asking:
        assert asking.stdout is not None
        started = [psutil.Process(pid) for pid in json.loads(asking.stdout.readline())]
        guard = psutil.Process(started[0].ppid())
        started += [guard, psutil.Process(guard.ppid())]
        asking.kill()
        assert gone(started)
