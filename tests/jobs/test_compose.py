"""docker-compose.yml: valid, and its services do together what they are for, run as plain processes."""

from __future__ import annotations

import json
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import torch
import yaml

from anon_tune import Client, load_optimizer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
SECRETS = {
    "POSTGRES_PASSWORD": f"p@ss/w:rd?#%{secrets.token_urlsafe(16)}",
    "ANON_TUNE_ADMIN_TOKEN": secrets.token_urlsafe(32),
    "MLFLOW_ADMIN_PASSWORD": f"a/b@c:{secrets.token_urlsafe(16)}",
    "MLFLOW_SECRET_KEY": secrets.token_urlsafe(16),
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}
JOB = """
name: over-http
task: image_classification
data: digits
model: {name: mlp, width: 16}
budget: {trials: 3, epochs: 1}
search: {sampler: random}
confirm: {finalists: 1, seeds: 1, verdict_seeds: 2}
"""
_PATIENCE_SECONDS = 180.0


def compose(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("needs docker-compose")
    command = [program, "-f", str(COMPOSE), *arguments]
    clean = {key: value for key, value in os.environ.items() if key not in SECRETS}
    return subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, cwd="/")


def configured() -> dict[str, dict[str, Any]]:
    done = compose("config", **SECRETS)
    assert done.returncode == 0, done.stderr
    services: dict[str, dict[str, Any]] = yaml.safe_load(done.stdout)["services"]
    return services


def test_the_file_is_valid_and_published_on_loopback_only():
    services = configured()
    always = {"postgres", "mlflow", "migrate", "service", "ray-head", "worker"}
    assert {name for name, service in services.items() if "profiles" not in service} == always
    assert services["ray-worker"]["profiles"] == ["cpu"]
    assert services["ray-worker-gpu"]["profiles"] == ["gpu"]
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert published
    assert all(str(port).startswith("127.0.0.1:") for port in published)


def test_containers_may_do_no_more_than_they_need():
    services = configured()
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["init"], name
        assert service["mem_limit"], name
        assert service["pids_limit"], name
        assert name == "migrate" or service["healthcheck"]["test"], name
        assert service.get("read_only", False) is not name.startswith("ray-worker"), "user code writes files"
        assert "@sha256:" in service.get("image", "") or "build" in service, name
    devices = services["ray-worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
    assert services["service"]["environment"]["ANON_TUNE_ALLOW_CODE"] == "false"


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_that_is_missing_is_asked_for(name: str):
    done = compose("config", **{key: value for key, value in SECRETS.items() if key != name})
    assert done.returncode != 0
    assert "set it in .env" in done.stderr


_PORTS = ("postgres:5432", "mlflow:5000", "service:8000", "ray-head:6379")


class Stack:
    """The services of the file as processes: its commands and environment, with ports and folders of a test's own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self.ports = {name: _free_port() for name in _PORTS}
        self._services = yaml.safe_load(COMPOSE.read_text())["services"]

    def _here(self, text: str) -> str:
        text = text.replace("$$", "$") if "$$" in text else _interpolated(text)
        for name, port in self.ports.items():
            host, inside = name.split(":")
            text = text.replace(name, f"127.0.0.1:{port}")
            text = re.sub(rf"--port([ =]){inside}\b", rf"--port\g<1>{port}", text)
            text = text.replace(f"127.0.0.1:{inside}", f"127.0.0.1:{port}").replace(
                f"{host}:{inside}", f"127.0.0.1:{port}"
            )
        for inside, outside in (
            ("/var/lib/anon_tune", "home"),
            ("/artifacts", "artifacts"),
            ("/data", "data"),
        ):
            text = re.sub(rf"(?<![\w/]){inside}\b", str(self._folder / outside), text)
        return text.replace("0.0.0.0", "127.0.0.1")

    def _environment(self, name: str) -> dict[str, str]:
        given = {
            key: self._here(str(value)) for key, value in self._services[name].get("environment", {}).items()
        }
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("ANON_TUNE_", "MLFLOW_", "RAY_"))}
        own = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_TMPDIR": str(self._folder / "ray"),
        }
        if "PGHOST" in given:
            own |= {"PGHOST": "127.0.0.1", "PGPORT": str(self.ports["postgres:5432"])}
            own["MLFLOW_AUTH_CONFIG_PATH"] = str(ROOT / "docker" / "mlflow_auth.ini")
        return {**kept, **given, **own}

    def _command(self, command: str | list[str]) -> list[str]:
        if isinstance(command, str):
            return shlex.split(self._here(command))
        return [self._here(part) for part in command]

    def start(self, name: str) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    self._command(self._services[name]["command"]),
                    env=self._environment(name),
                    stdout=log,
                    stderr=log,
                    cwd=self._folder,
                    start_new_session=True,
                )
            )

    def run(self, name: str) -> None:
        """A service that does one thing and ends."""
        done = subprocess.run(
            self._command(self._services[name]["command"]),
            env=self._environment(name),
            capture_output=True,
            text=True,
            cwd=self._folder,
        )
        assert done.returncode == 0, done.stderr

    def is_healthy(self, name: str) -> bool:
        """By the health check of the file."""
        _, program, *arguments = (self._here(part) for part in self._services[name]["healthcheck"]["test"])
        command = [sys.executable if program == "python" else program, *arguments]
        return subprocess.run(command, env=self._environment(name), capture_output=True).returncode == 0

    def until_healthy(self, *names: str) -> None:
        limit = time.monotonic() + _PATIENCE_SECONDS
        while not all(self.is_healthy(name) for name in names):
            ended = [process.args for process in self._processes if process.poll() is not None]
            logs = "".join(log.read_text()[-2000:] for log in self._folder.glob("*.log"))
            assert not ended, logs
            assert time.monotonic() < limit, logs
            time.sleep(0.2)

    def until_logged(self, name: str, text: str) -> None:
        """Start a service and wait for a line; as compose, start it again if it ends, as Ray's does after 30 s."""
        limit, log = time.monotonic() + _PATIENCE_SECONDS, self._folder / f"{name}.log"
        self.start(name)
        while text not in log.read_text():
            if self._processes[-1].poll() is not None:
                self._processes.pop()
                self.start(name)
            assert time.monotonic() < limit, log.read_text()[-2000:]
            time.sleep(0.2)

    def stop(self) -> None:
        for process in self._processes:
            os.killpg(process.pid, signal.SIGTERM)
        for process in self._processes:
            process.wait(60)
        for process in psutil.process_iter(["cmdline"]):  # the worker's node, which its container ends
            if f"--temp_dir={self._folder / 'ray'}" in " ".join(process.info["cmdline"] or ()):
                process.kill()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _interpolated(text: str) -> str:
    def value(found: re.Match[str]) -> str:
        name, kind, other = found["name"], found["kind"], found["other"]
        return SECRETS[name] if kind == ":?" else SECRETS.get(name, other or "")

    return re.sub(r"\$\{(?P<name>\w+)(?:(?P<kind>:[?-])(?P<other>[^}]*))?\}", value, text)


@pytest.fixture
def stack() -> Iterator[Stack]:
    folder = Path(tempfile.mkdtemp(prefix="at"))
    for name in ("home", "artifacts", "data"):
        (folder / name).mkdir()
    found = Stack(folder)
    try:
        yield found
    finally:
        found.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def database(stack: Stack, postgresql_programs: Callable[..., Any]) -> Iterator[None]:
    """PostgreSQL as the image makes it: a user with a password, its database, and what the script adds."""
    port = stack.ports["postgres:5432"]
    with postgresql_programs(f"-c listen_addresses=127.0.0.1 -p {port}") as socket_folder:
        import psycopg

        where = {"host": str(socket_folder), "port": port, "user": "postgres", "autocommit": True}
        with psycopg.connect(**where) as connection:
            connection.execute(
                f"CREATE ROLE anon_tune SUPERUSER LOGIN PASSWORD '{SECRETS['POSTGRES_PASSWORD']}'"
            )
            connection.execute("CREATE DATABASE anon_tune OWNER anon_tune")
            connection.execute((ROOT / "docker" / "mlflow_database.sql").read_text())
        yield


@pytest.mark.usefixtures("database")
def test_a_job_over_http_from_submission_to_training(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stack.run("migrate")
    stack.run("migrate")  # as after `docker compose up` once more
    for name in ("mlflow", "service", "ray-head"):
        stack.start(name)
    stack.until_healthy("mlflow", "service", "ray-head")
    stack.until_logged("ray-worker", "block forever")
    stack.until_logged("worker", "Waiting for jobs")
    server = f"http://127.0.0.1:{stack.ports['service:8000']}"
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("ANON_TUNE_", "MLFLOW_", "RAY_"))},
        "ANON_TUNE_SERVER": server,
        "ANON_TUNE_HOME": str(tmp_path / "nothing"),
    }

    def call(*arguments: str, token: str = SECRETS["ANON_TUNE_ADMIN_TOKEN"], code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "anon_tune", *arguments],
            env={**environment, "ANON_TUNE_TOKEN": token},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stdout[-3000:] + done.stderr
        return done.stdout if code == 0 else done.stderr

    assert "Missing or unknown token" in call("jobs", token="at_forged", code=2)
    mine = call("token", "create", "me").strip()
    (tmp_path / "job.yaml").write_text(JOB)
    job = call("submit", str(tmp_path / "job.yaml"), token=mine).strip()
    seen = [json.loads(line) for line in call("watch", job, "--json").splitlines()]
    assert {"QUEUED", "RUNNING"} & {each["state"] for each in seen}
    assert seen[-1]["state"] == "SUCCEEDED"
    assert seen[-1]["owner"] == "me"
    assert "over-http" in call("show", job)
    assert set(json.loads(call("best", job, "--json"))) == {"anon", "adamw", "sgd"}
    assert len(json.loads(call("trials", job, "--json"))) == 9 + 3 + 6
    call("export", job, "-o", str(tmp_path / "best.yaml"))
    model = torch.nn.Linear(3, 1)
    optimizer = load_optimizer(tmp_path / "best.yaml", model.parameters())
    before = model.weight.detach().clone()
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    assert not torch.equal(before, model.weight)
    # MLflow has it too, by its own server on its own database.
    monkeypatch.setenv("ANON_TUNE_TOKEN", mine)
    with Client(server) as client:
        result = client.result(job)
        assert len(result.trials) == len(client.trials(job)) == 18
        run_id = str(result.job.mlflow_run_id)
    mlflow = f"http://127.0.0.1:{stack.ports['mlflow:5000']}/api/2.0/mlflow/runs/get"
    limit = time.monotonic() + _PATIENCE_SECONDS
    assert httpx2.get(mlflow, params={"run_id": run_id}).status_code == 401
    admin = ("admin", SECRETS["MLFLOW_ADMIN_PASSWORD"])
    while (
        status := httpx2.get(mlflow, params={"run_id": run_id}, auth=admin).json()["run"]["info"]["status"]
    ) != "FINISHED":
        assert status == "RUNNING"  # the projection is written behind
        assert time.monotonic() < limit
        time.sleep(0.2)
    assert not (tmp_path / "nothing").exists()  # all of it went over the network
