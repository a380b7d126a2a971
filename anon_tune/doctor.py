"""Checks of `anon-tune doctor`: everything that a job needs, and how to fix what is missing."""

from __future__ import annotations

import datetime
import importlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path

import httpx2

from anon_tune.disk_use import disk_use, in_units
from anon_tune.errors import AnonTuneError, DependencyError
from anon_tune.ledger import Ledger
from anon_tune.reachable import (
    ask_mlflow,
    check_cluster,
    check_reachable,
    http_client,
    without_password,
    without_passwords,
)
from anon_tune.settings import Settings
from anon_tune.tracking import check_experiment, check_uri
from anon_tune.workers.driver import cluster, nodes

__all__ = ["Finding", "Health", "examine"]

_LEAST_FREE_BYTES = 2**30
_LARGEST_SKEW_SECONDS = 2.0
_TIMEOUT_SECONDS = 3.0
_TOKEN_SECONDS = 60.0


class Health(StrEnum):
    """Status of a check."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Finding:
    """Result of one check, and how to fix it ("" if there is nothing to do)."""

    what: str
    health: Health
    found: str
    advice: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield the finding of each check as soon as it is known."""
    yield _python()
    yield from _guarded("torch", _torch)
    yield from _guarded("ray", lambda: _ray(settings))
    yield from _guarded("home", lambda: _home(settings))
    yield from _guarded("database", lambda: _database(settings))
    yield from _guarded("disk use", lambda: _disk_use(settings))
    yield from _guarded("mlflow", lambda: _mlflow(settings))
    if settings.server is not None:
        yield from _guarded("service", lambda: _service(settings.server or ""))


def _guarded(what: str, examined: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from examined()
    except AnonTuneError as error:
        yield Finding(what, Health.FAILED, "cannot be used", str(error))
    except Exception as error:  # noqa: BLE001 - any error of a library is the finding
        reason = without_passwords(f"{type(error).__name__}: {error}")
        yield Finding(what, Health.FAILED, reason, "Reinstall it: make install")


def _python() -> Finding:
    return Finding("python", Health.OK, f"{platform.python_version()} ({sys.executable})")


def _torch() -> Iterator[Finding]:
    torch = importlib.import_module("torch")
    yield Finding("torch", Health.OK, f"{torch.__version__}, {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        yield Finding("gpu", Health.OK, names)
    else:
        built = torch.version.cuda
        yield Finding(
            "gpu",
            Health.OK if built is None else Health.WARNING,
            "none: trials run on CPU"
            + ("" if built is None else f", though torch was built for CUDA {built}"),
            "" if built is None else "If there is a GPU, check its driver: nvidia-smi",
        )


def _ray(settings: Settings) -> Iterator[Finding]:
    importlib.import_module("ray.tune")
    address = settings.ray_address
    if address is None:
        yield Finding("ray", Health.OK, f"{version('ray')}, each job starts Ray on this machine")
        return
    check_cluster(address)
    try:
        there = cluster.find_address(address)
        check_reachable(there, _TIMEOUT_SECONDS)
    except OSError as error:
        advice = "Start it: ray start --head; or correct RAY_ADDRESS; without it each job starts its own Ray."
        yield Finding("ray", Health.FAILED, f"cluster {address} does not answer ({error})", advice)
    else:
        yield Finding("ray", Health.OK, f"{version('ray')}, cluster {there} answers")
        yield from _guarded("nodes", lambda: _nodes(settings, there))


def _nodes(settings: Settings, address: str) -> Iterator[Finding]:
    """Yield the findings about a cluster, from a task on each node that trains."""
    cluster.prepare_environment(settings)
    with cluster.connected(settings):
        found = [node for node in nodes.nodes() if node.trains]
        seen = nodes.look_at(found, settings.home.absolute())
    if not found:
        advice = f"Start one: ray start --address={address} on another machine. Jobs wait for it."
        yield Finding("nodes", Health.WARNING, "no node has CPUs", advice)
        return
    for each in seen:
        if each.error is not None:
            advice = "Look at the logs of Ray there, and start it again."
            yield Finding("nodes", Health.WARNING, f"{each.node.address}: {each.error}", advice)
    problems = (
        nodes.version_problem(seen, nodes.versions_here()),
        nodes.storage_problem(seen, settings.home.absolute()),
    )
    for problem in filter(None, problems):
        what, _, advice = problem.partition(". ")
        yield Finding("nodes", Health.FAILED, what, advice)
    if not any(problems):
        cpus, gpus = (sum(node.resources.get(name, 0) for node in found) for name in ("CPU", "GPU"))
        yield Finding(
            "nodes", Health.OK, f"{len(found)} that train, {cpus:g} CPUs, {gpus:g} GPUs, one version"
        )
    yield _token(address)


def _token(address: str) -> Finding:
    """Return whether the cluster asks for a token, by a request without one."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    done = subprocess.run(
        [Path(sys.executable).with_name("ray"), "health-check", "--address", address],
        env={**variables, "RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        timeout=_TOKEN_SECONDS,
    )
    if done.returncode:
        return Finding("token", Health.OK, "the cluster asks for a token")
    advice = (
        "Who reaches it can run any code. Start Ray on all nodes with RAY_AUTH_MODE=token and RAY_AUTH_TOKEN."
    )
    return Finding("token", Health.WARNING, "the cluster asks for no token", advice)


def _home(settings: Settings) -> Iterator[Finding]:
    settings.make_home()
    try:
        tempfile.TemporaryFile(dir=settings.home).close()
    except OSError as error:
        advice = "Make it writable, or set ANON_TUNE_HOME to a folder that is."
        yield Finding("home", Health.FAILED, f"{settings.home} cannot be written ({error.strerror})", advice)
        return
    free = shutil.disk_usage(settings.home).free
    found = f"{settings.home}, {free / 2**30:.1f} GiB free"
    if free < _LEAST_FREE_BYTES:
        yield Finding(
            "home", Health.WARNING, found, "Checkpoints need space: free some, or set ANON_TUNE_HOME."
        )
    else:
        yield Finding("home", Health.OK, found)


def _database(settings: Settings) -> Iterator[Finding]:
    ledger = Ledger.open(settings.ledger_url)  # upgrades the schema, or raises an error with the reason
    try:
        there = ledger.overviews.time()
        jobs = sum(ledger.overviews.counts()["jobs"].values())
    finally:
        ledger.close()
    kind = settings.ledger_url.partition(":")[0]
    yield Finding("database", Health.OK, f"{kind}, up to date, {jobs} jobs")
    skew = abs((there - datetime.datetime.now(datetime.UTC)).total_seconds())
    if skew > _LARGEST_SKEW_SECONDS:
        advice = (
            "Leases use the database's clock, so nothing breaks; set this machine's clock so that logs agree."
        )
        yield Finding("clock", Health.WARNING, f"{skew:.0f} s off the database's", advice)
    else:
        yield Finding("clock", Health.OK, "agrees with the database's")


def _disk_use(settings: Settings) -> Iterator[Finding]:
    ledger = Ledger.open(settings.ledger_url)
    try:
        stored, code = ledger.overviews.size(), ledger.archives.size()
    finally:
        ledger.close()
    use = disk_use(settings)
    parts = {"ledger": stored, "code in it": code, **use.by_kind}
    found = ", ".join(f"{name} {in_units(size)}" for name, size in parts.items())
    yield Finding("disk use", Health.OK, found)
    if use.largest:
        largest = ", ".join(f"{job} {in_units(size)}" for job, size in use.largest.items())
        yield Finding(
            "largest jobs", Health.OK, f"{largest} in files", "anon-tune delete JOB deletes one for good"
        )


def _mlflow(settings: Settings) -> Iterator[Finding]:
    check_uri(settings.tracking_uri)
    try:
        is_server = ask_mlflow(settings.tracking_uri, _TIMEOUT_SECONDS)
    except OSError as error:
        advice = "Jobs run without it and catch up later: start it, or check MLFLOW_TRACKING_URI."
        yield Finding("mlflow", Health.WARNING, f"does not answer ({without_passwords(str(error))})", advice)
        return
    try:
        check_experiment(settings.tracking_uri)
    except DependencyError as error:
        yield Finding("mlflow", Health.WARNING, "jobs cannot be written to it", str(error))
    else:
        found = "the server answers" if is_server else f"{version('mlflow')}, a database"
        yield Finding("mlflow", Health.OK, found)


def _service(server: str) -> Iterator[Finding]:
    shown = without_password(server)
    try:
        with http_client(server, _TIMEOUT_SECONDS) as http:
            http.get("/readyz").raise_for_status()
    except httpx2.HTTPError as error:
        yield Finding(
            "service",
            Health.FAILED,
            f"{shown} does not answer ({without_passwords(str(error))})",
            "Start it: anon-tune up",
        )
    else:
        yield Finding("service", Health.OK, f"{shown} is ready")
