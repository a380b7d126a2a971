"""`anon-tune up`: service, worker and MLflow's pages on this machine, as processes that stop together."""

from __future__ import annotations

import contextlib
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

from anon_tune.errors import DependencyError
from anon_tune.reachable import http_client, without_password, without_passwords
from anon_tune.settings import Settings

__all__ = ["run_stack"]

_HOST = "127.0.0.1"
_START_SECONDS = 120.0
_STOP_SECONDS = 45.0
_POLL_SECONDS = 0.2
_LOG_LINES = 15


@dataclass(frozen=True)
class _Part:
    """One process of the stack, and the address at which it answers."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    health: str | None


def run_stack(
    settings: Settings,
    port: int,
    mlflow_port: int,
    jobs: int,
    stop: threading.Event,
    say: Callable[[str], None],
) -> None:
    """Run service, worker and MLflow's pages on loopback until `stop` is set; then end all of them.

    Args:
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
    service = f"http://{_HOST}:{port}"
    with contextlib.ExitStack() as stack:
        anon_tune = [sys.executable, "-m", "anon_tune"]
        parts = [
            _start(
                stack, settings, "service", [*anon_tune, "serve", "--port", str(port)], f"{service}/readyz"
            ),
            _start(stack, settings, "worker", [*anon_tune, "worker", "--jobs", str(jobs)]),
        ]
        pages = without_password(settings.tracking_uri)
        if not pages.startswith(("http://", "https://")):
            pages = f"http://{_HOST}:{mlflow_port}"
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
        say(f"Service  {service}   (its API: {service}/api/v1/docs)")
        say(f"MLflow   {pages}")
        say(f"Logs     {parts[0].log.parent}")
        say(f"Submit from another terminal: anon-tune --server {service} submit examples/digits_cnn.yaml")
        say("Ctrl-C stops everything; running jobs go back to the queue, and nothing is lost.")
        while not stop.wait(_POLL_SECONDS):
            _check(parts)


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
        )
    stack.enter_context(_ended(process))
    return _Part(name, process, log, health)


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
        *(sys.executable, "-m", "mlflow", "server", "--host", _HOST, "--port", str(port), "--workers", "1"),
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
        with socket.create_server((_HOST, port)) as found:
            return int(found.getsockname()[1])
    except OSError as error:
        raise DependencyError(
            f"Cannot listen on {_HOST}:{port} ({error.strerror}). Choose another {option}; 0 takes a free port."
        ) from error
