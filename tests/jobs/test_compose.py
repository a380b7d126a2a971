"""docker-compose.yml is valid. `tests/stack` runs its services."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from tests.stack.composed import COMPOSE, needed_secrets

pytestmark = pytest.mark.slow

SECRETS = dict.fromkeys(needed_secrets(), "p@ss/word")


def compose(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("needs docker-compose")
    command = [program, "-f", str(COMPOSE), "--profile", "cpu", "--profile", "gpu", *arguments]
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
