"""The guard: parent of one process of user code. It ends that process and everything that it has started.

Programs start processes in process groups and sessions of their own (torchrun, a DataLoader's workers, daemons). The
guard is their subreaper (prctl(2)): a process that loses its parent becomes the guard's child. So the guard finds all
of them. It kills them when the process has ended, on request, and when the supervisor has gone.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
import types
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import psutil

from anon_tune.workers.isolation.messages import Ended, Order, Started, Stop, read_lines, send

__all__ = ["guard"]

_LOOK_MILLISECONDS = 20
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_COULD_NOT_START = 127
_FORKED_ANEW = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ)


def guard(order: Order, control: socket.socket) -> NoReturn:
    """Start a process, wait for its end, end what it has left, and exit. Runs in a fork of the keeper.

    Args:
        order: The process to start.
        control: Connection to the supervisor, which gets Started and Ended and may send Stop. When the supervisor
            closes it, the process ends at once.
    """
    os.setsid()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    own = os.getpid()
    child = os.fork()
    if child == 0:
        control.close()
        _become(order, own)
    with suppress(OSError):
        send(control, Started(child))
    status = _wait(child, control)
    left = _end_all()
    with suppress(OSError):
        send(control, Ended(status, left))
    os._exit(0)


def _wait(child: int, control: socket.socket) -> int:
    """Wait for the end of the child, or end it on request; return its status."""
    poll = select.poll()
    poll.register(control, select.POLLIN)
    buffer = bytearray()
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        if poll.poll(_LOOK_MILLISECONDS):
            lines = read_lines(control, buffer)
            if lines is None:
                return _kill(child)
            for line in lines:
                _terminate(child, Stop(**json.loads(line)).grace)
                return _kill(child)


def _terminate(child: int, grace: float) -> None:
    """Send SIGTERM to all processes, and wait for `grace` seconds."""
    limit = time.monotonic() + grace
    if grace > 0:
        for process in _descendants():
            with suppress(psutil.Error):
                process.terminate()
    while time.monotonic() < limit and _runs(child):
        time.sleep(_LOOK_MILLISECONDS / 1000)


def _runs(child: int) -> bool:
    """Return whether the child is running, without reaping it."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def _kill(child: int) -> int:
    """Kill the child if it is running, and return its status."""
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def _end_all() -> int:
    """Kill everything that the process has left, and return how many there were."""
    killed: set[int] = set()
    while found := _descendants():
        for process in found:
            # Suspended first: otherwise a process could fork faster than it is killed.
            with suppress(psutil.Error):
                (process.kill if process.pid in killed else process.suspend)()
            killed.add(process.pid)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    return len(killed)


def _descendants() -> list[psutil.Process]:
    """Return all processes below this one that have not ended."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _become(order: Order, parent: int) -> NoReturn:
    """Turn this process into the one that was ordered."""
    try:
        os.setsid()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(_COULD_NOT_START)
        for number in _FORKED_ANEW:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        _redirect(order.output)
        os.chdir(order.folder)
        os.environ.update(order.environment)
        if order.command is not None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            _execute(order.command)
        code = _run(str(order.module))
    except BaseException as error:  # noqa: BLE001 - this process must end here
        with suppress(Exception):
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)  # noqa: T201 - the trial's log
        code = _COULD_NOT_START
    os._exit(code)


def _execute(command: Sequence[str]) -> NoReturn:
    """Replace this process by a program. Raises OSError with its name if it cannot be run."""
    try:
        os.execvp(command[0], list(command))
    except OSError as error:
        raise OSError(error.errno, error.strerror, command[0]) from None


def _run(module: str) -> int:
    """Call a module's `main` as `python -m` would, and return the exit code."""
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    sys.argv[:] = [""]
    sys.path.insert(0, str(Path.cwd()))
    try:
        importlib.import_module(module).main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if code and error.code != code:
            print(error.code, file=sys.stderr)  # noqa: T201 - as Python does
    except BaseException:  # noqa: BLE001 - as above
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    return code


def _redirect(path: str) -> None:
    """Append standard output and error to a file, and leave standard input empty."""
    with suppress(ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    target = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, source in ((0, nothing), (1, target), (2, target)):
        os.dup2(source, number)
    os.close(target)
    os.close(nothing)


def _prctl(option: int, value: int) -> None:
    """Set an attribute of this process; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, int(value), 0, 0, 0)
