"""A real MLflow server: away while a job runs, caught up afterwards, and its pages in a real browser."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from anon_tune.records import JobRecord
from tests.jobs.conftest import Home

pytestmark = pytest.mark.slow

_PATIENCE = 300.0  # a machine may be busy with other work


@pytest.fixture(scope="module")
def address(home: Home) -> Iterator[str]:
    """A real MLflow server with an empty store."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).parent / "mlflow"), "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{home.folder / 'server.db'}"]
    command += ["--artifacts-destination", str(home.folder / "server-artifacts")]
    environment = {**home.environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (home.folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        limit = time.monotonic() + _PATIENCE
        while True:
            try:
                urllib.request.urlopen(f"{url}/health").close()
                break
            except (urllib.error.URLError, ConnectionError):
                assert server.poll() is None, (home.folder / "server.log").read_text()
                assert time.monotonic() < limit
                time.sleep(0.2)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


@pytest.fixture(scope="module")
def job(home: Home, address: str) -> JobRecord:
    """A job that was run while MLflow could not be reached, and written there afterwards."""
    overrides = ("--set", "budget.trials=3", "--set", "confirm.finalists=1")
    nowhere = home.call("run", home.spec(), *overrides, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert nowhere.returncode == 0, nowhere.stderr
    found = home.only_job()
    assert found.mlflow_run is None
    assert f"anon-tune mlflow sync {found.id}" in nowhere.stdout
    refused = home.call("mlflow", "sync", found.id, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert refused.returncode == 6
    assert "Nothing of it is lost" in refused.stderr
    assert "Traceback" not in refused.stderr
    written = home.call("mlflow", "sync", found.id, MLFLOW_TRACKING_URI=address)
    assert written.returncode == 0, written.stderr
    assert written.stdout.startswith(f"{len(found.trials)} trials")
    return home.only_job()


@pytest.fixture
def page() -> Iterator[Page]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs a Chromium browser")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=quiet)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(_PATIENCE * 1000)
        yield page
        browser.close()


def screenshot(page: Page, name: str) -> None:
    """Kept where ANON_TUNE_TEST_SCREENSHOTS says, for a person to look at."""
    folder = os.environ.get("ANON_TUNE_TEST_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def test_job_and_trials_are_shown(page: Page, address: str, job: JobRecord) -> None:
    from mlflow import MlflowClient

    experiment = MlflowClient(address).get_experiment_by_name("anon_tune").experiment_id
    page.goto(f"{address}/#/experiments/{experiment}/runs")
    parent = page.get_by_text(f"{job.name} {job.id}", exact=True).first
    expect(parent).to_be_visible(timeout=_PATIENCE * 1000)
    # Children are folded below their parent until its [+] is pressed.
    child = page.get_by_text(job.trials[-1].id.removeprefix(f"{job.id}-"), exact=True).first
    expect(child).not_to_be_visible()
    page.locator("[role=row]").filter(has=parent).locator("[role=button], button").first.click()
    expect(child).to_be_visible(timeout=_PATIENCE * 1000)
    screenshot(page, "runs")
    page.goto(f"{address}/#/experiments/{experiment}/runs/{job.trials[0].mlflow_run}")
    expect(page.get_by_text(job.trials[0].id).first).to_be_visible(timeout=_PATIENCE * 1000)
    expect(page.get_by_text("val_loss").first).to_be_visible(timeout=_PATIENCE * 1000)
    screenshot(page, "trial")


def test_charts_are_drawn(page: Page, address: str, job: JobRecord) -> None:
    from mlflow import MlflowClient

    experiment = MlflowClient(address).get_experiment_by_name("anon_tune").experiment_id
    page.goto(f"{address}/#/experiments/{experiment}/runs/{job.mlflow_run}/artifacts/charts.html")
    frame = page.frame_locator("iframe").first
    expect(frame.get_by_text("Objective over gamma").first).to_be_visible(timeout=_PATIENCE * 1000)
    expect(frame.locator(".scatterlayer .trace").first).to_be_attached(timeout=_PATIENCE * 1000)
    assert frame.locator(".js-plotly-plot").count() == 3
    screenshot(page, "charts")
