"""A recorder of what a ledger has confirmed to the processes of a service, for the history that `checker.py` reads.

`sitecustomize` in every process calls `install`. An operation of the ledger is recorded once its transaction is
committed, with the last time that the transaction has read from the database.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from benchmarks.faults import hooks

__all__ = ["HISTORY", "install"]

HISTORY: Final = "ANON_TUNE_FAULTS_HISTORY"
"""The environment variable with the file of the history."""

_TIMED = ("jobs", "leases", "transaction")
"""Modules of the ledger that read the database's time."""


def install() -> None:
    """Record what the ledger of this process confirms, if HISTORY names a file."""
    if HISTORY in os.environ:
        hooks.install({"anon_tune.ledger.ledger": _wrap})


class _Open(threading.local):
    """The transaction of this thread: whether there is one, its events, and the time that it has read."""

    is_open = False
    now: Any = None

    def __init__(self) -> None:
        self.events: list[Any] = []


def _wrap(module: ModuleType) -> None:
    from benchmarks.faults import history as h

    path, current = Path(os.environ[HISTORY]), _Open()

    def reported(a: Mapping[str, Any], result: Any) -> h.Event:
        return h.Reported(
            *_fenced(a, current), a["trial_id"], result.step, h.finite(result.value), result.time
        )

    def acquired(_: Mapping[str, Any], lease: Any) -> h.Event | None:
        if lease is None:
            return None
        return h.Acquired(lease.job, lease.token, lease.holder, current.now, lease.seconds)

    confirmed: list[tuple[type, str, Callable[[Mapping[str, Any], Any], h.Event | None]]] = [
        (module.Leases, "acquire", acquired),
        (module.Leases, "claim", acquired),
        (module.Leases, "heartbeat", lambda a, _: h.Renewed(*_fenced(a, current))),
        (module.Attempts, "start", lambda a, n: h.Started(*_fenced(a, current), a["trial_id"], n)),
        (module.Trials, "report", reported),
        (
            module.Trials,
            "finish",
            lambda a, _: h.Ended(
                *_fenced(a, current), a["trial_id"], str(a["state"]), h.finite(a.get("value"))
            ),
        ),
    ]
    _note_times(current)
    _note_commits(module, current, lambda event: h.append(path, event))
    for owner, name, event in confirmed:
        _record(owner, name, event, current, lambda event: h.append(path, event))
    _record_before(
        module.Leases,
        "release",
        lambda a: h.append(path, h.Released(a["lease"].job, a["lease"].token)),
    )


def _fenced(arguments: Mapping[str, Any], current: _Open) -> tuple[str, int, Any]:
    lease = arguments["lease"]
    return lease.job, lease.token, current.now


def _note_times(current: _Open) -> None:
    for name in _TIMED:
        module = importlib.import_module(f"anon_tune.ledger.{name}")
        read = module.database_time

        def database_time(connection: Any, read: Callable[[Any], Any] = read) -> Any:
            current.now = read(connection)
            return current.now

        module.database_time = database_time  # type: ignore[attr-defined]


def _note_commits(module: ModuleType, current: _Open, append: Callable[[Any], None]) -> None:
    """Add the events of a transaction of several operations to the history, once it is committed."""
    begin_write = module.write

    @contextmanager
    def write(*arguments: Any, **keys: Any) -> Iterator[Any]:
        current.is_open, current.events = True, []
        try:
            with begin_write(*arguments, **keys) as connection:
                yield connection
        finally:
            current.is_open = False
        for event in current.events:
            append(event)

    module.write = write  # type: ignore[attr-defined]
    importlib.import_module("anon_tune.ledger.transaction").write = write  # type: ignore[attr-defined]


def _record(
    owner: type,
    name: str,
    event_of: Callable[[Mapping[str, Any], Any], Any],
    current: _Open,
    append: Callable[[Any], None],
) -> None:
    """Record an operation that has succeeded: now, or with the transaction that it is a part of."""
    method = getattr(owner, name)
    signature = inspect.signature(method)

    @functools.wraps(method)
    def wrapper(*arguments: Any, **keys: Any) -> Any:
        result = method(*arguments, **keys)
        event = event_of(signature.bind(*arguments, **keys).arguments, result)
        if event is not None and current.is_open:
            current.events.append(event)
        elif event is not None:
            append(event)
        return result

    setattr(owner, name, wrapper)


def _record_before(owner: type, name: str, record: Callable[[Mapping[str, Any]], None]) -> None:
    """Record that an operation begins."""
    method = getattr(owner, name)
    signature = inspect.signature(method)

    @functools.wraps(method)
    def wrapper(*arguments: Any, **keys: Any) -> Any:
        record(signature.bind(*arguments, **keys).arguments)
        return method(*arguments, **keys)

    setattr(owner, name, wrapper)
