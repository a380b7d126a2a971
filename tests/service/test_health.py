"""Health and figures."""

from __future__ import annotations

import dataclasses
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from anon_tune.ledger import Ledger
from anon_tune.records import WorkerKind
from anon_tune.service.app import create_app
from anon_tune.service.server import DATABASE_SECONDS
from anon_tune.settings import Settings
from anon_tune.spec import parse_spec
from tests.databases import Server, frozen
from tests.ledger.test_workers import NEW
from tests.service.conftest import SPEC, Serve
from tests.service.test_jobs import problem
from tests.serving import serving


def test_a_healthy_service_says_so(serve: Serve):
    address = serve()
    assert httpx2.get(f"{address}/healthz").json()["status"] == "ok"
    ready = httpx2.get(f"{address}/readyz")
    assert ready.status_code == 200
    assert ready.json() == {
        "ready": True,
        "database": "ok",
        "workers": 0,
        "mlflow": "a database",
        "ray": "started for each job",
    }


def test_workers_are_counted(serve: Serve, ledger: Ledger):
    address = serve()
    assert 'anon_tune_workers{state="idle"} 0.0' in httpx2.get(f"{address}/metrics").text
    ledger.workers.heartbeat(NEW)
    ledger.workers.heartbeat(dataclasses.replace(NEW, id="w2", kind=WorkerKind.RUN))
    assert httpx2.get(f"{address}/readyz").json()["workers"] == 1, "the other one takes no jobs"
    text = httpx2.get(f"{address}/metrics").text
    for line in ('{state="idle"} 2.0', '{state="busy"} 0.0', '{state="lost"} 0.0'):
        assert f"anon_tune_workers{line}" in text


def test_mlflow_and_ray_may_be_away(serve: Serve, settings: Settings):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = taken.getsockname()[1]
    away = settings.model_copy(
        update={"mlflow_tracking_uri": f"http://127.0.0.1:{nobody}", "ray_address": f"127.0.0.1:{nobody}"}
    )
    ready = httpx2.get(f"{serve(settings=away)}/readyz")
    assert ready.status_code == 200
    assert ready.json() == {
        "ready": True,
        "database": "ok",
        "workers": 0,
        "mlflow": "unreachable",
        "ray": "unreachable",
    }


def test_without_its_database_it_is_not_ready(
    serve: Serve, ledger: Ledger, settings: Settings, caplog: pytest.LogCaptureFixture
):
    address = serve()
    ledger.close()  # a connection that is open would still have the file
    for file in settings.home.glob("ledger.db*"):
        file.unlink()
    (settings.home / "ledger.db").mkdir()
    ready = httpx2.get(f"{address}/readyz")
    assert (ready.status_code, ready.json()["ready"], ready.json()["database"]) == (503, False, "unreachable")
    assert ready.json()["workers"] is None
    assert httpx2.get(f"{address}/healthz").status_code == 200
    for answer in (
        httpx2.get(f"{address}/api/v1/jobs"),
        httpx2.post(f"{address}/api/v1/jobs/nojob:pause"),
    ):
        problem(answer, 503)
        assert answer.json()["type"] == "urn:anon-tune:DependencyError"
        assert str(settings.home) not in answer.text, "whoever asks is not told where the database is"
    assert f"{settings.ledger_url} cannot be read" in caplog.text


@pytest.mark.slow
def test_while_its_database_is_frozen_it_is_not_ready_and_answers(
    postgresql_programs: Server, settings: Settings
):
    """More requests than it has threads: none waits for those before it."""
    with postgresql_programs("-c listen_addresses=''") as folder:
        ledger = Ledger.open(f"postgresql+psycopg://postgres@/postgres?host={folder}", DATABASE_SECONDS)
        with serving(create_app(ledger, settings, on_loopback=True)) as address:

            def ask(path: str) -> httpx2.Response:
                return httpx2.get(f"{address}/{path}", timeout=120)

            assert ask("readyz").status_code == 200
            with frozen(folder), ThreadPoolExecutor(12) as together:
                answers = list(together.map(ask, ["readyz", "api/v1/jobs"] * 6))
            assert {answer.status_code for answer in answers} == {503}
            assert {answer.json().get("database", "unreachable") for answer in answers} == {"unreachable"}
            assert all(answer.headers.get("Retry-After") for answer in answers if "title" in answer.json())
            limit = time.monotonic() + 120
            while ask("readyz").status_code != 200:
                assert time.monotonic() < limit, "it does not come back"
                time.sleep(0.1)
        ledger.close()


def test_metrics_count_requests_jobs_and_trials(serve: Serve, ledger: Ledger):
    address = serve()
    ledger.jobs.create("x", parse_spec(SPEC).model_dump(mode="json"), {})
    httpx2.get(f"{address}/api/v1/jobs/nojob")
    text = httpx2.get(f"{address}/metrics").text
    assert 'anon_tune_jobs{state="QUEUED"} 1.0' in text
    line = 'anon_tune_requests_total{method="GET",route="/jobs/{job_id}",status="404"} 1.0'
    assert line in text
    problem(httpx2.post(f"{address}/metrics"), 405)
    for number in range(3):
        httpx2.request(f"WORD{number}", f"{address}/healthz")
    assert "WORD" not in httpx2.get(f"{address}/metrics").text  # each would be kept for good
