"""A real MLflow server: away while a job runs, killed while it catches up, and its pages in a real browser."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from anon_tune.ledger import Ledger
from anon_tune.records import JobRecord, JobState
from anon_tune.service.app import create_app
from anon_tune.settings import Settings
from benchmarks.jobs import RunningJob
from benchmarks.mlflow_outage import SPEC, differences
from benchmarks.mlflow_server import MlflowServer
from tests.browsers import PATIENCE, screenshot
from tests.jobs.conftest import Home
from tests.serving import serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(home: Home) -> Iterator[MlflowServer]:
    """A real MLflow server with an empty store."""
    with MlflowServer(home.folder) as started:
        yield started


@pytest.fixture
def address(server: MlflowServer) -> str:
    return server.url


@pytest.fixture(scope="module")
def pages(home: Home, server: MlflowServer) -> Iterator[str]:
    """The address of our own pages, which are open to this machine."""
    settings = Settings(home=home.folder, mlflow_url=server.url)
    ledger = Ledger.open(settings.ledger_url)
    with serving(create_app(ledger, settings, on_loopback=True)) as address:
        yield address
    ledger.close()


@pytest.fixture(scope="module")
def job(home: Home, server: MlflowServer, pages: str) -> JobRecord:
    """A job that was run while MLflow could not be reached, and written there afterwards."""
    overrides = ("--set", "budget.trials=3", "--set", "confirm.finalists=1")
    nowhere = home.call("run", home.spec(), *overrides, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert nowhere.returncode == 0, nowhere.stderr
    found = home.only_job()
    assert found.mlflow_run is None
    assert f"anon-tune mlflow sync {found.id}" in nowhere.stdout
    refused = home.call("mlflow", "sync", found.id, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert refused.returncode == 6
    assert "Nothing is lost" in refused.stderr
    assert "Traceback" not in refused.stderr
    written = home.call("mlflow", "sync", found.id, MLFLOW_TRACKING_URI=server.url, ANON_TUNE_URL=pages)
    assert written.returncode == 0, written.stderr
    assert written.stdout.startswith(f"{len(found.trials)} trials")
    return home.only_job()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_page(viewport={"width": 1400, "height": 1000}) as opened:
        opened.set_default_timeout(PATIENCE)
        yield opened


def test_job_and_trials_are_shown(page: Page, address: str, job: JobRecord) -> None:
    from mlflow import MlflowClient

    experiment = MlflowClient(address).get_experiment_by_name("anon_tune").experiment_id
    page.goto(f"{address}/#/experiments/{experiment}/runs")
    parent = page.get_by_text(f"{job.name} {job.id}", exact=True).first
    expect(parent).to_be_visible(timeout=PATIENCE)
    # Children are folded below their parent until its [+] is pressed.
    child = page.get_by_text(job.trials[-1].id.removeprefix(f"{job.id}-"), exact=True).first
    expect(child).not_to_be_visible()
    page.locator("[role=row]").filter(has=parent).locator("[role=button], button").first.click()
    expect(child).to_be_visible(timeout=PATIENCE)
    screenshot(page, "runs")
    page.goto(f"{address}/#/experiments/{experiment}/runs/{job.trials[0].mlflow_run}")
    expect(page.get_by_text(job.trials[0].id).first).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_text("val_loss").first).to_be_visible(timeout=PATIENCE)
    screenshot(page, "trial")


RUNS = "runs?workflowType=machine_learning"
LOSS_AND_GAMMA = f"{RUNS}&viewStateShareKey=anon_tune"


def runs_page(page: Page, address: str, view: str) -> None:
    from mlflow import MlflowClient

    experiment = MlflowClient(address).get_experiment_by_name("anon_tune").experiment_id
    page.goto(f"{address}/#/experiments/{experiment}/{view}")


def test_loss_and_gamma_of_jobs_are_one_click_away(page: Page, address: str, job: JobRecord) -> None:
    runs_page(page, address, LOSS_AND_GAMMA)
    row = page.locator("[role=row]").filter(has=page.get_by_text(f"{job.name} {job.id}", exact=True))
    expect(row.first).to_be_visible(timeout=PATIENCE)
    for column in ("objective", "gamma"):
        expect(page.get_by_role("columnheader", name=column).first).to_be_visible(timeout=PATIENCE)
    assert job.answer is not None
    shown = repr(job.answer.gamma.best).removesuffix(".0")
    gamma = page.get_by_role("gridcell", name=shown, exact=True)
    expect(gamma.first).to_be_visible(timeout=PATIENCE)
    screenshot(page, "loss_and_gamma")


def test_the_description_of_a_job_is_its_report(page: Page, address: str, job: JobRecord) -> None:
    page.goto(f"{address}/#/runs/{job.mlflow_run}")  # the address that is printed
    page.get_by_text("Show more").first.click()
    for title in ("Gamma", "Anon against the others", "What to do next"):
        expect(page.get_by_role("heading", name=title, exact=True)).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_text("trials_done")).to_be_visible(timeout=PATIENCE)
    screenshot(page, "job_run")


def test_links_lead_from_our_page_to_mlflows_and_back(page: Page, pages: str, job: JobRecord) -> None:
    page.goto(f"{pages}/jobs/{job.id}")
    page.get_by_role("link", name="Open in MLflow").click()
    back = page.get_by_role("link", name="Open the job's page").first
    expect(back).to_be_visible()
    page.goto(str(back.get_attribute("href")))
    expect(page).to_have_url(f"{pages}/jobs/{job.id}")
    expect(page.get_by_role("heading", name=job.name)).to_be_visible()


def test_the_objective_comes_before_what_is_about_the_optimizer(
    page: Page, address: str, job: JobRecord
) -> None:
    runs_page(page, address, f"runs/{job.trials[0].mlflow_run}/model-metrics?workflowType=machine_learning")
    sections = page.get_by_test_id("experiment-view-compare-runs-section-header")
    expect(sections.nth(1)).to_contain_text("optimizer", timeout=PATIENCE)
    expect(sections.first).to_contain_text("objective")
    screenshot(page, "trial_metrics")


def choose(page: Page, axis: str, name: str) -> None:
    """Choose an axis of a plot."""
    page.locator(f"#{axis}-axis-selector:visible, #{axis}axis-selector:visible").click()
    page.get_by_role("option", name=name, exact=True).first.click()


def test_the_plots_of_trials_work_as_the_docs_say(page: Page, address: str, job: JobRecord) -> None:
    """docs/mlflow.md, "Plots of a job's trials"."""
    runs_page(page, address, LOSS_AND_GAMMA)
    wanted = (
        f"tags.anon_tune.job = '{job.id}' and tags.anon_tune.arm = 'anon' and tags.anon_tune.phase = 'search'"
    )
    parent = page.locator("[role=row]").filter(has=page.get_by_text(f"{job.name} {job.id}", exact=True))
    expect(parent.first).to_be_visible(timeout=PATIENCE)  # or the page would forget the filter
    page.get_by_placeholder("metrics.rmse").fill(wanted)
    page.keyboard.press("Enter")
    found = sum(trial.arm == "anon" and trial.phase == "search" for trial in job.trials)
    expect(page.get_by_text(f"{found + 1} matching runs")).to_be_visible(
        timeout=PATIENCE
    )  # and the job itself
    parent.locator("[role=button], button").first.click()
    expect(page.get_by_text("anon-s000", exact=True).first).to_be_visible(timeout=PATIENCE)
    for row, held in ((1, False), (found, True)):
        box = page.locator(f"[row-index='{row}'] .ag-checkbox-input").first
        box.click(modifiers=["Shift"] if held else [])
    page.get_by_test_id("runs-compare-button").click()
    expect(page.get_by_text(f"Comparing {found} Runs")).to_be_visible(timeout=PATIENCE)
    expect(page.locator(".parcoords").first).to_be_attached(timeout=PATIENCE)
    screenshot(page, "parallel_coordinates")
    page.get_by_role("tab", name="Scatter Plot").click()
    for axis, name in (("x", "gamma"), ("y", "objective")):
        choose(page, axis, name)
    expect(page.locator(".js-plotly-plot .xtitle:visible")).to_have_text("gamma", timeout=PATIENCE)
    expect(page.locator(".js-plotly-plot .ytitle:visible")).to_have_text("objective", timeout=PATIENCE)
    screenshot(page, "scatter")
    page.get_by_role("tab", name="Contour Plot").click()
    for axis, name in (("x", "gamma"), ("y", "step_size"), ("z", "objective")):
        choose(page, axis, name)
    expect(page.locator(".contourlayer .contour").first).to_be_attached(timeout=PATIENCE)
    screenshot(page, "contour")


def test_charts_are_drawn(page: Page, address: str, job: JobRecord) -> None:
    from mlflow import MlflowClient

    experiment = MlflowClient(address).get_experiment_by_name("anon_tune").experiment_id
    page.goto(f"{address}/#/experiments/{experiment}/runs/{job.mlflow_run}/artifacts/charts.html")
    frame = page.frame_locator("iframe").first
    expect(frame.get_by_text("How the result depends on gamma").first).to_be_visible(timeout=PATIENCE)
    expect(frame.locator(".scatterlayer .trace").first).to_be_attached(timeout=PATIENCE)
    assert frame.locator(".chart").count() >= 8  # each is drawn when it is seen
    screenshot(page, "charts")


def test_a_server_that_is_killed_twice_has_in_the_end_what_the_ledger_has(
    server: MlflowServer,
) -> None:
    # Short: Ray keeps sockets below it, whose paths are limited.
    folder = Path(tempfile.mkdtemp(prefix="at"))
    running = RunningJob(folder, SPEC.format(trials=30), MLFLOW_TRACKING_URI=server.url)

    def counts() -> tuple[int, int]:
        """Trials that have ended, and those that have a run."""
        trials = running.job().trials
        return sum(t.is_finished for t in trials), sum(t.mlflow_run is not None for t in trials)

    try:
        running.until(lambda: bool(running.ledger.overviews.jobs()) and counts()[1] > 0)
        server.stop(signal.SIGKILL)
        ended, known = counts()
        running.until(lambda: counts()[0] > ended + 2)  # training goes on
        server.start()
        running.until(lambda: counts()[1] > known)  # it catches up
        server.stop(signal.SIGKILL)
        server.start()
        running.wait()
        synced = running.sync()
        assert synced.returncode == 0, synced.stderr
        assert running.job().state is JobState.SUCCEEDED
        assert differences(running.job(), server.url) == []
    finally:
        running.close()
        shutil.rmtree(folder, ignore_errors=True)
