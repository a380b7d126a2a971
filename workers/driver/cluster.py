"""Ray: one of this process's own on this machine, or the cluster at RAY_ADDRESS."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil

from anon_tune.errors import DependencyError
from anon_tune.ray_temp import ray_folder
from anon_tune.reachable import check_reachable
from anon_tune.settings import Settings
from anon_tune.workers.driver.hang_watchdog import stacks

__all__ = [
    "ahead",
    "connected",
    "load",
    "load_statistics",
    "prepare_environment",
]

_REACHABLE_SECONDS = 10.0
_STOP_SECONDS = 15.0  # it takes one, and some on a busy machine
_PROCESSES = {"raylet", "gcs_server"}  # what else there is ends with them
_NEVER_SECONDS = 1e9
_LOG_BYTES = 8 * 2**20
_TEMPORARY = "RAY_TMPDIR"
_QUIET = {"log_to_driver": False, "logging_level": logging.ERROR}

_log = logging.getLogger(__name__)


class _Started(NamedTuple):
    """A Ray of this process's own.

    Attributes:
        runs: Whether its processes still do.
        stopping: What stops it.
    """

    runs: Callable[[], bool]
    stopping: contextlib.ExitStack


_started_ahead: ContextVar[_Started | None] = ContextVar("started_ahead", default=None)


def prepare_environment(settings: Settings) -> None:
    """Set what Ray reads from the environment when it is imported."""
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    # An interrupt must reach the driver, which pauses the job; Tune would save a state that nobody reads.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = str(_NEVER_SECONDS)  # nor what it saves while it runs
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # a FAILED trial may have no value to report
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the new one prints its configuration whatever the verbosity
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Its processes write 60 kB a minute, also where they have nothing to do; and would up to 512 MiB of each file.
    os.environ.setdefault("RAY_ROTATION_MAX_BYTES", str(_LOG_BYTES))
    os.environ.setdefault("RAY_ROTATION_BACKUP_COUNT", "1")
    if not settings.ray_address:
        # Ray listens on every interface: without a token anybody near could run code here.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def load() -> None:
    """Import what `workers.driver.drive` needs before a trial begins, which takes seconds.

    After Ray's start, whose processes go on starting meanwhile, and never beside it: it forks, and a process that
    forks while a thread of it loads such libraries may hang.
    """
    for name in ("driver.job_run", "driver.tune_adapters", "trial.trainable"):
        importlib.import_module(f"anon_tune.workers.{name}")


def load_statistics() -> None:
    """Import what else it needs, while there is nothing else to do: for some suggestions, and for the verdict."""
    importlib.import_module("scipy.stats")


@contextlib.contextmanager
def ahead(settings: Settings) -> Iterator[None]:
    """Have a Ray of this process's own running before there is work for it.

    The next `connected` takes it over and stops it; without one it is stopped at the end of this. A cluster that
    others share is not connected to ahead.
    """
    if settings.ray_address:
        yield
        return
    prepare_environment(settings)
    with contextlib.ExitStack() as stopping:
        before = _started_ahead.set(_Started(stopping.enter_context(_local(settings)), stopping))
        try:
            yield
        finally:
            _started_ahead.reset(before)


@contextlib.contextmanager
def connected(settings: Settings) -> Iterator[Callable[[], bool]]:
    """Ray, until the end of the block: the one started ahead, or one that starts now, or a cluster's.

    Yields a function that tells whether it still runs, if it is this process's own: where its raylet was killed, Ray
    goes on with what is running, as if nothing had happened, and ends this process after a dozen seconds.

    Raises:
        DependencyError: The cluster does not answer, or does not accept the token.
    """
    started = _started_ahead.get()
    _started_ahead.set(None)
    if started is not None:
        if started.runs():
            with started.stopping.pop_all():
                yield started.runs
            return
        _log.warning("the Ray that was started ahead has ended; another one starts")
        started.stopping.close()
    with _remote(settings.ray_address) if settings.ray_address else _local(settings) as runs:
        yield runs


@contextlib.contextmanager
def _remote(address: str) -> Iterator[Callable[[], bool]]:
    import ray

    _check_address(address)
    try:
        ray.init(address=address, **_QUIET)
    except Exception as error:
        if "InvalidAuthToken" not in str(error):
            raise
        raise DependencyError(
            f"The Ray cluster at RAY_ADDRESS={address} does not accept the token. Set "
            "RAY_AUTH_TOKEN to the one that it was started with; Ray looks for it in ~/.ray/auth_token too."
        ) from error
    try:
        yield lambda: True  # what becomes of a cluster's is Ray's to tell
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _local(settings: Settings) -> Iterator[Callable[[], bool]]:
    import ray

    with ray_folder(settings) as folder, _temporary_folder(folder):
        try:
            began = time.monotonic()
            ray.init(address="local", num_cpus=_cpus(), include_dashboard=False, **_QUIET)
            _log.info("Ray started in %.2f s", time.monotonic() - began)
            yield partial(_all_run, _own_processes())
        finally:
            try:
                with _time_limit():
                    ray.shutdown()
            finally:
                psutil.wait_procs(_kill(), _STOP_SECONDS)  # what a start that was interrupted has left


@contextlib.contextmanager
def _temporary_folder(folder: Path) -> Iterator[None]:
    """Let a Ray that this process starts keep its sockets and logs below a folder."""
    before = os.environ.get(_TEMPORARY)
    os.environ[_TEMPORARY] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(_TEMPORARY, None)
        if before is not None:
            os.environ[_TEMPORARY] = before


def _own_processes() -> list[psutil.Process]:
    """Those of Ray that this process has started, and that have not ended."""
    found = []
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if process.name() in _PROCESSES and _all_run([process]):
                found.append(process)
    return found


def _all_run(processes: Iterable[psutil.Process]) -> bool:
    """Whether none has ended, also where nobody has asked for its exit code yet."""
    try:
        return all(process.status() != psutil.STATUS_ZOMBIE for process in processes)
    except psutil.NoSuchProcess:
        return False


def _kill() -> list[psutil.Process]:
    """Kill Ray's processes that still run, and return them."""
    processes = _own_processes()
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    return processes


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_address(address: str) -> None:
    """Knock at a cluster's door, where Ray would write its own log for minutes before it gave up.

    Raises:
        DependencyError: Nothing answers there.
    """
    try:
        check_reachable(address, _REACHABLE_SECONDS)
    except OSError as error:
        raise DependencyError(
            f"No Ray cluster answers at RAY_ADDRESS={address} ({error}). Start one there (ray start --head), or "
            "unset RAY_ADDRESS to run on this machine."
        ) from error


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    """End Ray's processes where it does not stop in time: it may wait for them for ever."""
    limit = threading.Timer(_STOP_SECONDS, _give_up)
    limit.daemon = True
    limit.start()
    try:
        yield
    finally:
        limit.cancel()


def _give_up() -> None:
    _log.error("Ray does not stop; its processes are killed\n%s", stacks())
    _kill()
