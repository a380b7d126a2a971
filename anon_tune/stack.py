"""`anon-tune up`: service, worker and MLflow's pages on this machine, as processes that stop together.

The service has a token from the start, so other users of this machine cannot use it.
"""

from __future__ import annotations

import contextlib
import ctypes
import getpass
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2

from anon_tune.errors import ConflictError, DependencyError
from anon_tune.jobs.links import link_path
from anon_tune.ledger import Ledger
from anon_tune.local_service import HOST, hold, private_file, stored_secret, token_path
from anon_tune.reachable import http_client, without_password, without_passwords
from anon_tune.records import Role, TokenRecord
from anon_tune.settings import Settings

__all__ = ["own_token", "run_stack"]

_START_SECONDS = 120.0
_STOP_SECONDS = 45.0
_POLL_SECONDS = 0.2
_LOG_LINES = 15
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
"""Loaded here, as a process that was just forked should load nothing."""


@dataclass(frozen=True)
class _Part:
    """One process of the stack, and the address at which it answers."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    health: str | None


def run_stack(
    ledger: Ledger,
    settings: Settings,
    port: int,
    mlflow_port: int,
    jobs: int,
    stop: threading.Event,
    say: Callable[[str], None],
) -> None:
    """Run service, worker and MLflow's pages on loopback until `stop` is set; then end all of them.

    Args:
        ledger: Ledger of the service, which gets a token of its own.
        settings: Folders of jobs and logs. With an MLflow server in them, none is started.
        port: Port of the service; 0: any free port.
        mlflow_port: Port of MLflow's pages; 0: any free port.
        jobs: Number of jobs that the worker runs at once.
        stop: Event that the caller sets.
        say: Called with each line to print.

    Raises:
        DependencyError: A port is not available, or one of the processes has ended; the message names it and has the
            end of its log.
    """
    port, mlflow_port = _free(port, "--port"), _free(mlflow_port, "--mlflow-port")
    service = f"http://{HOST}:{port}"
    token = own_token(ledger, settings)
    with contextlib.ExitStack() as stack:
        pages, serves = without_password(settings.tracking_uri), False
        if not pages.startswith(("http://", "https://")):
            pages, serves = f"http://{HOST}:{mlflow_port}", True
        settings = settings.model_copy(update={"mlflow_url": pages, "url": settings.url or service})
        anon_tune = [sys.executable, "-m", "anon_tune"]
        parts = [
            _start(
                stack, settings, "service", [*anon_tune, "serve", "--port", str(port)], f"{service}/readyz"
            ),
            _start(stack, settings, "worker", [*anon_tune, "worker", "--jobs", str(jobs)]),
        ]
        if serves:
            parts.append(_start(stack, settings, "mlflow", _mlflow(settings, mlflow_port), f"{pages}/health"))
        limit = time.monotonic() + _START_SECONDS
        while not all(_answers(part) for part in parts):
            _check(parts)
            if time.monotonic() > limit:
                raise DependencyError(
                    f"Not all processes have started within {_START_SECONDS:.0f} s; see {parts[0].log.parent}."
                )
            if stop.wait(_POLL_SECONDS):
                return
        _check(parts)  # what answers is ours: nobody else has taken the port
        stack.enter_context(hold(settings, port))
        for line in _announcement(service, link_path(ledger, token.id), pages, serves, parts[0].log.parent):
            say(line)
        while not stop.wait(_POLL_SECONDS):
            _check(parts)


def _announcement(service: str, link: str, pages: str, serves: bool, logs: Path) -> Iterator[str]:
    """Yield what `up` says once all parts answer.

    Args:
        service: Address of the service.
        link: Path that signs in once.
        pages: Address of MLflow's pages, without a password.
        serves: Whether `up` runs these pages.
        logs: Folder of the logs.
    """
    yield f"Service  {service}   (its API: {service}/api/v1/docs)"
    yield f"Pages    {service}{link}"
    yield "         (this link signs you in once, within 10 minutes; later: anon-tune open)"
    yield f"MLflow   {pages}"
    if serves:
        yield "         (without a password: every user of this machine can read and change what MLflow has)"
    yield f"Logs     {logs}"
    yield f"Submit from another terminal: anon-tune --server {service} submit examples/digits_cnn.yaml"
    yield "Ctrl-C stops everything; running jobs go back to the queue, and nothing is lost."


def own_token(ledger: Ledger, settings: Settings) -> TokenRecord:
    """Return the admin token that is stored in the home; create and store one if it is missing or was revoked."""
    secret, owner = stored_secret(settings), _user_name()
    if secret is not None:
        with contextlib.suppress(ConflictError):  # it was revoked, or is another user's
            return ledger.tokens.create(owner, Role.ADMIN, secret, may_send_code=True)[0]
    token, secret = ledger.tokens.create(owner, Role.ADMIN, may_send_code=True)
    private_file(token_path(settings), f"{secret}\n")
    return token


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())


def _start(
    stack: contextlib.ExitStack,
    settings: Settings,
    name: str,
    command: Sequence[str],
    health: str | None = None,
) -> _Part:
    folder = settings.home.absolute() / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.log"
    environment = {
        **os.environ,
        "ANON_TUNE_MLFLOW_URL": settings.mlflow_url or "",
        "ANON_TUNE_URL": settings.url or "",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # Not an argument, which all users could see: the URL may hold a password.
        "MLFLOW_BACKEND_STORE_URI": settings.tracking_uri,
    }
    with log.open("ab") as output:
        # In a session of its own: only this process gets Ctrl-C, and it stops the others.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
    stack.enter_context(_ended(process))
    return _Part(name, process, log, health)


def _end_with_parent() -> None:
    """Let this process get SIGTERM when its parent ends without stopping it, by SIGKILL for example; Linux only."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End a process, and the processes that it started, with the context."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _mlflow(settings: Settings, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"),
        *("--default-artifact-root", settings.artifacts.as_uri()),
    ]


def _answers(part: _Part) -> bool:
    if part.health is None:
        return True
    try:
        with http_client(part.health, 2.0) as http:
            return http.get(part.health).is_success
    except httpx2.HTTPError:
        return False


def _check(parts: Sequence[_Part]) -> None:
    for part in parts:
        code = part.process.poll()
        if code is not None:
            lines = part.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
            end = without_passwords("\n".join(f"  | {line}" for line in lines))
            raise DependencyError(f"The {part.name} has exited (code {code}); the end of {part.log}:\n{end}")


def _free(port: int, option: str) -> int:
    try:
        with socket.create_server((HOST, port)) as found:
            return int(found.getsockname()[1])
    except OSError as error:
        raise DependencyError(
            f"Cannot listen on {HOST}:{port} ({error.strerror}). Choose another {option}; 0 takes a free port."
        ) from error
