"""Ray: a local one that this process starts, or the cluster at RAY_ADDRESS."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil

from anon_tune.errors import DependencyError
from anon_tune.ray_temp import is_of_a_job, ray_folder
from anon_tune.reachable import check_reachable
from anon_tune.settings import Settings
from anon_tune.workers.driver.hang_watchdog import stacks
from anon_tune.workers.driver.periodic import repeating

__all__ = [
    "ahead",
    "check_node",
    "connected",
    "find_address",
    "load",
    "prepare_environment",
    "stopping_with_node",
]

_REACHABLE_SECONDS = 10.0
_STOP_SECONDS = 15.0  # it takes one, and some on a busy machine
_PROCESSES = {"raylet", "gcs_server"}  # the others end with them
_NEVER_SECONDS = 1e9
_NODE_SECONDS = 2.0  # between two looks whether this machine's node is still running
_LOG_BYTES = 8 * 2**20
_TEMPORARY = "RAY_TMPDIR"
_LATEST = Path("/tmp/ray/ray_current_cluster")  # which `ray start` writes
_QUIET = {"log_to_driver": False, "logging_level": logging.ERROR}

_log = logging.getLogger(__name__)


class _Started(NamedTuple):
    """A local Ray that this process has started.

    Attributes:
        runs: Returns whether its processes are running.
        stopping: Stops it when closed.
    """

    runs: Callable[[], bool]
    stopping: contextlib.ExitStack


_started_ahead: ContextVar[_Started | None] = ContextVar("started_ahead", default=None)


def prepare_environment(settings: Settings) -> None:
    """Set the environment variables that Ray reads when it is imported."""
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    # An interrupt must reach the driver, which pauses the job; Tune would save a state that nobody reads.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = str(_NEVER_SECONDS)  # nor save it while it runs
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # a FAILED trial may have no value to report
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the new one prints its configuration whatever the verbosity
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Its processes log 60 kB a minute even when idle, up to 512 MiB per file by default.
    os.environ.setdefault("RAY_ROTATION_MAX_BYTES", str(_LOG_BYTES))
    os.environ.setdefault("RAY_ROTATION_BACKUP_COUNT", "1")
    if not settings.ray_address:
        # Ray listens on every interface: without a token anybody on the network could run code here.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def load() -> None:
    """Import the modules that `workers.driver.job.drive` needs before a trial, which takes seconds.

    Call it after Ray's start, whose processes continue to start meanwhile, but never in a thread beside it: Ray
    forks, and a process that forks while one of its threads loads such libraries may hang.
    """
    for name in ("driver.job_run", "driver.tune_adapters", "trial.trainable"):
        importlib.import_module(f"anon_tune.workers.{name}")


@contextlib.contextmanager
def ahead(settings: Settings) -> Iterator[None]:
    """Start a local Ray before there is work for it.

    The next `connected` takes it over and stops it; otherwise it stops at the end of the block. A shared cluster is
    not connected to ahead of time.
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
def connected(settings: Settings, working_folder: Path | None = None) -> Iterator[Callable[[], bool]]:
    """Connect to Ray until the end of the block: the one started ahead, a new local one, or a cluster.

    Yields a function that returns whether a local Ray is still running. If its raylet was killed, Ray continues as if
    nothing had happened, and ends this process after a dozen seconds.

    Args:
        settings: Settings, which name the cluster.
        working_folder: Folder that a cluster takes to its nodes as the working directory of all its processes.

    Raises:
        DependencyError: The cluster does not answer or does not accept the token, or this machine is none of its
            nodes or has other versions.
    """
    started = _started_ahead.get()
    _started_ahead.set(None)
    if started is not None:
        if started.runs():
            with started.stopping.pop_all():
                yield started.runs
            return
        _log.warning("the Ray that was started ahead has ended; starting another one")
        started.stopping.close()
    with _remote(settings.ray_address, working_folder) if settings.ray_address else _local(settings) as runs:
        yield runs


@contextlib.contextmanager
def _remote(address: str, working_folder: Path | None) -> Iterator[Callable[[], bool]]:
    import ray

    address = find_address(address)
    _check_address(address)
    check_node(address)
    environment = {} if working_folder is None else {"runtime_env": {"working_dir": str(working_folder)}}
    try:
        ray.init(address=address, **environment, **_QUIET)
    except Exception as error:
        raise _explained(error, address) from error
    try:
        yield lambda: True  # Ray reports failures of a cluster
    finally:
        ray.shutdown()


def _explained(error: Exception, address: str) -> Exception:
    """Return an error of the connection to a cluster with what to do, as far as that is known."""
    # With a wrong token Ray's client tries again for a while, and then only says that it failed to connect.
    if "InvalidAuthToken" in str(error) or isinstance(error, ConnectionError):
        return DependencyError(
            f"The Ray cluster at RAY_ADDRESS={address} does not accept the token. Set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN to the cluster's token; Ray also reads it from ~/.ray/auth_token."
        )
    if "Version mismatch" in str(error):
        return DependencyError(
            f"The Ray cluster at RAY_ADDRESS={address} has another version of Ray or Python than this machine. "
            f"Install the same versions on all nodes (requirements.lock). {' '.join(str(error).split())}"
        )
    return error


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
                psutil.wait_procs(_kill(), _STOP_SECONDS)  # processes of an interrupted start


@contextlib.contextmanager
def _temporary_folder(folder: Path) -> Iterator[None]:
    """Set Ray's temp directory, for its sockets and logs."""
    before = os.environ.get(_TEMPORARY)
    os.environ[_TEMPORARY] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(_TEMPORARY, None)
        if before is not None:
            os.environ[_TEMPORARY] = before


def _own_processes() -> list[psutil.Process]:
    """Return Ray's processes that this process has started and that are running."""
    found = []
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if process.name() in _PROCESSES and _all_run([process]):
                found.append(process)
    return found


def _all_run(processes: Iterable[psutil.Process]) -> bool:
    """Return whether all processes are running; one whose exit code is still pending has ended."""
    try:
        return all(process.status() != psutil.STATUS_ZOMBIE for process in processes)
    except psutil.NoSuchProcess:
        return False


def _kill() -> list[psutil.Process]:
    """Kill Ray's running processes, and return them."""
    processes = _own_processes()
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    return processes


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def find_address(address: str) -> str:
    """Return the address of a cluster; for "auto" that of a Ray on this machine which no job started for itself.

    Ray itself would take any, also one that another job has started: it refuses the connection, or ends with its job.

    Raises:
        DependencyError: The address is "auto", and no such cluster runs here.
    """
    if address != "auto":
        return address
    found = [address for _, address in _raylets() if address]
    latest = _LATEST.read_text().strip() if _LATEST.exists() else None
    if latest in found:
        return latest
    if not found:
        raise DependencyError(
            "RAY_ADDRESS=auto finds no Ray cluster on this machine; the Rays of running jobs do not count. Start one "
            "(ray start --head), give its host:port, or unset RAY_ADDRESS: each job then starts its own Ray."
        )
    return found[0]


def _raylets() -> Iterator[tuple[psutil.Process, str]]:
    """Yield the nodes on this machine with their clusters' addresses, of all users, but the private ones of jobs."""
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] != "raylet":
            continue
        given = dict(part.partition("=")[::2] for part in process.info["cmdline"] or ())
        address, temporary = given.get("--gcs-address"), given.get("--temp_dir")
        if address and not (temporary and is_of_a_job(Path(temporary))):
            yield process, address


def check_node(address: str) -> None:
    """Check that this machine is a node of a cluster: Ray drives trials from there alone.

    Raises:
        DependencyError: It is not.
    """
    if _node(address) is None:
        raise DependencyError(
            f"This machine is not a node of the Ray cluster at RAY_ADDRESS={address}, and jobs can be driven from a "
            f"node only. Run the worker on one, or make this machine one: ray start --address={address} --num-cpus=0 "
            "(without CPUs it trains nothing)."
        )


@contextlib.contextmanager
def stopping_with_node(address: str, stop: threading.Event) -> Iterator[None]:
    """Set `stop` once this machine is no longer a node of a cluster: a worker there could only break its jobs.

    Raises:
        DependencyError: It is no node, at the start or at the end of the block.
    """
    address = find_address(address)
    check_node(address)
    node = _node(address)

    def look() -> bool:
        nonlocal node
        if node is None or not _all_run([node]):
            node = _node(address)  # it may have been started again
        if node is None:
            _log.error("this machine's Ray node has ended; no more jobs are claimed")
            stop.set()
        return node is not None

    with repeating(look, _NODE_SECONDS, "ray-node"):
        yield
    if node is None:
        check_node(address)


def _node(address: str) -> psutil.Process | None:
    """Return the raylet on this machine of the cluster at an address; None if there is none."""
    wanted = _resolved(address)
    return next((process for process, other in _raylets() if wanted & _resolved(other)), None)


def _resolved(address: str) -> set[tuple[str, str]]:
    """Return the addresses and port that an address stands for; this machine's own if it is a loopback address."""
    host, _, port = address.rpartition(":")
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host.strip("[]"), None)}
    except OSError:
        found = {host}
    if any(each == "::1" or each.startswith("127.") for each in found):
        found |= {each.address for interface in psutil.net_if_addrs().values() for each in interface}
    return {(each, port) for each in found}


def _check_address(address: str) -> None:
    """Check that a cluster is reachable; Ray itself would retry for minutes.

    Raises:
        DependencyError: The connection failed.
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
    """Kill Ray's processes if it does not stop in time: it may wait for them for ever."""
    limit = threading.Timer(_STOP_SECONDS, _give_up)
    limit.daemon = True
    limit.start()
    try:
        yield
    finally:
        limit.cancel()


def _give_up() -> None:
    _log.error("Ray does not stop; killing its processes\n%s", stacks())
    _kill()
