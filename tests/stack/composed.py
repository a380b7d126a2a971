"""The services of docker-compose.yml as processes: its commands and its environment, without containers.

Ports, folders and addresses are a test's own. Each container has its own way to PostgreSQL, a proxy that can stop
forwarding. The processes of a container are known by a variable of their environment, and end together.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import psycopg
import yaml

from benchmarks.faults.postgres import Postgres
from benchmarks.faults.proxy import Proxy
from benchmarks.faults.recorder import HISTORY

__all__ = ["COMPOSE", "Composed", "alive", "needed_secrets", "until"]

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
PATIENCE_SECONDS = 240.0
_CONTAINER = "ANON_TUNE_TEST_CONTAINER"
_HOOK = "from benchmarks.faults import recorder\nrecorder.install()\n"
_ENDS_SECONDS = 60.0


def until(condition: Callable[[], Any], what: str, explain: Callable[[], str] = str) -> None:
    """Wait for a condition; fail with an explanation after minutes."""
    limit = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < limit, f"waited in vain for {what}: {explain()}"
        time.sleep(0.1)


def needed_secrets() -> list[str]:
    """Return the variables that the file asks for."""
    return sorted(set(re.findall(r"\$\{(\w+):\?", COMPOSE.read_text())))


class Composed:
    """The file's services; each process of them is gone when the context ends.

    Attributes:
        postgres: Its server.
        folder: Folder of logs, volumes and the history.
        secrets: Values of the variables that the file asks for.
    """

    def __init__(self, **variables: str) -> None:
        self.secrets = {name: secrets.token_urlsafe(24) for name in needed_secrets()}
        self._variables = {**variables, **self.secrets}
        self._services = yaml.safe_load(self._interpolated(COMPOSE.read_text()))["services"]
        self._stack = contextlib.ExitStack()
        self._run = secrets.token_hex(8)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._starts: dict[str, int] = {}  # lengths of logs
        self._proxies: dict[str, Proxy] = {}
        self._ports: dict[str, int] = {}

    def __enter__(self) -> Self:
        # Short: Ray keeps sockets below it, whose paths are limited.
        self.folder = Path(tempfile.mkdtemp(prefix="at"))
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        for name in ("home", "artifacts", "data", "hook", "ray"):
            (self.folder / name).mkdir()
        (self.folder / "hook" / "sitecustomize.py").write_text(_HOOK)
        self.history = self.folder / "history.jsonl"
        self._ports = {name: _free_port() for name in ("mlflow:5000", "service:8000", "ray-head:6379")}
        given = self._services["postgres"]["environment"]
        self.postgres = self._stack.enter_context(
            Postgres(given["POSTGRES_USER"], given["POSTGRES_PASSWORD"])
        )
        where = {"host": str(self.postgres.folder), "user": given["POSTGRES_USER"]}
        self._where = {**where, "password": given["POSTGRES_PASSWORD"]}
        with psycopg.connect(**self._where, dbname="postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {given['POSTGRES_DB']}")
            for script in sorted((ROOT / "docker").glob("*.sql")):
                connection.execute(script.read_text())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for proxy in self._proxies.values():
            proxy.heal()
        try:
            for name in reversed(list(self._processes)):
                self.stop(name)
        finally:
            self._stack.close()

    @property
    def database_url(self) -> str:
        """The ledger's address, by the server's socket."""
        user, password = self._where["user"], self._where["password"]
        return f"postgresql+psycopg://{user}:{password}@/anon_tune?host={self.postgres.folder}"

    def address(self, service: str) -> str:
        """Return the address of the service `mlflow` or `service`."""
        (port,) = (port for name, port in self._ports.items() if name.startswith(f"{service}:"))
        return f"http://127.0.0.1:{port}"

    def proxy(self, container: str) -> Proxy:
        """Return the proxy by which a container reaches PostgreSQL."""
        if container not in self._proxies:
            self._proxies[container] = self._stack.enter_context(Proxy(self.postgres.socket))
        return self._proxies[container]

    def start(self, container: str, *more: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a container `SERVICE` or `SERVICE-2`, with more arguments and variables."""
        with self._log(container).open("ab") as log:
            self._starts[container] = log.tell()
            process = subprocess.Popen(
                [*self._command(container), *more],
                env={**self._environment(container), **environment},
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        self._processes[container] = process
        return process

    def run(self, container: str) -> None:
        """Run a service that does one thing and ends."""
        process = self.start(container)
        assert process.wait(PATIENCE_SECONDS) == 0, self.logs()
        del self._processes[container]

    def until_healthy(self, *containers: str) -> None:
        """Wait for the health checks of the file."""
        for container in containers:
            until(lambda c=container: self._is_healthy(c), f"the health of {container}", self.logs)

    def until_logs(self, container: str, text: str) -> None:
        """Wait for a text in a container's log since its last start."""

        def found() -> bool:
            assert self._processes[container].poll() is None, self.logs()
            return text.encode() in self._log(container).read_bytes()[self._starts[container] :]

        until(found, f"{text!r} of {container}", self.logs)

    def processes(self, container: str) -> list[psutil.Process]:
        """Return the processes of a container."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_CONTAINER) == f"{self._run}/{container}":
                    found.append(process)
        return found

    def kill(self, container: str) -> None:
        """Kill all processes of a container at once (SIGKILL)."""
        while left := alive(self.processes(container)):
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=1.0)
        self._processes.pop(container).wait()

    def stop(self, container: str) -> None:
        """Stop a container as Docker does: SIGTERM to its first process, and SIGKILL to all after a while."""
        process = self._processes[container]
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_ENDS_SECONDS)
        self.kill(container)

    def logs(self) -> str:
        """Return the ends of all logs."""
        return "\n".join(
            f"== {path.name}\n{path.read_text(errors='replace')[-3000:]}"
            for path in [*self.folder.glob("*.log"), *self.folder.glob("home/jobs/*/*.log")]
        )

    def _log(self, container: str) -> Path:
        return self.folder / f"{container}.log"

    def _service(self, container: str) -> Any:
        return self._services[re.sub(r"-\d+$", "", container)]

    def _is_healthy(self, container: str) -> bool:
        process = self._processes[container]
        assert process.poll() is None, self.logs()
        _, program, *arguments = (
            self._here(container, p) for p in self._service(container)["healthcheck"]["test"]
        )
        command = [sys.executable if program == "python" else program, *arguments]
        environment = self._environment(container)
        return subprocess.run(command, env=environment, capture_output=True).returncode == 0

    def _command(self, container: str) -> list[str]:
        command = self._service(container)["command"]
        if isinstance(command, str):
            return shlex.split(self._here(container, command))
        return [self._here(container, part) for part in command]

    def _environment(self, container: str) -> dict[str, str]:
        given = self._service(container).get("environment", {})
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("ANON_TUNE_", "MLFLOW_", "RAY_", "PG"))
        }
        return {
            **kept,
            **{key: self._here(container, str(value)) for key, value in given.items()},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": f"{self.folder / 'hook'}:{ROOT}",
            "RAY_TMPDIR": str(self.folder / "ray"),
            HISTORY: str(self.history),
            _CONTAINER: f"{self._run}/{container}",
        }

    def _here(self, container: str, text: str) -> str:
        """Return a text of the file with the ports and folders of this test."""
        ports = {**self._ports, "postgres:5432": self.proxy(container).port}
        for name, port in ports.items():
            host, inside = name.split(":")
            if text in {host, inside}:
                return {host: "127.0.0.1", inside: str(port)}[text]
            text = text.replace(name, f"127.0.0.1:{port}")
            text = re.sub(rf"(--port[ =]|127\.0\.0\.1:|localhost:){inside}\b", rf"\g<1>{port}", text)
        folders = {
            "/var/lib/anon_tune": self.folder / "home",
            "/artifacts": self.folder / "artifacts",
            "/data": self.folder / "data",
            "/opt/anon_tune": ROOT / "docker",
        }
        for inside, outside in folders.items():
            text = re.sub(rf"(?<![\w/]){inside}\b", str(outside), text)
        return text.replace("0.0.0.0", "127.0.0.1").replace("$$", "$")

    def _interpolated(self, text: str) -> str:
        def value(found: re.Match[str]) -> str:
            return self._variables.get(found["name"], found["other"] or "")

        return re.sub(r"\$\{(?P<name>\w+)(?::[?-](?P<other>[^}]*))?\}", value, text)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return those that have not ended."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
