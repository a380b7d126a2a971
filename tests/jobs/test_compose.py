"""docker-compose.yml is valid. `tests/stack` runs its services."""

from __future__ import annotations

import os
import shutil
import subprocess

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


def test_the_file_is_valid_and_published_on_loopback_only():
    done = compose("config", **SECRETS)
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    nodes = {"ray-head", "ray-worker", "ray-worker-gpu"}
    assert set(services) == {"postgres", "mlflow", "migrate", "service", "worker", *nodes}
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert published
    assert all(str(port).startswith("127.0.0.1:") for port in published)


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_that_is_missing_is_asked_for(name: str):
    done = compose("config", **{key: value for key, value in SECRETS.items() if key != name})
    assert done.returncode != 0
    assert "set it in .env" in done.stderr
