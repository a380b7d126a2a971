"""Findings of `anon-tune doctor`, with their advice."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from anon_tune.api import check_settings
from anon_tune.cli import app
from anon_tune.disk_use import disk_use
from anon_tune.doctor import Finding, Health, _disk_use, examine
from anon_tune.errors import InputError
from anon_tune.settings import Settings
from anon_tune.tracking import EXPERIMENT


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def found(settings: Settings) -> dict[str, Finding]:
    return {finding.what: finding for finding in examine(settings)}


def test_a_healthy_machine_has_everything(settings: Settings):
    findings = found(settings)
    assert set(findings) == {
        "python",
        "torch",
        "gpu",
        "ray",
        "home",
        "database",
        "clock",
        "disk use",
        "mlflow",
    }
    assert all(finding.health is Health.OK or finding.what == "gpu" for finding in findings.values())


def test_disk_use_is_shown_by_kind_and_by_job(settings: Settings):
    for job, size in (("small", 10), ("large", 3000)):
        settings.checkpoints(job).mkdir(parents=True)
        (settings.checkpoints(job) / "1.pt").write_bytes(b"x" * size)
        (settings.job_folder(job) / "job.log").write_bytes(b"x" * 7)
    use = disk_use(settings)
    assert use.by_kind == {"checkpoints": 3010, "logs": 14, "other files of jobs": 0, "temporary folders": 0}
    assert list(use.largest.items()) == [("large", 3007), ("small", 17)]
    findings = {finding.what: finding for finding in _disk_use(settings)}
    assert "checkpoints 2.94 KiB, logs 14 bytes" in findings["disk use"].found
    assert findings["largest jobs"].found.startswith("large 2.94 KiB, small 17 bytes")
    assert "anon-tune delete JOB" in findings["largest jobs"].advice


def test_unavailable_services_are_reported_with_advice(settings: Settings):
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    away = settings.model_copy(
        update={
            "mlflow_tracking_uri": f"http://{nobody}",
            "ray_address": nobody,
            "server": f"http://{nobody}",
        }
    )
    findings = found(away)
    assert findings["mlflow"].health is Health.WARNING  # jobs run without it
    assert findings["ray"].health is Health.FAILED
    assert "RAY_ADDRESS" in findings["ray"].advice
    assert findings["service"].health is Health.FAILED
    assert "anon-tune up" in findings["service"].advice


def test_an_experiment_that_was_deleted_is_reported_with_advice(settings: Settings):
    client = MlflowClient(settings.tracking_uri)
    client.delete_experiment(client.create_experiment(EXPERIMENT))
    finding = found(settings)["mlflow"]
    assert finding.health is Health.WARNING
    assert "mlflow experiments restore --experiment-id 1;" in finding.advice


def test_a_database_that_cannot_be_opened_fails(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    broken = settings.model_copy(update={"database_url": f"sqlite:///{settings.home}"})
    finding = found(broken)["database"]
    assert finding.health is Health.FAILED
    assert "ANON_TUNE_DATABASE_URL" in finding.advice
    monkeypatch.setenv("ANON_TUNE_HOME", str(settings.home))
    monkeypatch.setenv("ANON_TUNE_DATABASE_URL", f"sqlite:///{settings.home}")
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 6
    assert {item["what"]: item["health"] for item in json.loads(result.stdout)}["database"] == "failed"


@pytest.mark.parametrize("address", ["foo", "http://127.0.0.1:8265", "://", "10.0.0.1", "host:port", "local"])
def test_an_invalid_ray_address_is_refused(settings: Settings, address: str):
    wrong = settings.model_copy(update={"ray_address": address})
    assert f"RAY_ADDRESS={address!r} is not the address of a Ray cluster" in found(wrong)["ray"].advice
    with pytest.raises(InputError, match="is not the address of a Ray cluster"):
        check_settings(wrong)


@pytest.mark.parametrize("address", ["auto", "h:6379", "[::1]:6379"])
def test_valid_ray_addresses_are_accepted(settings: Settings, address: str):
    check_settings(settings.model_copy(update={"ray_address": address}))


def test_a_home_that_cannot_be_written_is_named(settings: Settings):
    ledger = f"sqlite:///{settings.home / 'ledger.db'}"
    seen = found(settings.model_copy(update={"home": Path("/proc"), "database_url": ledger}))["home"]
    assert seen.health is Health.FAILED
    assert "/proc cannot be written" in seen.found


def test_ray_client_is_refused_with_what_works(settings: Settings):
    client = settings.model_copy(update={"ray_address": "ray://10.0.0.1:10001"})
    works = "Start the worker on a node of the cluster"
    assert works in found(client)["ray"].advice
    with pytest.raises(InputError, match=works):
        check_settings(client)
