"""Failpoints: places in the code at which a process kills itself (SIGKILL) once, if a file with their name exists.

`sitecustomize` in every process of a benchmarked service calls `install`, which wraps functions of the package as
they are imported; the package has no code for it. The first process that reaches an armed point removes its file,
notes the time and dies.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from benchmarks.faults import hooks

__all__ = ["FOLDER", "POINTS", "arm", "fired", "install"]

FOLDER: Final = "ANON_TUNE_FAILPOINTS"
"""The environment variable with the folder of armed points."""

_FIRED = "fired"

POINTS: Final = {
    "start, not committed": "a new trial and its start are written, and their transaction is open",
    "start, committed": "a trial was started, and its worker does not know of it",
    "report, not committed": "a report is written, and its transaction is open",
    "report, committed": "a report is stored, and no process knows it",
    "report in confirm, committed": "the same in the confirm phase",
    "report in verdict, committed": "the same in the verdict phase",
    "end, not committed": "a trial's end is written, and its transaction is open",
    "end, committed": "a trial's end is stored, and no process knows it",
    "checkpoint, half written": "a checkpoint's temporary file is there in part",
    "checkpoint, not named": "a checkpoint is durable, and the ledger does not name it",
}
"""Points, and what is so there. The last two are in the worker, the others in the driver."""


def arm(folder: Path, point: str) -> None:
    """Make the next process that reaches `point` die there."""
    (folder / _FIRED).unlink(missing_ok=True)
    (folder / point).touch()


def fired(folder: Path) -> float | None:
    """Return when the armed point killed a process, in seconds since the epoch; None before that."""
    path = folder / _FIRED
    return float(path.read_text()) if path.exists() else None


def _reach(point: str) -> None:
    folder = Path(os.environ[FOLDER])
    try:
        (folder / point).unlink()  # one process alone can
    except FileNotFoundError:
        return
    temporary = folder / f"{_FIRED}.tmp"
    temporary.write_text(str(time.time()))
    temporary.replace(folder / _FIRED)
    os.kill(os.getpid(), signal.SIGKILL)


def install() -> None:
    """Wrap what the points are in, as it is imported."""
    hooks.install(_WRAPPED)


def _wrap_ledger(module: ModuleType) -> None:
    """The calls of a transaction note their points; it comes to them just before and after it is committed."""
    begin_write, called = module.write, threading.local()

    @contextmanager
    def write(*arguments: Any, **keys: Any) -> Iterator[Any]:
        called.points = []
        with begin_write(*arguments, **keys) as connection:
            yield connection
            for point in called.points:
                _reach(f"{point}, not committed")
        for point in called.points:
            _reach(f"{point}, committed")

    def note(owner: type, name: str, points: Callable[[str], list[str]]) -> None:
        method = getattr(owner, name)

        @functools.wraps(method)
        def wrapper(self: Any, lease: Any, trial: Any, *rest: Any, **keys: Any) -> Any:
            result = method(self, lease, trial, *rest, **keys)
            called.points += points(str(trial))
            return result

        setattr(owner, name, wrapper)

    def reported(trial: str) -> list[str]:
        phase = trial.rpartition("-")[2][0]  # as in JOB-ARM-c003
        return ["report", *{"c": ["report in confirm"], "v": ["report in verdict"]}.get(phase, [])]

    module.write = write  # type: ignore[attr-defined]
    importlib.import_module("anon_tune.ledger.transaction").write = write  # type: ignore[attr-defined]
    note(module.Attempts, "start", lambda _: ["start"])
    note(module.Trials, "report", reported)
    note(module.Trials, "finish", lambda _: ["end"])


def _wrap_checkpoints(module: ModuleType) -> None:
    write, save = module.write_durably, module.save

    @functools.wraps(write)
    def write_durably(path: Path, data: bytes | memoryview) -> None:
        if path.suffix == ".pt" and (Path(os.environ[FOLDER]) / "checkpoint, half written").exists():
            path.with_suffix(".tmp").write_bytes(bytes(data)[: len(data) // 2])
            _reach("checkpoint, half written")
        write(path, data)

    @functools.wraps(save)
    def save_and_die(*arguments: Any, **keys: Any) -> None:
        save(*arguments, **keys)
        _reach("checkpoint, not named")

    module.write_durably, module.save = write_durably, save_and_die  # type: ignore[attr-defined]


_WRAPPED: Final = {
    "anon_tune.ledger.ledger": _wrap_ledger,
    "anon_tune.workers.trial.checkpoints": _wrap_checkpoints,
}
